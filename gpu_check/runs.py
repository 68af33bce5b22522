"""Tiny whole runs of main.py on random data: every algorithm, policy and precision."""

from __future__ import annotations

import json
import math
import os
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from gpu_check.agent import TD3_ODT
from gpu_check.part import ROOT, Part
from run.files import METRICS_FILE
from tasks import get_task

COMMON = (
    "--embed_dim 64 --n_layer 2 --n_head 2 --batch_size 32 --K 5 --eval_context_length 3 --seed 3 "
    "--warmup_steps 10 --log_to_tb 0 --num_updates_per_pretrain_iter 20 --max_online_iters 2 "
    "--num_updates_per_online_iter 20 --num_eval_episodes 2 --eval_interval 1 "
    "--checkpoint_interval 1"
)
ROWS = 3  # one iteration of pretraining, two online
STOCHASTIC = "--stoc 1 --use_entropy_reg 0 --num_actor_update_interval 1"
MLP = "--policy mlp --K 1 --eval_context_length 1 --RL_from_start 1"
# flags by name; those with recurrent critics run recurrent_main.py
RUNS = {
    "TD3+ODT": TD3_ODT,
    "PPO": f"--rl_algo PPO {STOCHASTIC}",
    "TD3+BC, bf16": f"{TD3_ODT} {MLP} --normalized_rl_coeff 1 --precision bf16",
    "LSTM critics": f"{TD3_ODT} --arch LSTM",
    "ODT": "--stoc 1 --use_entropy_reg 1 --actor_rl_coeff 0",
    "stochastic TD3+ODT": "--stoc 1 --use_entropy_reg 1",
    "TD3+ODT, bf16": f"{TD3_ODT} --precision bf16",
    "stochastic TD3+ODT, bf16": "--stoc 1 --use_entropy_reg 1 --precision bf16",
    "TD3+ODT, K = 1": f"{TD3_ODT} --env maze2d-umaze-v1 --K 1 --eval_context_length 1",
    "DDPG": f"--rl_algo DDPG {TD3_ODT} --num_actor_update_interval 1",
    "SAC": f"--rl_algo SAC {STOCHASTIC} --critic_time_aware 1",
    "AWAC": f"--rl_algo AWAC {STOCHASTIC} --AWAC_soft_flag 2 --AWAC_normalize_adv 1",
    "IQL": f"--rl_algo IQL {STOCHASTIC} --critic_time_aware 2",
    "IQL, MLP": f"--rl_algo IQL {STOCHASTIC} {MLP} --actor_optimizer adamw --actor_sup_coeff 0",
    "PPO, recomputed": f"--rl_algo PPO {STOCHASTIC} --PPO_old_logprob_generated_in_training 1",
    "AWR": f"--rl_algo AWR {STOCHASTIC} --AWR_normalize_adv 1",
    "RNN critics": f"{TD3_ODT} --arch RNN",
    "ablations": f"{TD3_ODT} --ordering 1 --prev_policy_coeff 0.05 --jump_start_steps 10 "
    "--delayed_reward 5 --override_layernorm 1 --online_data_mode train",
}
ON_GPU = {
    "TD3+ODT, compiled": f"{TD3_ODT} --compile 1",
    "AWR, compiled": f"--rl_algo AWR {STOCHASTIC} --compile 1",
    "TD3+ODT, tf32": f"{TD3_ODT} --precision tf32",
    "TD3+ODT, without graphs": f"{TD3_ODT} --cuda_graphs 0",
}
QUICK = list(RUNS)[:4]


def trains_as_graphs(name: str) -> bool:
    """Whether a run's updates are CUDA graphs: not with on-policy batches or a previous policy."""
    return not name.startswith(("PPO", "AWR", "ablations"))


def write_data(folder: Path) -> None:
    """Datasets of random rows, in episodes of 40 steps."""
    for name in ("hopper-medium-v2", "maze2d-umaze-v1"):
        task, rng, rows = get_task(name), np.random.default_rng(0), 400
        # small steps, as the loader splits episodes at jumps; maze2d pays 0 or 1
        observations = 0.01 * rng.standard_normal((rows, task.obs_dim), dtype=np.float32)
        rewards = rng.random(rows, dtype=np.float32)
        with h5py.File(folder / f"{name}.hdf5", "w") as file:
            file["observations"] = observations
            file["next_observations"] = np.roll(observations, -1, axis=0)
            file["actions"] = rng.uniform(-1, 1, (rows, task.act_dim)).astype(np.float32)
            file["rewards"] = rewards.round() if task.family == "maze2d" else rewards
            file["terminals"] = np.arange(1, rows + 1) % 40 == 0
            file["timeouts"] = np.zeros(rows, bool)


def command(part: Part, flags: str, run_dir: Path) -> list[str]:
    """The arguments of Python for a run."""
    script = "recurrent_main.py" if "--arch" in flags else "main.py"
    where = ["--device", str(part.device), "--data_dir", str(part.folder), "--run_dir"]
    return [script, *shlex.split(COMMON), *where, str(run_dir), *shlex.split(flags)]


def call(words: Iterable[str], code: int = 0) -> str:
    """Run Python in the project's folder; returns what it wrote to standard error.

    Raises:
        RuntimeError: it ended with another exit code.
    """
    environment = {"OMP_NUM_THREADS": "2"} | os.environ
    done = subprocess.run(
        [sys.executable, *words], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    if done.returncode != code:
        raise RuntimeError(f"exit code {done.returncode}: {done.stderr.strip()[-800:]}")
    return done.stderr


def rows_of(run_dir: Path) -> list[dict[str, Any]]:
    """The logged rows without times."""
    rows = [json.loads(line) for line in (run_dir / METRICS_FILE).read_text().splitlines()]
    return [{k: v for k, v in row.items() if not k.startswith("time/")} for row in rows]


def run(part: Part, name: str, flags: str) -> dict[str, Any]:
    """Check a run's exit code and that its metrics are finite numbers."""
    run_dir = part.folder / name
    stderr = call(command(part, flags, run_dir))
    rows = rows_of(run_dir)
    numbers = [value for row in rows for key, value in row.items() if "/" in key]
    finite = all(isinstance(x, int | float) and math.isfinite(x) for x in numbers)
    if len(rows) != ROWS or not finite:
        raise RuntimeError(f"{len(rows)} of {ROWS} rows, {'all' if finite else 'not all'} finite")
    warnings = [line[:200] for line in stderr.splitlines() if "warning" in line.lower()]
    return {"warnings": warnings[:3]} if warnings else {}


def at_once(part: Part, chosen: dict[str, str], function: Callable[..., dict[str, Any]]) -> None:
    """Call `function(part, name, flags)` for each run, several at a time."""
    write_data(part.folder)
    with ThreadPoolExecutor(min(6, max((os.cpu_count() or 1) // 2, 1))) as pool:
        for name, flags in chosen.items():
            pool.submit(part.item, name, function, part, name, flags)


def check(part: Part) -> None:
    chosen = {name: RUNS[name] for name in QUICK} if part.quick else dict(RUNS)
    if part.on_gpu and not part.quick:
        chosen = ON_GPU | chosen  # first, as compiling takes longest
    at_once(part, chosen, run)
