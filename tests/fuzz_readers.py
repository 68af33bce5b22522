"""Damage files of every kind that this program reads, and read them.

    python -m tests.fuzz_readers [--kind KIND ...] [--seed 0] [--count 1000]

Each file is a small valid one with random damage: bytes changed, cut out, repeated, put in, sizes
made huge. It has to be refused in one line, or what is read has to be whole: nothing half
accepted, no other exception, no crash of a library, no endless loop, nothing executed. Prints one
line per kind; the exit code is 1 where anything else happened.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import random
import signal
import struct
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

import h5py
import numpy as np
import torch

from build_networks import make_actor
from data import load_dataset
from data_sources.behaviour_policy import HandPolicy
from get_args import FLAGS, Settings
from policy_export.policy import POLICY_FILE, WEIGHTS_FILE, Policy, load_policy, save_policy
from run.checkpoint import FORMAT, load_checkpoint, write_verified
from run.files import CONFIG_FILE
from run.resume import read_settings
from tasks import get_task
from utils import UserError

# a read that takes longer counts as an endless loop
SECONDS = 20
ROWS = 60
TASK = get_task("hopper-medium-v2")
HAND = get_task("pen-expert-v1")
SMALL = replace(Settings(), embed_dim=8, n_layer=1, n_head=1, K=2, eval_context_length=2)

# reads the file; returns normally where it was accepted and what came of it is whole
Read = Callable[[], object]


@dataclass
class Outcome:
    """What became of the damaged files of one kind."""

    refused: int = 0
    accepted: int = 0
    failures: list[str] = field(default_factory=list)


class NotWhole(Exception):
    """A damaged file was accepted, and what was read is not whole."""


class Hang(BaseException):
    """No exception that a reader could take for a fault of the file."""


def damaged(content: bytes, rng: random.Random) -> bytes:
    """The content with one to three kinds of damage."""
    data = bytearray(content)
    for _ in range(rng.randint(1, 3)):
        at, size = rng.randrange(len(data) + 1), rng.choice((1, 2, 4, 8, 64))
        kind = rng.randrange(7)
        if kind == 0:
            del data[at:]
        elif kind == 1:
            del data[at : at + size]
        elif kind == 2:
            data[at:at] = rng.randbytes(size)
        elif kind == 3:
            data[at : at + size] = rng.randbytes(len(data[at : at + size]))
        elif kind == 4:
            data[at : at + size] = bytes([rng.choice((0, 255))]) * len(data[at : at + size])
        elif kind == 5:
            start = rng.randrange(len(data) + 1)
            data[at : at + size] = data[start : start + size]
        else:
            number = struct.pack("<Q", rng.choice((0, 1, 2**31, 2**63, 2**64 - 1, len(data))))
            data[at : at + 8] = number[: len(data[at : at + 8])]
    return bytes(data)


def whole(good: bool, what: str) -> None:
    if not good:
        raise NotWhole(what)


def random_trajectories() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {
        "observations": rng.normal(size=(ROWS, TASK.obs_dim)).astype(np.float32),
        "next_observations": rng.normal(size=(ROWS, TASK.obs_dim)).astype(np.float32),
        "actions": rng.uniform(-1, 1, (ROWS, TASK.act_dim)).astype(np.float32),
        "rewards": rng.normal(size=ROWS).astype(np.float32),
        "terminals": np.arange(ROWS) % 10 == 9,
    }


def read_trajectories(path: Path) -> None:
    data = load_dataset(path, TASK)
    n, m = data.num_transitions, data.num_trajectories
    shapes = data.observations.shape == (n, TASK.obs_dim) and data.actions.shape[0] == n
    whole(shapes and data.final_observations.shape == (m, TASK.obs_dim), "shapes")
    arrays = (data.observations, data.actions, data.rewards, data.state_mean, data.state_std)
    whole(all(np.isfinite(x).all() for x in arrays), "numbers that are not finite")
    whole(bool((data.lengths > 0).all()) and np.abs(data.actions).max() <= 10, "lengths or actions")


def hdf5(folder: Path) -> tuple[Path, Read]:
    """Contiguous and compressed arrays, attributes and metadata texts."""
    path = folder / f"{TASK.name}.hdf5"
    with h5py.File(path, "w") as file:
        for name, array in random_trajectories().items():
            options = {"compression": "gzip", "chunks": True} if name == "actions" else {}
            file.create_dataset(name, data=array, **options)
        file["timeouts"] = np.zeros(ROWS, bool)
        file.attrs["env_name"] = TASK.name
        file["metadata/env"] = TASK.name
    return path, partial(read_trajectories, path)


def pickle(folder: Path) -> tuple[Path, Read]:
    """A list of trajectories, as the published data scripts wrote it."""
    import pickle as writer

    path, arrays = folder / f"{TASK.name}.pkl", random_trajectories()
    pieces = [{k: x[i : i + 10] for k, x in arrays.items()} for i in range(0, ROWS, 10)]
    path.write_bytes(writer.dumps(pieces))
    return path, partial(read_trajectories, path)


def policy_npz(folder: Path) -> tuple[Path, Read]:
    """A behaviour policy of NumPy arrays."""
    path, rng = folder / "pen.npz", np.random.default_rng(0)
    obs, act, width = HAND.obs_dim, HAND.act_dim, 4
    shapes: dict[str, tuple[int, ...]] = {
        "in_shift": (obs,), "in_scale": (obs,), "W0": (width, obs), "b0": (width,),
        "W1": (width, width), "b1": (width,), "W2": (act, width), "b2": (act,),
        "out_shift": (act,), "out_scale": (act,), "log_std": (act,),
    }  # fmt: skip
    arrays: dict[str, Any] = {name: rng.normal(size=shape) for name, shape in shapes.items()}
    np.savez(path, **arrays)
    zero = np.zeros(obs)
    expected = HandPolicy(path, HAND).mean(zero)

    def read() -> None:
        whole(np.array_equal(HandPolicy(path, HAND).mean(zero), expected), "other actions")

    return path, read


def checkpoint(folder: Path) -> tuple[Path, Read]:
    """A run's checkpoint."""
    path = folder / "checkpoints" / "000000-pretrain-1.pt"
    path.parent.mkdir()
    weights = torch.arange(500.0)
    layout = {"stored_from": 0, "total": 0, "first_held": 0}
    write_verified(path, {"format": FORMAT, "env": TASK.name, "buffer": layout, "weights": weights})

    def read() -> None:
        state = load_checkpoint(folder, "cpu")
        whole(torch.equal(state["weights"], weights) and state["env"] == TASK.name, "content")

    return path, read


