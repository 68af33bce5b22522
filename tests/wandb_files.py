"""Reads the records of an offline wandb run."""

from pathlib import Path
from typing import Any

# a LevelDB log: blocks of records with a 7-byte header, whole or in parts
_BLOCK, _HEADER, _FILE_HEADER = 32768, 7, 7
_FULL, _LAST = 1, 4


def records(path: Path) -> list[Any]:
    """The records of a .wandb file, as wandb's protobuf messages."""
    from wandb.proto import wandb_internal_pb2

    content, place = path.read_bytes(), _FILE_HEADER
    found, parts = [], b""
    while place + _HEADER <= len(content):
        if _BLOCK - place % _BLOCK < _HEADER:
            place += _BLOCK - place % _BLOCK
            continue
        length = int.from_bytes(content[place + 4 : place + 6], "little")
        kind = content[place + 6]
        parts += content[place + _HEADER : place + _HEADER + length]
        place += _HEADER + length
        if kind in (_FULL, _LAST):
            record: Any = wandb_internal_pb2.Record()
            record.ParseFromString(parts)
            found.append(record)
            parts = b""
    return found


def of_kind(found: list[Any], kind: str) -> list[Any]:
    """The records of one kind: "run", "metric", "history", ..."""
    return [getattr(r, kind) for r in found if r.WhichOneof("record_type") == kind]
