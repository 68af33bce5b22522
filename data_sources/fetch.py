"""Download a file in pieces that survive interruptions: resume, verify, then rename.

The bytes go to `<name>.part`, beside a note of what the server said about the file (address,
ETag, date, size). A later attempt asks for the rest by HTTP Range; where the server has no Range
support, or the file has changed meanwhile, it starts again.
"""

from __future__ import annotations

import http.client
import json
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import asdict, astuple, dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from utils import UserError, atomic_write

TIMEOUT = 30.0  # s without any byte
_CHUNK = 2**18
_NETWORK = (OSError, http.client.HTTPException)
# answers that may be different the next time
_PASSING = (408, 425, 429, 500, 502, 503, 504)


class Unreachable(UserError):
    """The server cannot be reached, so that its other files cannot be either."""


class _Interrupted(Exception):
    """The transfer failed in a way that another attempt may mend."""


@dataclass(frozen=True)
class _Remote:
    """What the server says about a file; fields are None where it says nothing."""

    url: str
    etag: str | None = None
    modified: str | None = None
    size: int | None = None

    @property
    def validator(self) -> str | None:
        """For `If-Range`: the server then sends the whole file if it has changed."""
        strong = self.etag and not self.etag.startswith("W/")
        return self.etag if strong else self.modified

    def may_be(self, other: _Remote) -> bool:
        """Whether nothing that both say differs; a partial answer may leave some of it out."""
        pairs = zip(astuple(self), astuple(other), strict=True)
        return all(mine == theirs for mine, theirs in pairs if mine and theirs)


def download(
    url: str,
    path: Path,
    check: Callable[[Path], None],
    *,
    attempts: int = 5,
    pause: float = 1.0,
) -> None:
    """Download `url` to `path`, going on where an earlier attempt stopped.

    Args:
        check: Is given the complete file before it is renamed; raises `UserError` if it is
            not what it should be, and the file is then discarded.
        attempts: Failures in a row, without a byte of progress, before giving up.
        pause: Seconds before the second attempt; doubled before each further one.

    Raises:
        UserError: the server refuses, or what it sends is not the file. `Unreachable`: there is
            no server, or it keeps breaking off; what came so far is kept for the next time.
    """
    part = path.with_name(f"{path.name}.part")
    note = path.with_name(f"{path.name}.part.json")
    failures = 0
    while True:
        before = _size(part)
        try:
            _transfer(url, part, note)
            break
        except _Interrupted as error:
            failures = 1 if _size(part) > before else failures + 1
            if failures >= attempts:
                raise Unreachable(
                    f"{url}: cannot be downloaded ({error}; {attempts} attempts)"
                ) from None
            time.sleep(pause * 2 ** (failures - 1))
    try:
        check(part)
    except UserError:
        part.unlink()
        raise
    finally:
        note.unlink(missing_ok=True)
    part.replace(path)


def _transfer(url: str, part: Path, note: Path) -> None:
    """One attempt; returns when `part` holds the whole file."""
    known = _read_note(note, url)
    start = _size(part) if known else 0
    if known and start and start == known.size:
        return
    headers = {"User-Agent": "Mozilla/5.0 (dataset download)", "Accept-Encoding": "identity"}
    if known and start:
        headers["Range"] = f"bytes={start}-"
        if known.validator:
            headers["If-Range"] = known.validator
    request = urllib.request.Request(url, headers=headers)
    try:
        response = urllib.request.urlopen(request, timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == 416:  # more bytes here than there: another file
            part.unlink(missing_ok=True)
            raise _Interrupted("the file on the server has changed") from None
        if error.code in _PASSING:
            raise _Interrupted(f"HTTP {error.code} {error.reason}") from None
        raise UserError(f"{url}: the server answers {error.code} {error.reason}") from None
    except _NETWORK as error:
        raise _Interrupted(str(getattr(error, "reason", error))) from None
    with response:
        remote = _describe(url, response)
        if response.status == 206:
            begins = response.headers.get("Content-Range", "").startswith(f"bytes {start}-")
            if not (known and begins and known.may_be(remote)):
                part.unlink(missing_ok=True)
                raise _Interrupted("the file on the server has changed")
            remote = known
        else:  # the whole file: nothing to resume, no Range support, or it has changed
            start = 0
        _save(response, remote, part, note, start)
    if remote.size is not None and _size(part) != remote.size:
        raise _Interrupted(f"the connection ended after {_size(part)} of {remote.size} bytes")


def _save(response: Any, remote: _Remote, part: Path, note: Path, start: int) -> None:
    """Append the response's body to the first `start` bytes of `part`."""
    bar = tqdm(
        desc=part.stem, total=remote.size, initial=start, unit="B", unit_scale=True, disable=None
    )
    try:
        with atomic_write(note, "w") as file:
            json.dump(asdict(remote), file)
        with bar, part.open("r+b" if start else "wb") as file:
            file.truncate(start)
            file.seek(start)
            while chunk := _receive(response):
                file.write(chunk)
                bar.update(len(chunk))
    except OSError as error:
        raise UserError(f"{part}: cannot be written ({error.strerror})") from None


def _receive(response: Any) -> bytes:
    try:
        return response.read1(_CHUNK)
    except _NETWORK as error:
        raise _Interrupted(str(error) or type(error).__name__) from None


def _describe(url: str, response: Any) -> _Remote:
    headers = response.headers
    if response.status == 206:
        total = headers.get("Content-Range", "").rpartition("/")[2]
    else:
        total = headers.get("Content-Length", "")
    size = int(total) if total.isdigit() else None
    return _Remote(url, headers.get("ETag"), headers.get("Last-Modified"), size)


def _read_note(note: Path, url: str) -> _Remote | None:
    """What was noted of an earlier attempt at this address; None if that is nothing usable."""
    try:
        known = _Remote(**json.loads(note.read_text()))
    except (OSError, ValueError, TypeError):
        return None
    return known if known.url == url else None


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
