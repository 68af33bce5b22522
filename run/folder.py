"""The folder of a run, and the name of its method."""

from __future__ import annotations

import contextlib
import tempfile
from datetime import datetime
from pathlib import Path

from get_args import Settings
from run.checkpoint import state_files
from run.files import SWEEP_FILES
from utils import UserError


def method_name(settings: Settings) -> str:
    """The method, named by its losses: "TD3+ODT", "ODT", "TD3", "SAC+ODT", ...

    An RL coefficient of 0 is the online decision transformer (ODT) alone, a supervised coefficient
    of 0 the RL gradient alone. The supervised loss of an MLP is behaviour cloning: "TD3+BC", "BC",
    "IQL-MLP". Recurrent critics append their kind: "TD3+ODT-LSTM".
    """
    imitation = "BC" if settings.policy == "mlp" else "ODT"
    parts = [settings.rl_algo] if settings.actor_rl_coeff else []
    parts += [imitation] if settings.actor_sup_coeff or not parts else []
    name = "+".join(parts)
    if settings.policy == "mlp" and imitation not in parts:
        name += "-MLP"
    return name + (f"-{settings.arch}" if settings.recurrent else "")


def create_run_dir(settings: Settings, now: datetime | None = None) -> Path:
    """Create the folder of a new run: --run_dir, else one in --save_dir.

    The default is save_dir/ENV/METHOD[-EXP_NAME][SUFFIX]/seedN/TIME.

    Raises:
        UserError: the folder is not empty or not writable.
    """
    flag, chosen = ("run_dir" if settings.run_dir else "save_dir"), settings.run_dir
    try:
        run_dir = _use_folder(Path(chosen)) if chosen else _new_folder(settings, now)
        with tempfile.TemporaryFile(dir=run_dir):
            pass
    except OSError as error:
        raise UserError(
            f"--{flag} {getattr(settings, flag)}: not writable ({error.strerror}); "
            "choose another folder"
        ) from None
    return run_dir


def _use_folder(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    if any(path.name not in SWEEP_FILES for path in folder.iterdir()):
        other = f", or pass --resume {folder} to resume its run" if state_files(folder) else ""
        raise UserError(f"--run_dir {folder}: not empty; choose a new folder{other}")
    return folder


def _new_folder(settings: Settings, now: datetime | None) -> Path:
    """Create the default folder, numbered if another run took the name in the same second."""
    name = "" if settings.exp_name in ("", "default") else f"-{settings.exp_name}"
    method = f"{method_name(settings)}{name}{settings.suffix}"
    parent = Path(settings.save_dir) / settings.env / method / f"seed{settings.seed}"
    parent.mkdir(parents=True, exist_ok=True)
    time, number = (now or datetime.now()).strftime("%Y%m%d-%H%M%S"), 1
    while True:
        folder = parent / (time if number == 1 else f"{time}-{number}")
        with contextlib.suppress(FileExistsError):
            folder.mkdir()
            return folder
        number += 1
