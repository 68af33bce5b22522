"""What a run writes down about itself before it starts: config.json.

run_state.py adds how it ended.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import platform
import secrets
import shlex
import subprocess
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from get_args import FLAGS, Settings
from run.files import CONFIG_FILE
from utils import UserError, atomic_write, json_object

_SOURCE = Path(__file__).resolve().parent
_PACKAGES = (
    "torch", "numpy", "mujoco", "gymnasium", "gymnasium-robotics", "transformers", "h5py",
    "wandb", "tensorboard",
)  # fmt: skip


def package_versions() -> dict[str, str | None]:
    """Versions of the packages that a run's numbers may depend on; None where one is absent."""
    versions: dict[str, str | None] = {}
    for name in _PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = None
    return versions


def git_state(folder: Path = _SOURCE) -> dict[str, Any] | None:
    """Commit of the source and whether files differ from it; None without git or a repository.

    Only reads: git is told to take no optional lock, so not even its index is refreshed.
    """

    def ask(*words: str) -> str:
        command = ["git", "--no-optional-locks", "-C", str(folder), *words]
        env = os.environ | {"GIT_OPTIONAL_LOCKS": "0"}
        return subprocess.run(
            command, capture_output=True, text=True, check=True, timeout=20, env=env
        ).stdout.strip()

    try:
        commit = ask("rev-parse", "HEAD")
        return {"commit": commit, "dirty": bool(ask("status", "--porcelain"))}
    except (OSError, subprocess.SubprocessError):
        return None


def plain(value: Any) -> Any:
    """A value as JSON can hold it: NumPy and PyTorch scalars as numbers, NaN and inf as strings.

    The strings are those that Python's `float` reads back: "NaN", "Infinity", "-Infinity".
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


def _session(now: datetime) -> dict[str, Any]:
    """Facts about this process; a run that is resumed has several."""
    return {
        "started": now.isoformat(timespec="seconds"),
        "command": shlex.join(sys.argv),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": package_versions(),
        "git": git_state(),
    }


def write_config(
    run_dir: Path, settings: Settings, method: str, fingerprint: Mapping[str, Any] | None
) -> dict[str, Any]:
    """Write config.json, or add this session to the one of a run that is resumed.

    Returns:
        The content written.

    Raises:
        UserError: the file cannot be written, or an earlier one not be read.
    """
    path = run_dir / CONFIG_FILE
    values = dataclasses.asdict(settings)
    recorded = {name: values[name] for name in FLAGS if name not in ("run_dir", "resume")}
    session = _session(datetime.now(UTC))
    try:
        if path.exists():
            config = json_object(path.read_text())
            changed = {
                name: [config["settings"].get(name), value]
                for name, value in recorded.items()
                if config["settings"].get(name) != value
            }
            session |= {"changed_settings": changed, "fingerprint": plain(fingerprint)}
            config["settings"] = recorded
            config.setdefault("resumed", []).append(session)
        else:
            config = {"settings": recorded, "method": method, "recurrent": settings.recurrent}
            config |= session
            config["fingerprint"] = plain(fingerprint)
        # the same for every session of a run, so that a resumed one goes on in its curves
        config.setdefault("wandb_id", secrets.token_hex(8))
        with atomic_write(path, "w") as file:
            json.dump(config, file, indent=2, allow_nan=False)
            file.write("\n")
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise UserError(f"{path}: cannot be written or continued ({error})") from None
    return config
