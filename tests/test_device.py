"""The CUDA path, on a machine without CUDA: fake tensors on a fake GPU.

Fake tensors have shapes, types and devices but no values. An operation that mixes devices fails
on them, and so does one that reads a value on the host, which would make the host wait for the
GPU at every update.
"""

from dataclasses import replace

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from envs.tasks import TASKS
from replay_buffer import Batch
from settings import Settings
from trainer import Trainer

OBS, ACT, B, K = 4, 2, 6, 5
SMALL = replace(
    Settings(),
    embed_dim=16,
    n_layer=2,
    n_head=2,
    stoc=0,
    use_entropy_reg=0,
    critic_time_aware=1,
    ordering=1,
)
VARIANTS = {
    "deterministic": SMALL,
    "normalized coefficient": replace(SMALL, normalized_rl_coeff=1),
    "stochastic": replace(SMALL, stoc=1, use_entropy_reg=1, critic_time_aware=2),
    "bf16": replace(SMALL, precision="bf16"),
}


def batch_on(device):
    def randn(*shape):
        return torch.randn(*shape, device=device)

    return Batch(
        states=randn(B, K, OBS),
        next_states=randn(B, K, OBS),
        actions=randn(B, K, ACT).tanh(),
        rewards=randn(B, K),
        dones=torch.zeros(B, K, device=device),
        rtg=randn(B, K + 1, 1),
        timesteps=torch.zeros(B, K, dtype=torch.int64, device=device),
        mask=torch.ones(B, K, dtype=torch.bool, device=device),
    )


@pytest.mark.parametrize("name", VARIANTS)
def test_an_update_stays_on_the_device_and_reads_nothing_back(name):
    with FakeTensorMode():
        with torch.device("cuda"):
            trainer = Trainer(VARIANTS[name], TASKS["maze2d-umaze-v1"], torch.device("cuda"))
        trainer.start_phase(0.1, 1.0)
        trainer.nets.actor.train()
        for _ in range(2):
            trainer.update(batch_on("cuda"), with_actor=True)
        for logged in trainer._logged.values():
            assert {value.device.type for value in logged} == {"cuda"}
        assert trainer.nets.actor.embed_state.weight.device.type == "cuda"


def test_fake_tensors_do_catch_a_read():
    with FakeTensorMode(), pytest.raises(Exception, match="_local_scalar_dense"):
        torch.randn(2, device="cuda").sum().item()
