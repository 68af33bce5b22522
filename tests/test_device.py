"""An update never leaves its device, tested without a GPU on PyTorch's meta device.

Meta tensors have a shape, a type and a device but no values. Mixing them with CPU tensors fails, as
does reading a value on the host, which on a GPU would wait for the device at every update.
"""

from dataclasses import replace
from typing import Any

import pytest
import torch

from get_args import Settings
from rl_gradients.on_policy import OnlineBatch, OnPolicyGradient
from tasks import TASKS
from trainer import Trainer
from trajectories import Batch

OBS, ACT, B, K = 4, 2, 6, 5
DEVICE = torch.device("meta")
SMALL = replace(
    Settings(), embed_dim=16, n_layer=1, n_head=2, stoc=0, use_entropy_reg=0, critic_time_aware=1,
    ordering=1,
)  # fmt: skip
OFF_POLICY = replace(SMALL, stoc=1, num_actor_update_interval=1)
VARIANTS = {
    "deterministic": SMALL,
    "normalized coefficient": replace(SMALL, normalized_rl_coeff=1),
    "stochastic": replace(SMALL, stoc=1, use_entropy_reg=1, critic_time_aware=2),
    "RNN critics": replace(SMALL, recurrent=True),
    "LSTM critics": replace(SMALL, recurrent=True, arch="LSTM"),
    "previous policy": replace(SMALL, prev_policy_coeff=0.05),
    "TD3+BC": replace(SMALL, policy="mlp", ordering=0, normalized_rl_coeff=1),
    "DDPG": replace(SMALL, rl_algo="DDPG", num_actor_update_interval=1),
    "SAC": replace(OFF_POLICY, rl_algo="SAC"),
    "AWAC": replace(OFF_POLICY, rl_algo="AWAC", AWAC_soft_flag=2, AWAC_normalize_adv=1),
    "IQL": replace(OFF_POLICY, rl_algo="IQL"),
    "PPO": replace(OFF_POLICY, rl_algo="PPO"),
}


def meta_batch():
    def randn(*shape):
        return torch.randn(*shape, device=DEVICE)

    return Batch(
        states=randn(B, K, OBS),
        next_states=randn(B, K, OBS),
        actions=randn(B, K, ACT).tanh(),
        rewards=randn(B, K),
        dones=randn(B, K),
        rtg=randn(B, K + 1, 1),
        timesteps=torch.zeros(B, K, dtype=torch.int64, device=DEVICE),
        mask=torch.ones(B, K, dtype=torch.bool, device=DEVICE),
        rows=torch.zeros(B, K, dtype=torch.int64, device=DEVICE),
    )


class OnPolicyBatches:
    """Stands in for the buffer of PPO."""

    critic_first = False

    def refresh(self, critic):
        pass

    def sample(self):
        batch = meta_batch()
        extra = dict.fromkeys(("returns", "advantages", "log_probs"), batch.rewards)
        return OnlineBatch(**vars(batch), **extra)


@pytest.mark.parametrize("name", VARIANTS)
def test_an_update_stays_on_the_device_and_reads_nothing_back(name):
    trainer = Trainer(VARIANTS[name], TASKS["maze2d-umaze-v1"], DEVICE)
    trainer.start_phase(0.1, 1.0, VARIANTS[name].prev_policy_coeff)
    on_policy: Any = None
    if isinstance(trainer.algorithm, OnPolicyGradient):
        on_policy = OnPolicyBatches()
    # stops before losses are checked and metrics read
    stop = iter([False, False, True])
    trainer.run_iteration(meta_batch, 10, on_policy=on_policy, stop_requested=stop.__next__)
    logged = trainer._means._sums
    assert {"actor_loss", "rl_loss"} <= {name for names in logged for name in names}
    assert {sums.device for sums in logged.values()} == {DEVICE}


def test_meta_tensors_reject_reads_and_mixed_devices():
    x = torch.randn(3, device=DEVICE)
    with pytest.raises(RuntimeError):
        x.sum().item()
    with pytest.raises(RuntimeError):
        x + torch.zeros(3)
