"""Where the numbers of a run go: metrics.jsonl and metrics.csv, TensorBoard, Weights & Biases."""

from __future__ import annotations

import csv
import dataclasses
import hashlib
import io
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from run_record import plain
from settings import Settings
from utils import UserError, atomic_write, json_object


class Writer(Protocol):
    """A place beside the local files that gets every row; its failures never stop a run."""

    def write(self, row: Mapping[str, Any]) -> None: ...

    def close(self) -> None: ...


class MetricsFiles:
    """metrics.jsonl, one JSON object per row, and metrics.csv with the same rows.

    metrics.jsonl is the record: a row is one write, and is taken back if that write fails halfway.
    metrics.csv is derived from it; it is written anew when a row brings a new column.

    Args:
        run_dir: Folder of the files. Rows of an earlier session are kept; a last line that an
            interrupted write left unfinished is dropped.

    Raises:
        UserError: (from every method) a file cannot be read or written.
    """

    def __init__(self, run_dir: Path) -> None:
        self._jsonl, self._csv = run_dir / "metrics.jsonl", run_dir / "metrics.csv"
        self._columns: list[str] = []
        self.rows = 0
        if self._jsonl.exists():
            self.rewind(self._jsonl.read_bytes().count(b"\n"))

    def append(self, row: Mapping[str, Any]) -> None:
        """Add one row: phase, iteration, total_transitions_sampled and metrics."""
        record: dict[str, Any] = plain(row)
        self._write(self._jsonl, json.dumps(record, allow_nan=False) + "\n")
        self.rows += 1
        if all(key in self._columns for key in record):
            self._write(self._csv, self._as_csv([record], header=False))
        else:
            self._rewrite_csv()

    def rewind(self, rows: int) -> None:
        """Drop every row after the first `rows`: those logged after a checkpoint was taken."""
        lines = self._jsonl.read_bytes().splitlines(keepends=True) if self._jsonl.exists() else []
        if rows > len(lines):
            raise UserError(
                f"{self._jsonl}: has {len(lines)} rows where the checkpoint knows {rows}; "
                "restore the file, or start a new run"
            )
        try:
            with atomic_write(self._jsonl) as file:
                file.write(b"".join(lines[:rows]))
        except OSError as error:
            raise _cannot_write(self._jsonl, error) from None
        self.rows = rows
        self._rewrite_csv()

    def _rewrite_csv(self) -> None:
        try:
            rows = [json_object(line) for line in self._jsonl.read_text().splitlines()]
            self._columns = list(dict.fromkeys(key for row in rows for key in row))
            with atomic_write(self._csv, "w") as file:
                file.write(self._as_csv(rows, header=True))
        except OSError as error:
            raise _cannot_write(self._csv, error) from None
        except ValueError as error:
            raise UserError(f"{self._jsonl}: not JSON lines ({error}); restore the file") from None

    def _as_csv(self, rows: list[dict[str, Any]], header: bool) -> str:
        text = io.StringIO()
        writer = csv.DictWriter(text, self._columns, lineterminator="\n")
        if header:
            writer.writeheader()
        writer.writerows(rows)
        return text.getvalue()

    @staticmethod
    def _write(path: Path, text: str) -> None:
        content = text.encode()
        try:
            with path.open("ab", buffering=0) as file:
                before = os.fstat(file.fileno()).st_size
                if file.write(content) != len(content):
                    file.truncate(before)
                    raise OSError("no space left")
        except OSError as error:
            raise _cannot_write(path, error) from None


def _cannot_write(path: Path, error: OSError) -> UserError:
    return UserError(f"{path}: cannot be written ({error.strerror or error}); free or allow space")


class TensorBoardWriter:
    """TensorBoard logs in run_dir/tensorboard, one curve per phase.

    The step is the number of online transitions, or the iteration where there are none yet.
    """

    def __init__(self, run_dir: Path) -> None:
        from torch.utils.tensorboard import SummaryWriter  # slow to import, so only when wanted

        self._make, self._folder = SummaryWriter, run_dir / "tensorboard"
        self._by_phase: dict[str, Any] = {}

    def write(self, row: Mapping[str, Any]) -> None:
        phase = row["phase"]
        if phase not in self._by_phase:
            self._by_phase[phase] = self._make(str(self._folder / phase))
        step = row["total_transitions_sampled"] or row["iteration"]
        for key, value in row.items():
            if "/" in key:
                self._by_phase[phase].add_scalar(key, value, step)
        self._by_phase[phase].flush()

    def close(self) -> None:
        for writer in self._by_phase.values():
            writer.close()


class WandbWriter:
    """Weights & Biases: local files, or the service, or local files where that fails.

    Attributes:
        problem: Why the service could not be used; "" if it could, or was not asked for.
        address: Web address of the run; None when it is kept locally.
    """

    def __init__(self, run_dir: Path, settings: Settings, method: str) -> None:
        import wandb  # slow to import, so only when wanted

        quiet = wandb.Settings(
            silent=True, console="off", disable_git=True, init_timeout=60, finish_timeout=120
        )
        # silent from the start: otherwise a terminal without an account is asked to make one
        wandb.setup(quiet)
        about: dict[str, Any] = {
            "mode": settings.wandb_mode,
            "entity": settings.wandb_entity or None,
            "project": settings.wandb_project,
            "dir": str(run_dir),
            "name": f"{settings.env}-{method}{settings.suffix}-seed{settings.seed}",
            "group": f"{settings.env}-{method}{settings.suffix}",
            # the same for every session of a run, so that a resumed one goes on in its curves
            "id": hashlib.sha256(str(run_dir.resolve()).encode()).hexdigest()[:16],
            "resume": "allow",
            "config": dataclasses.asdict(settings),
            "settings": quiet,
        }
        self.problem = ""
        try:
            self._run = wandb.init(**about)
        except Exception as error:
            if settings.wandb_mode == "offline":
                raise
            self.problem = " ".join(str(error).split())
            self._run = wandb.init(**about | {"mode": "offline"})
        self.address = self._run.url

    def write(self, row: Mapping[str, Any]) -> None:
        self._run.log(dict(row))

    def close(self) -> None:
        self._run.finish()
