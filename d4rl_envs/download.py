"""Download a file with resume: to `<name>.part`, checked, then renamed.

What the server reports about the file (ETag, date, size) is kept in `<name>.part.json`. The next
attempt requests the rest with an HTTP Range request. It starts over if the server does not support
ranges or the file has changed. One process at a time downloads a file; others wait for it.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import logging
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from tqdm import tqdm

from d4rl_envs.errors import DamagedFile, UserError

TIMEOUT = 30.0  # s without any byte
_CHUNK = 2**18
_NETWORK = (OSError, http.client.HTTPException)
_logger = logging.getLogger(__name__)
_TEMPORARY = (408, 425, 429, 500, 502, 503, 504)


class Unreachable(UserError):
    """The server cannot be reached; this applies to its other files, too."""


class _Interrupted(Exception):
    """The transfer failed; another attempt may succeed."""


# what the server reports about a file: url, validator (for If-Range) and size; None if unknown
_Remote = dict[str, Any]


def download(
    url: str,
    path: Path,
    check: Callable[[Path], None],
    *,
    attempts: int = 5,
    pause: float = 1.0,
) -> None:
    """Download `url` to `path` unless it exists, resuming an interrupted download.

    Args:
        check: Called with the complete file before it is renamed; raises `DamagedFile` to discard
            it, another `UserError` to keep it as `<name>.part`, which the next call checks again.
        attempts: Give up after this many consecutive failures without a byte of progress.
        pause: Seconds before the second attempt; doubled before each further one.

    Raises:
        UserError: the server refuses, or the file fails the check.
        Unreachable: no connection, or it keeps breaking; the part received is kept.
    """
    with _one_process(path):
        if not path.exists():  # else the process that had the lock has finished it
            _fetch(url, path, check, attempts, pause)


@contextlib.contextmanager
def _one_process(path: Path) -> Iterator[None]:
    """Hold the lock of a file's download."""
    lock = FileLock(path.with_name(f"{path.name}.part.lock"), fallback_to_soft=False)
    try:
        lock.acquire(0)
    except Timeout:
        _logger.warning("%s: another process is downloading it; waiting", path)
        lock.acquire()
    except OSError:
        pass  # a file system without locks; a folder that is not writable is reported below
    try:
        yield
    finally:
        Path(lock.lock_file).unlink(missing_ok=True)
        lock.release()


def _fetch(
    url: str, path: Path, check: Callable[[Path], None], attempts: int, pause: float
) -> None:
    """`download` with the lock held."""
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
    except DamagedFile:
        part.unlink()
        note.unlink()
        raise
    except UserError as error:
        raise UserError(f"{error}; kept as {part}, delete it to download it again") from None
    part.replace(path)
    note.unlink()


def _transfer(url: str, part: Path, note: Path) -> None:
    """Make one attempt; on return, `part` is complete."""
    known = _read_note(note, url)
    start = _size(part) if known else 0
    if start and start == known["size"]:
        return
    headers = {"User-Agent": "Mozilla/5.0 (dataset download)", "Accept-Encoding": "identity"}
    if start:
        headers["Range"] = f"bytes={start}-"
        if known["validator"]:
            headers["If-Range"] = known["validator"]
    request = urllib.request.Request(url, headers=headers)
    try:
        response = urllib.request.urlopen(request, timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == 416:  # the file has become shorter than our part
            part.unlink(missing_ok=True)
            raise _Interrupted("the file on the server has changed") from None
        if error.code in _TEMPORARY:
            raise _Interrupted(f"HTTP {error.code} {error.reason}") from None
        raise UserError(f"{url}: the server responds {error.code} {error.reason}") from None
    except _NETWORK as error:
        raise _Interrupted(str(getattr(error, "reason", error))) from None
    with response:
        remote = _describe(url, response)
        if response.status == 206:
            begins = response.headers.get("Content-Range", "").startswith(f"bytes {start}-")
            if not start or not begins or _differ(known, remote):
                part.unlink(missing_ok=True)
                raise _Interrupted("the file on the server has changed")
            remote = known
        else:  # the whole file
            start = 0
        _save(response, remote, part, note, start)
    if remote["size"] is not None and _size(part) != remote["size"]:
        raise _Interrupted(f"the connection ended after {_size(part)} of {remote['size']} bytes")


def _save(response: Any, remote: _Remote, part: Path, note: Path, start: int) -> None:
    """Append the response's body to the first `start` bytes of `part`."""
    bar = tqdm(desc=part.stem, total=remote["size"], initial=start, unit="B", unit_scale=True,
               disable=None)  # fmt: skip
    try:
        note.write_text(json.dumps(remote))
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
    field = "Content-Range" if response.status == 206 else "Content-Length"
    total = headers.get(field, "").rpartition("/")[2]
    etag = headers.get("ETag")
    weak = etag is None or etag.startswith("W/")  # not allowed in If-Range
    return {
        "url": url,
        "validator": headers.get("Last-Modified") if weak else etag,
        "size": int(total) if total.isdigit() else None,
    }


def _differ(known: _Remote, remote: _Remote) -> bool:
    """Whether both report different files; partial responses may report less."""
    return any(known[key] and remote[key] and known[key] != remote[key] for key in known)


def _read_note(note: Path, url: str) -> _Remote:
    """What an earlier attempt at this address noted; empty if there is nothing usable."""
    try:
        stored = json.loads(note.read_text())
        known = {key: stored[key] for key in ("url", "validator", "size")}
    except (OSError, ValueError, TypeError, KeyError):
        return {}
    return known if known["url"] == url else {}


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
