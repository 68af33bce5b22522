"""The run's folder and everything a run says: config, metrics, console.

A run leaves config.json, metrics.jsonl and metrics.csv, whatever else fails. TensorBoard and
Weights & Biases are extras: if one breaks, the run says so once and goes on without it. The latter
works in a thread of its own, so that a slow network does not hold up the run either.
docs/METRICS.md defines every metric.
"""

from __future__ import annotations

import contextlib
import sys
import tempfile
from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from tqdm import tqdm

from get_args import Settings
from run.config import plain, write_config
from run.files import CONFIG_FILE, SWEEP_FILES
from run.wandb_writer import WandbWriter
from run.writers import InBackground, MetricsFiles, TensorBoardWriter, Writer
from utils import UserError

# seconds that a run waits at its end for what wandb has not sent yet
_WANDB_PATIENCE = 150.0
# what the console shows of a row: metric, label, format
_CONSOLE = (
    ("evaluation/return_mean_gm", "return", "{:.2f}"),
    ("evaluation/normalized_score", "score", "{:.2f}"),
    ("evaluation/success_rate", "success", "{:.0%}"),
    ("aug_traj/return", "collected return", "{:.2f}"),
    ("training/train_loss_mean", "loss", "{:.4g}"),
    ("training/critic_MSE_loss", "critic loss", "{:.4g}"),
    ("training/Q_mean", "Q", "{:.4g}"),
    ("time/total", "seconds", "{:.0f}"),
)


def method_name(settings: Settings) -> str:
    """The method by the weights of its losses: "TD3+ODT", "ODT", "TD3", "SAC+ODT", ...

    An RL coefficient of 0 is the online decision transformer (ODT) alone, a supervised one of 0
    the RL gradient alone. An MLP's supervised loss is behaviour cloning: "TD3+BC", "BC",
    "IQL-MLP". Recurrent critics add their kind: "TD3+ODT-LSTM".
    """
    imitation = "BC" if settings.policy == "mlp" else "ODT"
    parts = [settings.rl_algo] if settings.actor_rl_coeff else []
    parts += [imitation] if settings.actor_sup_coeff or not parts else []
    name = "+".join(parts)
    if settings.policy == "mlp" and imitation not in parts:
        name += "-MLP"
    return name + (f"-{settings.arch}" if settings.recurrent else "")


def create_run_dir(settings: Settings, now: datetime | None = None) -> Path:
    """Make the folder of a run, or find that of a run to resume.

    The folder is --run_dir, else save_dir/ENV/METHOD[-EXP_NAME][SUFFIX]/seedN/TIME.

    Raises:
        UserError: the folder is not empty, or nothing can be written there.
    """
    if settings.resume:
        run_dir = Path(settings.resume)
        if not (run_dir / CONFIG_FILE).is_file():
            raise UserError(f"--resume {run_dir}: no {CONFIG_FILE} there; give a run's folder")
        return run_dir
    chosen = Path(settings.run_dir) if settings.run_dir else None
    try:
        run_dir = _use_folder(chosen) if chosen else _new_folder(_default_folder(settings, now))
        with tempfile.TemporaryFile(dir=run_dir):
            pass
    except OSError as error:
        flag = "--run_dir" if chosen else "--save_dir"
        raise UserError(
            f"{flag} {chosen or settings.save_dir}: cannot write there ({error.strerror}); "
            "choose another folder"
        ) from None
    return run_dir


def _default_folder(settings: Settings, now: datetime | None) -> Path:
    name = "" if settings.exp_name in ("", "default") else f"-{settings.exp_name}"
    method = f"{method_name(settings)}{name}{settings.suffix}"
    time = (now or datetime.now()).strftime("%Y%m%d-%H%M%S")
    return Path(settings.save_dir) / settings.env / method / f"seed{settings.seed}" / time


