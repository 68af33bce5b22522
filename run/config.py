"""config.json: the settings of a run and the facts about each of its sessions.

A session is one program's work on a run; a resumed run has several. run/state.py adds to each how
it ended.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import platform
import re
import secrets
import shlex
import subprocess
import sys
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from get_args import FLAGS, Settings
from run.files import CONFIG_FILE
from run.folder import method_name
from utils import UserError, atomic_write, json_object

_SOURCE = Path(__file__).resolve().parents[1]
_PACKAGES = (
    "torch", "numpy", "mujoco", "gymnasium", "gymnasium-robotics", "transformers", "h5py",
    "wandb", "tensorboard",
)  # fmt: skip


def package_versions() -> dict[str, str | None]:
    """Versions of the packages that results may depend on; None if not installed."""
    versions: dict[str, str | None] = {}
    for name in _PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = None
    return versions


def git_state(folder: Path = _SOURCE) -> dict[str, Any] | None:
    """Commit of the source and whether files differ from it; None without git or a repository.

    Takes no optional lock, so git writes nothing, not even a refreshed index.
    """

    def git(*words: str) -> str:
        command = ["git", "--no-optional-locks", "-C", str(folder), *words]
        env = os.environ | {"GIT_OPTIONAL_LOCKS": "0"}
        return subprocess.run(
            command, capture_output=True, text=True, check=True, timeout=20, env=env
        ).stdout.strip()

    try:
        commit = git("rev-parse", "HEAD")
        return {"commit": commit, "dirty": bool(git("status", "--porcelain"))}
    except (OSError, subprocess.SubprocessError):
        return None


def plain(value: Any) -> Any:
    """Convert a value to JSON types: NumPy and PyTorch scalars to numbers, NaN and inf to strings.

    The strings are "NaN", "Infinity" and "-Infinity", which Python's `float` parses.
    """
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if hasattr(value, "tolist"):
        return plain(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else f"{'-' if value < 0 else ''}Infinity"
    return str(value) if isinstance(value, Path) else value


def make_config(
    run_dir: Path,
    settings: Settings,
    fingerprint: Mapping[str, Any] | None,
    engine: str,
    device: torch.device,
    origin: Mapping[str, Any] | None = None,
) -> tuple[dict[str, Any], list[str]]:
    """The config.json of a new run, or that of a resumed run with this session added.

    Writes nothing.

    Args:
        run_dir: The run's folder.
        settings: Settings of this session.
        fingerprint: Facts about the offline dataset.
        engine: The physics engine and its version.
        device: The device of training.
        origin: Where a new run's networks come from, with --init_from.

    Returns:
        The new content, and warnings about what differs from earlier sessions.

    Raises:
        UserError: an existing config.json cannot be read.
    """
    path = run_dir / CONFIG_FILE
    recorded = {name: getattr(settings, name) for name in FLAGS}
    del recorded["run_dir"], recorded["resume"]
    about = {"settings": recorded, "method": method_name(settings), "recurrent": settings.recurrent}
    if settings.own_task is not None:
        about["task"] = settings.own_task.record()
    session = _session(device) | {"engine": engine, "fingerprint": plain(fingerprint)}
    if not path.exists():
        about |= {"origin": plain(origin)} if origin else {}
        return {**about, **session, **_wandb_identity(run_dir, {})}, []
    try:
        config = json_object(path.read_text())
        warnings = list(_differences(config, session))
        before = config["settings"]
        session["changed_settings"] = {
            name: [before.get(name), value]
            for name, value in recorded.items()
            if before.get(name) != value
        }
        config.setdefault("resumed", []).append(session)
        about |= _wandb_identity(run_dir, config)
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise UserError(f"{path}: not the config of a run ({error}); restore the file") from None
    return config | about, warnings


def describe_origin(origin: Mapping[str, Any], seed: bool = True) -> str:
    """The source of a run's networks: "TD3+ODT seed 16, pretrain iteration 5"."""
    phase = origin.get("phase", "")
    method = f"{origin.get('method')}" + (f" seed {origin.get('seed')}" if seed else "")
    return f"{method}, {phase} iteration {origin.get('iterations', {}).get(phase)}"


def _session(device: torch.device) -> dict[str, Any]:
    return {
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": shlex.join(sys.argv),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "threads": torch.get_num_threads(),
        "gpu": _gpu(device),
        "packages": package_versions(),
        "git": git_state(),
    }


def _gpu(device: torch.device) -> dict[str, str | None] | None:
    """Name, driver and CUDA version of the GPU; None on the CPU."""
    if device.type != "cuda":
        return None
    driver = None
    with contextlib.suppress(OSError):
        found = re.search(r"\d+\.[\d.]+", Path("/proc/driver/nvidia/version").read_text())
        driver = found[0] if found else None
    name = torch.cuda.get_device_name(device)
    return {"name": name, "driver": driver, "cuda": torch.version.cuda}


def _wandb_identity(run_dir: Path, config: Mapping[str, Any]) -> dict[str, str]:
    """The id of the run in wandb, and the folder that it belongs to.

    An agent of a wandb sweep sets the id. A copy of a run's folder gets an id of its own, unless
    the original is gone.
    """
    here, origin = str(run_dir.resolve()), config.get("wandb_folder")
    given = os.environ.get("WANDB_RUN_ID") if os.environ.get("WANDB_SWEEP_ID") else None
    copied = origin not in (None, here) and (Path(origin) / CONFIG_FILE).exists()
    ours = None if copied else config.get("wandb_id")
    return {"wandb_id": given or ours or secrets.token_hex(8), "wandb_folder": here}


def _differences(config: dict[str, Any], session: dict[str, Any]) -> Iterator[str]:
    recorded, ours = config.get("fingerprint") or {}, session["fingerprint"] or {}
    if any(recorded.get(name) != value for name, value in ours.items()):
        yield "the offline dataset is not the one this run was started with"
    last = last_session(config)
    pairs = (last.get("engine"), session["engine"]), (_hardware(last), _hardware(session))
    for before, now in pairs:
        if before not in (None, now):
            yield f"this run used {before} so far and now uses {now}; results may differ"


def _hardware(session: Mapping[str, Any]) -> str | None:
    """What computes, as far as rounding depends on it; None if it was not recorded."""
    if session.get("gpu"):
        return str(session["gpu"]["name"])
    return f"{session['threads']} CPU threads" if "threads" in session else None


def last_session(config: dict[str, Any]) -> dict[str, Any]:
    """The part of config.json about the last session."""
    resumed = config.get("resumed")
    last = resumed[-1] if isinstance(resumed, list) and resumed else config
    return last if isinstance(last, dict) else config


def write_config(run_dir: Path, config: dict[str, Any]) -> None:
    """Write config.json atomically.

    Raises:
        OSError: it cannot be written.
    """
    with atomic_write(run_dir / CONFIG_FILE, "w") as file:
        json.dump(config, file, indent=2, allow_nan=False)
        file.write("\n")
