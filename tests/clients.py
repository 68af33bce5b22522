"""Run public programs for D4RL on these environments: `make clients CLIENTS=FOLDER`.

FOLDER has one checkout per program; missing ones are cloned at the commit listed here. Nothing of
them is part of this repository. Datasets come from D4RL_DATASET_DIR, or are downloaded.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SECONDS = 120


@dataclass(frozen=True)
class Client:
    """A public program.

    Attributes:
        repository, commit: On GitHub.
        command: Arguments of `python -m d4rl_envs`, for a run of seconds.
        needs: Modules that it imports besides d4rl, gym and NumPy.
        endless: Whether it has no option to end after a few steps. It then only has to run for
            `SECONDS`.
    """

    repository: str
    commit: str
    command: str
    needs: str = "torch"
    endless: bool = False

    @property
    def name(self) -> str:
        return self.repository.rpartition("/")[2]


CLIENTS = [
    Client(
        "sfujim/TD3_BC", "8791ad7d7656cb8396f1b3ac8c37f170b2a2dd5f",
        "main.py --env hopper-medium-v2 --max_timesteps 50 --eval_freq 50",
    ),
    Client(
        "gwthomas/IQL-PyTorch", "71ea1aa313bb9d4bc4526bbb1824c9d6f4a46b92",
        "main.py --env-name hopper-medium-v2 --log-dir logs --n-steps 50 --eval-period 50 "
        "--n-eval-episodes 1",
        needs="torch tqdm",
    ),
    Client(
        "hari-sikchi/AWAC", "79297b1dd851f6d19d4816c8dfe0af8293f4204d",
        "run_agent.py --env hopper-medium-v2", needs="torch joblib termcolor", endless=True,
    ),
    Client(
        "tinkoff-ai/CORL", "2b19dd1848bef6922a319901614552e02d74a1eb",
        "algorithms/offline/td3_bc.py --env hopper-medium-v2 --device cpu --max_timesteps 50 "
        "--eval_freq 50 --n_episodes 1",
        needs="torch pyrallis wandb",
    ),
    Client(
        "ikostrikov/implicit_q_learning", "09d700248117881a75cb21f0adb95c6c8a694cb2",
        "train_offline.py --env_name=hopper-medium-v2 --config=configs/mujoco_config.py "
        "--max_steps=20 --eval_interval=20 --eval_episodes=1",
        needs="jax flax optax ml_collections tensorboardX tensorflow_probability",
    ),
    Client(
        "nakamotoo/Cal-QL", "ac6eafec22e8d60836573e1f488c7f626ce8a77e",
        "-m JaxCQL.conservative_sac_main --env=antmaze-umaze-v2 --n_pretrain_epochs=1 "
        "--n_train_step_per_epoch_offline=10 --max_online_env_steps=10 --eval_n_trajs=1",
        needs="jax flax optax distrax ml_collections wandb absl",
    ),
]  # fmt: skip


def checkout(client: Client, folder: Path) -> str:
    """Clone the program unless it is there; returns why it is not available, or ""."""
    path = folder / client.name
    if path.is_dir():
        return ""
    address = f"https://github.com/{client.repository}"
    clone = ["git", "clone", "--quiet", address, str(path)]
    select = ["git", "-C", str(path), "checkout", "--quiet", "--detach", client.commit]
    for command in (clone, select):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            return f"cannot be cloned ({done.stderr.strip().splitlines()[-1]})"
    return ""


def run(client: Client, folder: Path) -> tuple[str, str]:
    """Run a program; returns "ok", "failed" or "skipped", and the details in one line."""
    missing = [name for name in client.needs.split() if importlib.util.find_spec(name) is None]
    if missing:
        return "skipped", f"needs {', '.join(missing)}"
    reason = checkout(client, folder)
    if reason:
        return "skipped", reason
    paths = os.pathsep.join(filter(None, [os.environ.get("PYTHONPATH"), str(ROOT)]))
    began = time.monotonic()
    try:
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-m", "d4rl_envs", *client.command.split()],
            cwd=folder / client.name, capture_output=True, text=True, check=False,
            timeout=SECONDS, env=os.environ | {"PYTHONPATH": paths, "WANDB_MODE": "disabled"},
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return "ok" if client.endless else "failed", f"still running after {SECONDS} s"
    lines = (done.stderr if done.returncode else done.stdout).strip().splitlines()
    last = next((line for line in reversed(lines) if line.strip("- ")), "no output")
    state = "failed" if done.returncode else "ok"
    return state, f"{time.monotonic() - began:.0f} s; {last.strip()[:200]}"


def main() -> int:
    if len(sys.argv) != 2 or not Path(sys.argv[1]).is_dir():
        print("make clients CLIENTS=FOLDER: FOLDER must be a folder for checkouts of the programs: "
              + ", ".join(client.repository for client in CLIENTS), file=sys.stderr)  # fmt: skip
        return 2
    folder = Path(sys.argv[1]).resolve()
    states = []
    for client in CLIENTS:
        state, details = run(client, folder)
        print(f"{client.name}: {state}, {details}", flush=True)
        states.append(state)
    return int("failed" in states)


if __name__ == "__main__":
    sys.exit(main())