def _use_folder(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    if any(path.name not in SWEEP_FILES for path in folder.iterdir()):
        raise UserError(
            f"--run_dir {folder}: is not empty; choose a new folder, or go on with that run by "
            "--resume"
        )
    return folder


def _new_folder(folder: Path) -> Path:
    """Make `folder`, numbered when another run took the name in the same second."""
    for attempt in range(1, 1000):
        numbered = folder if attempt == 1 else folder.with_name(f"{folder.name}-{attempt}")
        with contextlib.suppress(FileExistsError):
            numbered.mkdir(parents=True)
            return numbered
        if not numbered.is_dir():
            break
    raise UserError(f"{folder}: cannot be made; choose another --save_dir or a --run_dir")


class Logger:
    """Writes a run's config and metrics, and talks on the console.

    Args:
        run_dir: The run's folder, from `create_run_dir`.
        settings: The run's settings; they are written to config.json at once.
        fingerprint: Facts about the offline dataset, written beside them.

    Attributes:
        rows: Rows logged so far. A checkpoint keeps it, for `rewind` when the run is resumed.
    """

    def __init__(
        self, run_dir: Path, settings: Settings, fingerprint: dict[str, Any] | None = None
    ) -> None:
        self.run_dir = run_dir
        method = method_name(settings)
        config = write_config(run_dir, settings, method, fingerprint)
        self._files = MetricsFiles(run_dir)
        self._writers: dict[str, Writer] = {}
        if settings.log_to_tb:
            self._open("TensorBoard", lambda: TensorBoardWriter(run_dir))
        if settings.wandb_mode != "disabled":
            run_id = config["wandb_id"]
            self._open("wandb", lambda: self._in_background(settings, method, run_id))
        if config.get("fingerprint") != plain(fingerprint):
            self.warning("the offline dataset is not the one this run was started with")

    @property
    def rows(self) -> int:
        return self._files.rows

    def rewind(self, rows: int) -> None:
        """Forget what was logged after the first `rows` rows; see `rows`."""
        self._files.rewind(rows)

    def log(
        self,
        phase: str,
        iteration: int,
        total_transitions_sampled: int,
        metrics: Mapping[str, float],
    ) -> None:
        """Record one row of metrics everywhere and show its main numbers on the console.

        Args:
            phase: What the run is doing, "pretrain" or "online".
            iteration: Iteration of that phase, from 1.
            total_transitions_sampled: Environment steps collected online so far.
            metrics: Values by name; NaN and inf are recorded as the strings "NaN", "Infinity"
                and "-Infinity".

        Raises:
            UserError: the local files cannot be written.
        """
        head = {
            "phase": phase,
            "iteration": iteration,
            "total_transitions_sampled": total_transitions_sampled,
        }
        self._files.append({**head, **metrics})
        numbers = {key: float(value) for key, value in metrics.items()}
        for name in list(self._writers):
            self._try(name, lambda writer: writer.write({**head, **numbers}, self.rows - 1))
        shown = [
            f"{label} {form.format(numbers[key])}"
            for key, label, form in _CONSOLE
            if key in numbers
        ]
        place = f"{phase} {iteration}, {total_transitions_sampled:,} transitions"
        self._say(f"[{place}] " + ", ".join(shown))

    def info(self, message: str) -> None:
        """Say something on the console."""
        self._say(message)

    def warning(self, message: str) -> None:
        """Say on the console that something deserves attention."""
        self._say(f"warning: {message}")

    def progress(self, total: int, description: str) -> tqdm:
        """A progress bar with `update` and `close`; silent when stderr is not a terminal."""
        quiet = not sys.stderr.isatty()
        return tqdm(total=total, desc=description, disable=quiet, leave=False, dynamic_ncols=True)

    def finish(self) -> None:
        """Close TensorBoard and wandb. The local files are complete after every row."""
        for name in list(self._writers):
            self._try(name, lambda writer: writer.close())
        self._writers.clear()

    @staticmethod
    def _say(message: str) -> None:
        # a closed terminal or pipe must not end a run
        with contextlib.suppress(OSError):
            tqdm.write(message, file=sys.stdout)
            sys.stdout.flush()

    def _open(self, name: str, make: Callable[[], Writer]) -> None:
        try:
            self._writers[name] = make()
        except Exception as error:
            self._without(name, error)

    def _in_background(self, settings: Settings, method: str, run_id: str) -> Writer:
        return InBackground(
            "wandb", lambda: self._open_wandb(settings, method, run_id), _WANDB_PATIENCE
        )

    def _open_wandb(self, settings: Settings, method: str, run_id: str) -> WandbWriter:
        writer = WandbWriter(self.run_dir, settings, method + settings.suffix, run_id)
        if writer.problem:
            self.warning(
                f"wandb: the service cannot be used ({writer.problem}); this run is kept locally, "
                f"`wandb sync {self.run_dir}/wandb/offline-run-*` uploads it later"
            )
        elif writer.address:
            self.info(f"wandb: {writer.address}")
        return writer

    def _try(self, name: str, act: Callable[[Writer], None]) -> None:
        try:
            act(self._writers[name])
        except Exception as error:
            del self._writers[name]
            self._without(name, error)

    def _without(self, name: str, error: Exception) -> None:
        reason = " ".join(str(error).split()) or type(error).__name__
        self.warning(f"{name} failed ({reason}); the run goes on without it")
