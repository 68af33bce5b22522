"""Logging of a run: config.json, metrics files, console, TensorBoard and Weights & Biases.

config.json, metrics.jsonl and metrics.csv are always written. TensorBoard and Weights & Biases are
optional: if one fails, the run warns once and continues without it. Weights & Biases runs in its
own thread, so that a slow network does not block training. docs/METRICS.md defines every metric.
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from get_args import Settings
from run.config import make_config, write_config
from run.files import CONFIG_FILE
from run.wandb_writer import WandbWriter
from run.writers import InBackground, MetricsFiles, TensorBoardWriter, Writer
from utils import UserError

_CPU = torch.device("cpu")
# seconds to wait at the end of a run for pending uploads
_WANDB_PATIENCE = 150.0
# metrics on the console, in lines of at most 100 columns: name, label, format
_CONSOLE = (
    ("evaluation/normalized_score", "score", "{:.2f}"),
    ("evaluation/raw_return_mean", "return", "{:.2f}"),
    ("evaluation/success_rate", "success", "{:.0%}"),
    ("aug_traj/normalized_score", "collected", "{:.1f}"),
    ("aug_traj/raw_return", "collected", "{:.1f}"),
    ("training/train_loss_mean", "loss", "{:.3g}"),
    ("training/Q_mean", "Q", "{:.3g}"),
)
# shown only without the score of the same group
_RETURNS = {"evaluation/raw_return_mean": "evaluation/normalized_score",
            "aug_traj/raw_return": "aug_traj/normalized_score"}  # fmt: skip


class Logger:
    """Writes a run's config and metrics, and prints to the console.

    Args:
        run_dir: The run's folder, from `create_run_dir`.
        settings: The run's settings, written to config.json at once.
        fingerprint: Facts about the offline dataset, for config.json.
        engine: The physics engine and its version, for config.json.
        device: The device of training, for config.json.
        rows: Rows to keep when a run is resumed; later ones are dropped.
        origin: Where a new run's networks come from, for config.json.

    Raises:
        UserError: files of an earlier session cannot be read (nothing is written then), or files
            cannot be written.
    """

    def __init__(
        self,
        run_dir: Path,
        settings: Settings,
        fingerprint: Mapping[str, Any] | None = None,
        engine: str = "",
        device: torch.device = _CPU,
        rows: int = 0,
        origin: Mapping[str, Any] | None = None,
    ) -> None:
        self.run_dir = run_dir
        config, warnings = make_config(run_dir, settings, fingerprint, engine, device, origin)
        self._files = MetricsFiles(run_dir, rows)
        try:
            write_config(run_dir, config)
        except OSError as error:
            path = run_dir / CONFIG_FILE
            raise UserError(f"{path}: cannot be written ({error.strerror or error})") from None
        self._writers: dict[str, Writer] = {}
        if settings.log_to_tb:
            self._open("TensorBoard", lambda: TensorBoardWriter(run_dir, self._files.read()))
        if settings.wandb_mode != "disabled":
            make = lambda: self._open_wandb(settings, config)  # noqa: E731
            self._open("wandb", lambda: InBackground("wandb", make, _WANDB_PATIENCE))
        for warning in warnings:
            self.warning(warning)

    def log(
        self,
        phase: str,
        iteration: int,
        total_transitions_sampled: int,
        metrics: Mapping[str, float],
    ) -> None:
        """Record one row of metrics everywhere and print its main numbers.

        Args:
            phase: "pretrain" or "online".
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
        number = self._files.rows - 1
        for name in list(self._writers):
            self._try(name, partial(self._writers[name].write, {**head, **numbers}, number))
        shown = [
            f"{label} {form.format(numbers[key])}"
            for key, label, form in _CONSOLE
            if key in numbers and _RETURNS.get(key) not in numbers
        ]
        place = f"{phase} {iteration}, {total_transitions_sampled:,} steps"
        self.info(f"[{place}] " + ", ".join(shown))

    def info(self, message: str) -> None:
        """Print a line, above the progress bar."""
        tqdm.write(message, file=sys.stdout)
        sys.stdout.flush()

    def warning(self, message: str) -> None:
        """Print a warning."""
        self.info(f"warning: {message}")

    def finish(self) -> None:
        """Close TensorBoard and wandb. The local files are complete after every row."""
        for name in list(self._writers):
            self._try(name, self._writers[name].close)
        self._writers.clear()

    def _open(self, name: str, make: Callable[[], Writer]) -> None:
        self._try(name, lambda: self._writers.update({name: make()}))

    def _open_wandb(self, settings: Settings, config: Mapping[str, Any]) -> WandbWriter:
        writer = WandbWriter(self.run_dir, settings, config)
        if writer.problem:
            folder = shlex.quote(str(self.run_dir))
            self.warning(
                f"wandb: cannot reach the service ({writer.problem}); logging to local files, "
                f"upload them later with `wandb sync {folder}/wandb/offline-run-*`"
            )
        elif writer.address:
            self.info(f"wandb: {writer.address}")
        return writer

    def _try(self, name: str, act: Callable[[], None]) -> None:
        """Call a function of a writer; without the writer from then on if it fails."""
        try:
            act()
        except Exception as error:
            self._writers.pop(name, None)
            reason = " ".join(str(error).split()) or type(error).__name__
            self.warning(f"{name} failed ({reason}); continuing without it")