def _exported(folder: Path) -> tuple[Path, Read]:
    torch.manual_seed(0)
    zeros, ones = np.zeros(TASK.obs_dim), np.ones(TASK.obs_dim)
    origin: dict[str, Any] = {"origin": {}, "scores": None, "versions": {}}
    actor = make_actor(SMALL, TASK).eval()
    place = folder / "policy"
    save_policy(Policy(actor, TASK, SMALL, zeros, ones, origin), place)
    weights = actor.state_dict()

    def read() -> None:
        theirs = load_policy(place).actor.state_dict()
        whole(all(torch.equal(theirs[k], x) for k, x in weights.items()), "other weights")

    return place, read


def policy_weights(folder: Path) -> tuple[Path, Read]:
    """An exported policy's weights."""
    place, read = _exported(folder)
    return place / WEIGHTS_FILE, read


def policy_json(folder: Path) -> tuple[Path, Read]:
    """An exported policy's description."""
    place, read = _exported(folder)
    return place / POLICY_FILE, read


def run_config(folder: Path) -> tuple[Path, Read]:
    """The settings that a run is resumed with."""
    path = folder / CONFIG_FILE
    settings = {name: getattr(SMALL, name) for name in FLAGS}
    path.write_text(json.dumps({"settings": settings, "recurrent": False}, indent=2))

    def read() -> None:
        error = Path(folder / "stderr")
        try:
            with error.open("w") as file, contextlib.redirect_stderr(file):
                read_settings(["--resume", str(folder)])
        except SystemExit:
            raise UserError(error.read_text().strip()) from None

    return path, read


KINDS: dict[str, Callable[[Path], tuple[Path, Read]]] = {
    "hdf5": hdf5,
    "pickle": pickle,
    "policy.npz": policy_npz,
    "checkpoint": checkpoint,
    "policy.safetensors": policy_weights,
    "policy.json": policy_json,
    "config.json": run_config,
}


def _too_long(number: int, frame: FrameType | None) -> None:
    raise Hang


def fuzz(kind: str, seed: int, count: int, at: Path) -> Outcome:
    """Damage and read so many files.

    Args:
        at: A file that holds the number of the file being read, for when the process dies.
    """
    outcome, rng = Outcome(), random.Random(f"{kind} {seed}")
    signal.signal(signal.SIGALRM, _too_long)
    with tempfile.TemporaryDirectory() as name:
        path, read = KINDS[kind](Path(name))
        read()
        content = path.read_bytes()
        for i in range(count):
            path.write_bytes(damaged(content, rng))
            at.write_text(str(i))
            signal.alarm(SECONDS)
            try:
                read()
                outcome.accepted += 1
            except UserError as error:
                outcome.refused += 1
                if "\n" in str(error) or not str(error):
                    outcome.failures.append(f"file {i}: not one line: {error}")
            except Hang:
                outcome.failures.append(f"file {i}: no answer in {SECONDS} seconds")
            except BaseException as error:
                outcome.failures.append(f"file {i}: {type(error).__name__}: {error}")
            finally:
                signal.alarm(0)
    return outcome


def fuzz_apart(kind: str, seed: int, count: int) -> Outcome:
    """The same in a process of its own, which a library may crash."""
    with tempfile.TemporaryDirectory() as folder:
        at = Path(folder) / "at"
        command = [sys.executable, __file__, "--apart", "--kind", kind, "--at", str(at)]
        command += ["--seed", str(seed), "--count", str(count)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode == 0:
            return Outcome(**json.loads(done.stdout))
        where = f"file {at.read_text() if at.exists() else 'none'}"
        last = (done.stderr.strip().splitlines() or [""])[-1]
        return Outcome(failures=[f"{where}: the process ended with {done.returncode} {last}"])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--kind", choices=KINDS, action="append", help="this kind only")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--count", type=int, default=1000, help="files of each kind")
    parser.add_argument("--apart", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--at", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.apart:
        torch.set_num_threads(1)
        logging.disable()
        print(json.dumps(vars(fuzz(args.kind[0], args.seed, args.count, args.at))))
        return 0
    failed = Counter[str]()
    for kind in args.kind or KINDS:
        outcome = fuzz_apart(kind, args.seed, args.count)
        failed[kind] = len(outcome.failures)
        print(f"{kind}: {outcome.refused} refused, {outcome.accepted} accepted and whole")
        print("".join(f"  {line}\n" for line in outcome.failures[:10]), end="")
    return 1 if failed.total() else 0


if __name__ == "__main__":
    sys.exit(main())
