"""Read randomly damaged files of every kind that this program reads.

    python -m tests.fuzz_readers [--kind KIND ...] [--seed 0] [--count 1000]

Every file is a small valid one with bytes changed, removed, repeated, inserted, or set to huge
numbers. It must be refused in one line, or read correctly: no partial content, no other exception,
no crash, no hang. Prints one line per kind; the exit code is 1 if anything else happened.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import multiprocessing
import pickle
import random
import resource
import signal
import struct
import sys
import tempfile
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
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
from tests.data_files import random_arrays, write
from utils import UserError

# a read that takes longer counts as a hang
SECONDS = 20
# damaged sizes must not use up the machine's memory
ADDRESS_SPACE = 16 * 2**30
TASK = get_task("hopper-medium-v2")
HAND = get_task("pen-expert-v1")
SMALL = replace(Settings(), embed_dim=8, n_layer=1, n_head=1, K=2, eval_context_length=2)

# reads the file; raises AssertionError if the content is wrong
Read = Callable[[], object]


@dataclass
class Outcome:
    """Counts of refused and accepted files of one kind, and descriptions of failures."""

    refused: int = 0
    accepted: int = 0
    failures: list[str] = field(default_factory=list)


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


def read_trajectories(path: Path) -> None:
    data = load_dataset(path, TASK)
    n, m = data.num_transitions, data.num_trajectories
    assert data.observations.shape == (n, TASK.obs_dim)
    assert data.final_observations.shape == (m, TASK.obs_dim)
    arrays = (data.observations, data.actions, data.rewards, data.state_mean, data.state_std)
    assert all(np.isfinite(array).all() for array in arrays)
    assert (data.lengths > 0).all()
    assert np.abs(data.actions).max() <= 10


def hdf5(folder: Path) -> tuple[Path, Read]:
    """Contiguous and compressed arrays, and texts of fixed length."""
    arrays = random_arrays(TASK, 60, 0)
    actions = arrays.pop("actions")
    path = write(folder / f"{TASK.name}.hdf5", arrays)
    with h5py.File(path, "a") as file:
        file.create_dataset("actions", data=actions, compression="gzip", chunks=True)
        file.attrs["env_name"] = file["metadata/env"] = np.bytes_(TASK.name)
    return path, partial(read_trajectories, path)


def pickled(folder: Path) -> tuple[Path, Read]:
    """A list of trajectories, like those of the published data scripts."""
    path, arrays = folder / f"{TASK.name}.pkl", random_arrays(TASK, 60, 0, 0.0)
    parts = [{k: x[i : i + 10] for k, x in arrays.items()} for i in range(0, 60, 10)]
    path.write_bytes(pickle.dumps(parts))
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
        assert np.array_equal(HandPolicy(path, HAND).mean(zero), expected)

    return path, read


def checkpoint(folder: Path) -> tuple[Path, Read]:
    """A run's checkpoint."""
    path = folder / "checkpoints" / "000000-pretrain-1.pt"
    path.parent.mkdir()
    weights = torch.arange(500.0)
    layout = {"stored_from": 0, "total": 0, "first_held": 0}
    write_verified(path, {"format": FORMAT, "env": TASK.name, "buffer": layout, "weights": weights})

    def read() -> None:
        state = load_checkpoint(folder)
        assert torch.equal(state["weights"], weights)
        assert state["env"] == TASK.name

    return path, read


def exported(file: str, folder: Path) -> tuple[Path, Read]:
    """A file of an exported policy."""
    torch.manual_seed(0)
    zeros, ones = np.zeros(TASK.obs_dim), np.ones(TASK.obs_dim)
    origin: dict[str, Any] = {"origin": {}, "scores": None, "versions": {}}
    actor = make_actor(SMALL, TASK).eval()
    place = folder / "policy"
    save_policy(Policy(actor, TASK, SMALL, zeros, ones, origin), place)
    weights = actor.state_dict()

    def read() -> None:
        loaded = load_policy(place).actor.state_dict()
        assert all(torch.equal(loaded[name], value) for name, value in weights.items())

    return place / file, read


def run_config(folder: Path) -> tuple[Path, Read]:
    """The settings of a run that is resumed."""
    path = folder / CONFIG_FILE
    settings = {name: getattr(SMALL, name) for name in FLAGS}
    path.write_text(json.dumps({"settings": settings, "recurrent": False}, indent=2))

    def read() -> None:
        error = folder / "stderr"
        try:
            with error.open("w") as file, contextlib.redirect_stderr(file):
                read_settings(["--resume", str(folder)])
        except SystemExit:
            raise UserError(error.read_text().strip()) from None

    return path, read


KINDS: dict[str, Callable[[Path], tuple[Path, Read]]] = {
    "hdf5": hdf5,
    "pickle": pickled,
    "policy.npz": policy_npz,
    "checkpoint": checkpoint,
    "policy.safetensors": partial(exported, WEIGHTS_FILE),
    "policy.json": partial(exported, POLICY_FILE),
    "config.json": run_config,
}


def fuzz(make: Callable[[Path], tuple[Path, Read]], seed: str, count: int, done: Any) -> Outcome:
    """Damage and read `count` files.

    Args:
        make: Creates the valid file in a folder.
        done: Shared counter of the files that were read. A crash or hang ends the process.
    """
    outcome, rng = Outcome(), random.Random(seed)
    with tempfile.TemporaryDirectory() as folder:
        path, read = make(Path(folder))
        read()
        content = path.read_bytes()
        for done.value in range(count):
            path.write_bytes(damaged(content, rng))
            signal.alarm(SECONDS)
            try:
                read()
                outcome.accepted += 1
            except UserError as error:
                outcome.refused += 1
                if "\n" in str(error) or not str(error):
                    outcome.failures.append(f"file {done.value}: not one line: {error}")
            except BaseException as error:
                outcome.failures.append(f"file {done.value}: {type(error).__name__}: {error}")
            finally:
                signal.alarm(0)
    return outcome


_counter: Any = None


def _prepare(counter: Any) -> None:
    global _counter
    _counter = counter
    torch.set_num_threads(1)
    logging.disable()
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE, ADDRESS_SPACE))


def _fuzz_kind(kind: str, seed: int, count: int) -> Outcome:
    return fuzz(KINDS[kind], f"{kind} {seed}", count, _counter)


def fuzz_apart(kind: str, seed: int, count: int) -> Outcome:
    """Fuzz one kind in a separate process, which may crash."""
    context = multiprocessing.get_context("spawn")
    counter = context.Value("l")
    with ProcessPoolExecutor(1, context, _prepare, (counter,)) as pool:
        try:
            return pool.submit(_fuzz_kind, kind, seed, count).result()
        except BrokenProcessPool:
            return Outcome(failures=[f"file {counter.value}: crash, or a hang of {SECONDS} s"])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--kind", choices=KINDS, action="append", help="only this kind; repeatable")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--count", type=int, default=1000, help="files of each kind")
    args = parser.parse_args()
    failed = False
    for kind in args.kind or KINDS:
        outcome = fuzz_apart(kind, args.seed, args.count)
        failed |= bool(outcome.failures)
        print(f"{kind}: {outcome.refused} refused, {outcome.accepted} read correctly")
        print("".join(f"  {line}\n" for line in outcome.failures[:10]), end="")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
