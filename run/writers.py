"""Writers of a run's metrics: metrics.jsonl and metrics.csv, TensorBoard, and a thread for others.

run/wandb_writer.py writes to Weights & Biases.
"""

from __future__ import annotations

import csv
import io
import json
import os
import queue
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn, Protocol

from run.config import plain
from run.files import METRICS_CSV_FILE, METRICS_FILE, TENSORBOARD_FOLDER
from utils import UserError, atomic_write, json_object


class Writer(Protocol):
    """Receives every row in addition to the local files; its failures never stop a run."""

    def write(self, row: Mapping[str, Any], number: int) -> None:
        """Add row `number`, counted from 0; a resumed run may repeat rows."""

    def close(self) -> None: ...


# threads of writers that did not finish in time
_abandoned: list[threading.Thread] = []


def leave(code: int) -> NoReturn:
    """Exit; immediately if a writer hangs, because its library would wait for it at exit."""
    if any(thread.is_alive() for thread in _abandoned):
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


class InBackground:
    """Runs another writer in a thread, so that a slow or hanging one does not block training.

    Errors in the thread are raised by the next call.

    Args:
        name: The thread's name.
        make: Creates the writer, in the thread.
        patience: Seconds that `close` waits for pending rows.
    """

    def __init__(self, name: str, make: Callable[[], Writer], patience: float) -> None:
        self._make, self._patience = make, patience
        self._rows: queue.SimpleQueue[tuple[Mapping[str, Any], int] | None] = queue.SimpleQueue()
        self._error: Exception | None = None
        # a daemon, so that the program can exit while it hangs
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)
        self._thread.start()

    def write(self, row: Mapping[str, Any], number: int) -> None:
        self._raise()
        self._rows.put((row, number))

    def close(self) -> None:
        self._rows.put(None)
        self._thread.join(self._patience)
        self._raise()
        if self._thread.is_alive():
            _abandoned.append(self._thread)
            raise TimeoutError(f"not finished {self._patience:.0f} seconds after the run")

    def _raise(self) -> None:
        if self._error is not None:
            raise self._error

    def _work(self) -> None:
        try:
            writer = self._make()
            while (item := self._rows.get()) is not None:
                writer.write(*item)
            writer.close()
        except Exception as error:
            self._error = error


class MetricsFiles:
    """metrics.jsonl, one JSON object per row, and metrics.csv with the same rows.

    metrics.jsonl is the record: each row is one write, which is undone if it fails halfway.
    metrics.csv is derived from it, and rewritten when a row adds a column.

    Args:
        run_dir: Folder of the files.
        rows: Number of rows to keep from earlier sessions: those logged before the checkpoint.

    Raises:
        UserError: (from every method) a file cannot be read or written.
    """

    def __init__(self, run_dir: Path, rows: int = 0) -> None:
        self._jsonl, self._csv = run_dir / METRICS_FILE, run_dir / METRICS_CSV_FILE
        self._columns: list[str] = []
        self.rows = rows
        lines = self._jsonl.read_bytes().splitlines(keepends=True) if self._jsonl.exists() else []
        if rows > len(lines):
            raise UserError(
                f"{self._jsonl}: has {len(lines)} rows, but the checkpoint was written after "
                f"{rows}; restore the file or start a new run"
            )
        if lines:
            self._parse(lines[:rows])
            self._replace(self._jsonl, b"".join(lines[:rows]))
            self._rewrite_csv()

    def append(self, row: Mapping[str, Any]) -> None:
        """Add one row: phase, iteration, total_transitions_sampled and metrics."""
        record: dict[str, Any] = plain(row)
        self._append(self._jsonl, json.dumps(record, allow_nan=False) + "\n")
        self.rows += 1
        if all(key in self._columns for key in record):
            self._append(self._csv, self._as_csv([record], header=False))
        else:
            self._rewrite_csv()

    def read(self) -> list[dict[str, Any]]:
        """All rows."""
        return self._parse(self._jsonl.read_bytes().splitlines()) if self.rows else []

    def _parse(self, lines: list[bytes]) -> list[dict[str, Any]]:
        rows = []
        for number, line in enumerate(lines, start=1):
            try:
                rows.append(json_object(line))
            except ValueError:
                raise UserError(
                    f"{self._jsonl}: line {number} is not JSON; restore the file"
                ) from None
        return rows

    def _rewrite_csv(self) -> None:
        rows = self.read()
        self._columns = list(dict.fromkeys(key for row in rows for key in row))
        self._replace(self._csv, self._as_csv(rows, header=True).encode())

    def _as_csv(self, rows: list[dict[str, Any]], header: bool) -> str:
        text = io.StringIO()
        writer = csv.DictWriter(text, self._columns, lineterminator="\n")
        if header:
            writer.writeheader()
        writer.writerows(rows)
        return text.getvalue()

    @staticmethod
    def _replace(path: Path, content: bytes) -> None:
        try:
            with atomic_write(path) as file:
                file.write(content)
        except OSError as error:
            raise _cannot_write(path, error) from None

    @staticmethod
    def _append(path: Path, text: str) -> None:
        content = text.encode()
        try:
            with path.open("ab", buffering=0) as file:
                before = os.fstat(file.fileno()).st_size
                if file.write(content) != len(content):
                    file.truncate(before)
                    raise OSError("no space left")
                # on the disk before a checkpoint that counts it
                os.fsync(file.fileno())
        except OSError as error:
            raise _cannot_write(path, error) from None


def _cannot_write(path: Path, error: OSError) -> UserError:
    return UserError(
        f"{path}: cannot be written ({error.strerror or error}); free disk space or fix the "
        "permissions"
    )


class TensorBoardWriter:
    """One TensorBoard run in run_dir/tensorboard with exactly the rows of metrics.jsonl.

    The step of online metrics is the number of environment steps collected online, and their curves
    start at step 0 with the last evaluation of pretraining. Metrics of pretraining are
    `pretrain/<name>`, with the iteration as step.

    Args:
        run_dir: The run's folder; event files of earlier sessions are replaced.
        rows: The rows logged so far.
    """

    def __init__(self, run_dir: Path, rows: Sequence[Mapping[str, Any]] = ()) -> None:
        from torch.utils.tensorboard import SummaryWriter  # slow to import

        folder = run_dir / TENSORBOARD_FOLDER
        for path in folder.rglob("events.out.tfevents.*"):
            path.unlink()
        self._events = SummaryWriter(str(folder))
        self._pretrained: dict[str, Any] = {}
        for number, row in enumerate(rows):
            self.write(row, number)

    def write(self, row: Mapping[str, Any], number: int) -> None:
        metrics = {name: value for name, value in row.items() if "/" in name}
        if row["phase"] == "pretrain":
            evaluation = {k: v for k, v in metrics.items() if k.startswith("evaluation/")}
            self._pretrained = evaluation or self._pretrained
            self._add({f"pretrain/{k}": v for k, v in metrics.items()}, row["iteration"])
        else:
            self._add(self._pretrained, 0)
            self._pretrained = {}
            self._add(metrics, row["total_transitions_sampled"])
        self._events.flush()

    def _add(self, metrics: Mapping[str, Any], step: int) -> None:
        for name, value in metrics.items():
            self._events.add_scalar(name, float(value), step)

    def close(self) -> None:
        self._events.close()
