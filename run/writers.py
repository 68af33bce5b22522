"""Where the numbers of a run go: metrics.jsonl and metrics.csv, TensorBoard.

wandb_writer.py is for Weights & Biases.
"""

from __future__ import annotations

import csv
import io
import json
import os
import queue
import sys
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NoReturn, Protocol

from run.config import plain
from run.files import METRICS_CSV_FILE, METRICS_FILE, TENSORBOARD_FOLDER
from utils import UserError, atomic_write, json_object


class Writer(Protocol):
    """A place beside the local files that gets every row; its failures never stop a run."""

    def write(self, row: Mapping[str, Any], number: int) -> None:
        """Add a row, the run's `number`-th, from 0 on; a resumed run may repeat some."""

    def close(self) -> None: ...


# threads of writers that did not come to their end in time
_abandoned: list[threading.Thread] = []


def leave(code: int) -> NoReturn:
    """End the program, at once where a writer hangs: its library would wait for it at the exit."""
    if any(thread.is_alive() for thread in _abandoned):
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


class InBackground:
    """Another writer in a thread of its own: a slow one, or one that hangs, never holds up a run.

    What goes wrong in the thread is raised by the next call here.

    Args:
        name: The thread's name.
        make: Makes the writer; called in the thread.
        patience: Seconds that `close` waits for the rows that are still on their way.
    """

    def __init__(self, name: str, make: Callable[[], Writer], patience: float) -> None:
        self._make, self._patience = make, patience
        self._rows: queue.SimpleQueue[tuple[Mapping[str, Any], int] | None] = queue.SimpleQueue()
        self._error: Exception | None = None
        # a daemon: one that hangs does not keep the program from ending
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
            raise TimeoutError(f"not done {self._patience:.0f} seconds after the run's end")

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

    metrics.jsonl is the record: a row is one write, and is taken back if that write fails halfway.
    metrics.csv is derived from it; it is written anew when a row brings a new column.

    Args:
        run_dir: Folder of the files. Rows of an earlier session are kept; a last line that an
            interrupted write left unfinished is dropped.

    Raises:
        UserError: (from every method) a file cannot be read or written.
    """

    def __init__(self, run_dir: Path) -> None:
        self._jsonl, self._csv = run_dir / METRICS_FILE, run_dir / METRICS_CSV_FILE
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

        self._make, self._folder = SummaryWriter, run_dir / TENSORBOARD_FOLDER
        self._by_phase: dict[str, Any] = {}

    def write(self, row: Mapping[str, Any], number: int) -> None:
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
