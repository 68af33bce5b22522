"""Trainers with batches to update on, and the time and memory of their updates."""

from __future__ import annotations

import gc
import shlex
import time

import torch

from benchmarks.measuring import MIB, TASK, random_dataset, resident_bytes
from fast_cpu.device_tuning import tune_device
from fast_gpu.graph import WARM_UP
from get_args import parse_args
from replay_buffer import ReplayBuffer, Sampler
from trainer import Trainer

TD3_ODT = "--stoc 0 --use_entropy_reg 0"
SMALL = "--embed_dim 32 --n_layer 2 --n_head 2 --batch_size 8"
# K and precision of the figures that matter most
MAIN = ((20, "bf16"), (1, "fp32"))
EAGER = "--cuda_graphs 0"
# actor updates after which everything is captured
WARM = WARM_UP + 1


def td3_odt(steps: int, precision: str, more: str = "") -> str:
    """Flags of TD3+ODT as published for K = `steps`."""
    interval = f"--num_actor_update_interval {2 if steps == 20 else 1}"
    return f"{TD3_ODT} --K {steps} {interval} --precision {precision} {more}"


class Agent:
    """A trainer in its online phase, with random data of hopper's sizes.

    Args:
        device: Its device. Without a GPU the network and the batch are small.
        flags: Flags of main.py; with --arch, those of recurrent_main.py.
    """

    def __init__(self, device: torch.device, flags: str) -> None:
        self.device, on_gpu = device, device.type == "cuda"
        words = shlex.split(flags if on_gpu else f"{SMALL} {flags}")
        self.settings = parse_args(words, recurrent="--arch" in words)
        tune_device(device, self.settings.precision)
        torch.manual_seed(0)
        self.trainer = Trainer(self.settings, TASK, device)
        self.start_phase()
        self.trainer.nets.actor.train()
        buffer = ReplayBuffer(random_dataset(100 if on_gpu else 5), 1000, 0.001, device)
        self._sample = Sampler(buffer, self.settings.batch_size, self.settings.K)

    def start_phase(self) -> None:
        self.trainer.start_phase(self.settings.actor_rl_coeff, self.settings.actor_sup_coeff)

    def update(self, count: int) -> None:
        """`count` actor updates with their critic updates, as training makes them."""
        interval = self.settings.num_actor_update_interval
        for tick in range(count * interval):
            self.trainer.update_on(self._sample, with_actor=tick % interval == 0)

    def measure(self) -> dict[str, float]:
        """Time and memory of an actor update with its critic updates and batches.

        Returns:
            ms: The best of three loops of updates, each waited for once, at its end.
            host_ms: The part of it until everything was launched. If it is as long as `ms`, the GPU
                waits for the host.
            peak_mib: Memory of the tensors on the GPU; on the CPU, of the process.

        Raises:
            Divergence: a loss is NaN or infinite.
        """
        on_gpu = self.device.type == "cuda"
        gc.collect()  # networks of earlier agents
        if on_gpu:
            torch.cuda.reset_peak_memory_stats(self.device)
        count = 30 if on_gpu else 2
        total, launched = min(self._loop(count) for _ in range(3))
        self.trainer._check_finite()
        peak = torch.cuda.max_memory_allocated(self.device) if on_gpu else resident_bytes("VmHWM")
        figures = {"ms": 1000 * total / count, "host_ms": 1000 * launched / count}
        return figures | {"peak_mib": peak / MIB}

    def _loop(self, count: int) -> tuple[float, float]:
        """Seconds of updates until the device has finished, and until all were launched."""
        self.wait()
        start = time.perf_counter()
        self.update(count)
        launched = time.perf_counter() - start
        self.wait()
        return time.perf_counter() - start, launched

    def wait(self) -> None:
        """Wait for the device."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
