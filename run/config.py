"""config.json: the settings of a run and the facts about each of its sessions.

A session is one program's work on a run; a resumed run has several. run/state.py adds to each how
it ended.
"""

from __future__ import annotations

import json
import math
import os
import platform
import secrets
import shlex
import subprocess
import sys
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

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
    run_dir: Path, settings: Settings, fingerprint: Mapping[str, Any] | None, engine: str
) -> tuple[dict[str, Any], list[str]]:
    """The config.json of a new run, or that of a resumed run with this session added.

    Writes nothing.

    Args:
        run_dir: The run's folder.
        settings: Settings of this session.
        fingerprint: Facts about the offline dataset.
        engine: The physics engine and its version.

    Returns:
        The new content, and warnings about what differs from earlier sessions.

    Raises:
        UserError: an existing config.json cannot be read.
    """
    path = run_dir / CONFIG_FILE
    recorded = {name: getattr(settings, name) for name in FLAGS}
    del recorded["run_dir"], recorded["resume"]
    about = {"settings": recorded, "method": method_name(settings), "recurrent": settings.recurrent}
    session = _session() | {"engine": engine, "fingerprint": plain(fingerprint)}
    if not path.exists():
        return {**about, **session, "wandb_id": secrets.token_hex(8)}, []
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
        config.setdefault("wandb_id", secrets.token_hex(8))
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise UserError(f"{path}: not the config of a run ({error}); restore the file") from None
    return config | about, warnings


def _session() -> dict[str, Any]:
    return {
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": shlex.join(sys.argv),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": package_versions(),
        "git": git_state(),
    }


def _differences(config: dict[str, Any], session: dict[str, Any]) -> Iterator[str]:
    recorded, ours = config.get("fingerprint") or {}, session["fingerprint"] or {}
    if any(recorded.get(name) != value for name, value in ours.items()):
        yield "the offline dataset is not the one this run was started with"
    engine = last_session(config).get("engine")
    if engine not in (None, session["engine"]):
        yield f"this run used {engine} so far and now uses {session['engine']}; results may differ"


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
