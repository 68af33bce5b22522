"""What a GPU needs, tested without one: no waiting in updates, states on resuming, --compile."""

import shutil

import pytest
import torch

from fast_cpu import device_tuning
from fast_cpu.device_tuning import check_device
from gpu_check.agent import Agent
from gpu_check.runs import RUNS
from gpu_check.waits import NoHostReads, update
from utils import UserError

CUDA, META = torch.device("cuda"), torch.device("meta")
READS = {
    "item": lambda x: x.sum().item(),
    "copy to the host": lambda x: x.cpu(),
    "copy from the host": lambda x: x.copy_(torch.ones(3)),
    "nonzero": lambda x: x.nonzero(),
    "mask": lambda x: x[x > 0],
}


@pytest.mark.parametrize("name", ["TD3+ODT", "ODT", "DDPG", "SAC", "AWAC", "IQL", "IQL, MLP"])
def test_an_update_reads_nothing_on_the_host(name):
    assert update(META, RUNS[name]) == {"waits": 0}


@pytest.mark.parametrize("read", READS)
def test_a_read_on_the_host_is_reported_with_its_line(read):
    with NoHostReads():
        READS[read](torch.ones(3))  # nothing waits for the CPU
        with pytest.raises(RuntimeError, match=r"host waits at tests/test_cuda_readiness.py:\d+ "):
            READS[read](torch.ones(3, device=META))


@pytest.mark.filterwarnings("ignore:.*to a meta parameter")
def test_a_resumed_trainer_keeps_step_counts_on_the_host():
    """On the device, AdamW would read them at each update."""
    flags = f"{RUNS['SAC']} --actor_optimizer adamw"
    before, agent = Agent(torch.device("cpu"), flags), Agent(META, flags)
    before.update(1)
    agent.trainer.load_state_dict(before.trainer.state_dict())
    for optimizer in ("actor_optimizer", "critic_optimizer", "temperature_optimizer"):
        states = getattr(agent.trainer, optimizer).state.values()
        assert states
        for state in states:
            places = {name: x.device.type for name, x in state.items()}
            assert places == {"step": "cpu", "exp_avg": "meta", "exp_avg_sq": "meta"}
    agent.update(1)  # moves the means of the metrics to the device
    with NoHostReads():
        agent.update(1)


@pytest.mark.parametrize(
    ("missing", "message"),
    [
        ("triton", "is not installed"),
        ("compiler", r"no C compiler \(gcc or clang\)"),
        ("CC", r"no C compiler \(/nothing/cc\)"),
        ("header", "no /nothing/Python.h"),
    ],
)
def test_compile_names_what_is_missing(missing, message, monkeypatch):
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setattr(device_tuning.importlib.util, "find_spec", lambda name: name)
    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}")
    check_device(CUDA, "fp32", compiled=True)
    if missing == "triton":
        monkeypatch.setattr(device_tuning.importlib.util, "find_spec", lambda name: None)
    elif missing == "header":
        monkeypatch.setattr(device_tuning.sysconfig, "get_path", lambda *_: "/nothing")
    else:
        monkeypatch.setattr(shutil, "which", lambda name: None)
    if missing == "CC":
        monkeypatch.setenv("CC", "/nothing/cc")
    check_device(CUDA, "fp32", compiled=False)
    with pytest.raises(UserError, match=f"^--compile 1: Triton .*{message}.*, or drop the flag$"):
        check_device(CUDA, "fp32", compiled=True)
