"""Downloads from a local server that interrupts, changes files and lacks features."""

import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from d4rl_envs import download as fetch
from d4rl_envs.errors import DamagedFile
from utils import UserError

CONTENT = bytes(i * 7 % 251 for i in range(700_000))


class Server(ThreadingHTTPServer):
    """Serves one file.

    Attributes:
        content, etag, modified: The file, and its validators (None: not sent).
        ranges: Whether Range requests are honoured.
        cuts: Bytes after which the connection ends, one per response.
        statuses: Error codes of the first responses.
        length: Whether Content-Length is sent.
        requests: Headers of each request.
    """

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.content, self.etag, self.modified = CONTENT, '"v1"', None
        self.ranges, self.length = True, True
        self.cuts: list[int | None] = []
        self.statuses: list[int] = []
        self.requests: list[dict[str, str]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/file.hdf5"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def log_message(self, *_):
        pass

    def do_GET(self):
        server = self.server
        server.requests.append(dict(self.headers))
        if server.statuses:
            self.send_error(server.statuses.pop(0))
            return
        start = self.range_start()
        if start is not None and start >= len(server.content):
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(server.content)}")
            self.end_headers()
            return
        body = server.content[start or 0 :]
        self.send_response(200 if start is None else 206)
        if start is not None:
            total = len(server.content)
            self.send_header("Content-Range", f"bytes {start}-{total - 1}/{total}")
        if server.length:
            self.send_header("Content-Length", str(len(body)))
        for name, value in (("ETag", server.etag), ("Last-Modified", server.modified)):
            if value:
                self.send_header(name, value)
        self.end_headers()
        cut = server.cuts.pop(0) if server.cuts else None
        self.wfile.write(body[:cut])

    def range_start(self) -> int | None:
        """First byte to send; None for the whole file."""
        wanted = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        if not wanted or not self.server.ranges:
            return None
        condition = self.headers.get("If-Range")
        if condition and condition not in (self.server.etag, self.server.modified):
            return None
        return int(wanted[1])


@pytest.fixture
def server():
    server = Server()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def path(tmp_path):
    return tmp_path / "file.hdf5"


def no_check(part: Path) -> None:
    assert part.exists()


def get(server, path, check=no_check, attempts=3):
    fetch.download(server.url, path, check, attempts=attempts, pause=0.001)


def only(path):
    """Whether the folder contains only the file."""
    return [entry.name for entry in path.parent.iterdir()] == [path.name]


def interrupt(server, path, size=250_000):
    """Interrupt a download after `size` bytes, for good."""
    server.cuts = [size, 0, 0]
    with pytest.raises(fetch.Unreachable, match=f"connection ended after {size} of 700000"):
        get(server, path)
    assert path.with_name("file.hdf5.part").stat().st_size == size
    assert not path.exists()
    server.requests.clear()


def test_uninterrupted_download(server, path):
    get(server, path)
    assert path.read_bytes() == CONTENT
    assert len(server.requests) == 1
    assert only(path)


def test_broken_connection_is_resumed_at_once(server, path):
    server.cuts = [300_000, 200_000]
    get(server, path)
    assert path.read_bytes() == CONTENT
    assert [request.get("Range") for request in server.requests] == [
        None,
        "bytes=300000-",
        "bytes=500000-",
    ]
    assert only(path)


def test_resumed_by_a_later_process(server, path):
    interrupt(server, path)
    get(server, path)
    assert path.read_bytes() == CONTENT
    assert server.requests[0]["Range"] == "bytes=250000-"
    assert server.requests[0]["If-Range"] == '"v1"'
    assert only(path)


def test_attempts_count_from_the_last_progress(server, path):
    server.cuts = [50_000] * 10
    get(server, path, attempts=2)
    assert path.read_bytes() == CONTENT


def test_server_without_ranges_starts_over(server, path):
    interrupt(server, path)
    server.ranges = False
    get(server, path)
    assert path.read_bytes() == CONTENT
    assert only(path)


@pytest.mark.parametrize("size", [700_000, 400_000, 100_000])
def test_changed_file_starts_over(server, path, size):
    interrupt(server, path)
    server.content, server.etag = CONTENT[::-1][:size], '"v2"'
    get(server, path)
    assert path.read_bytes() == server.content
    assert only(path)


def test_changed_file_without_validators_is_detected_by_its_size(server, path):
    server.etag = None
    interrupt(server, path)
    assert "If-Range" not in server.requests
    for size in (600_000, 200_000):  # more and less than was received
        server.content = CONTENT[::-1][:size]
        get(server, path)
        assert path.read_bytes() == server.content
        path.unlink()
        server.content = CONTENT
        interrupt(server, path)


def test_server_that_ignores_if_range_starts_over(server, path, monkeypatch):
    interrupt(server, path)
    server.content, server.etag = CONTENT[::-1], '"v2"'
    monkeypatch.setattr(
        Handler, "range_start", lambda self: 250_000 if "Range" in self.headers else None
    )
    get(server, path)
    assert path.read_bytes() == server.content


def test_weak_etag_resumes_by_date(server, path):
    server.etag, server.modified = 'W/"v1"', "Mon, 01 Jan 2024 00:00:00 GMT"
    interrupt(server, path)
    get(server, path)
    assert server.requests[0]["If-Range"] == server.modified
    assert path.read_bytes() == CONTENT


def test_partial_file_of_another_address_is_not_used(server, path):
    interrupt(server, path)
    note = path.with_name("file.hdf5.part.json")
    note.write_text(note.read_text().replace("/file.hdf5", "/other.hdf5"))
    get(server, path)
    assert "Range" not in server.requests[0]
    assert path.read_bytes() == CONTENT


@pytest.mark.parametrize("note", ["", "[]", '{"url": 1, "x": 2}'])
def test_damaged_note_starts_over(server, path, note):
    interrupt(server, path)
    path.with_name("file.hdf5.part.json").write_text(note)
    get(server, path)
    assert path.read_bytes() == CONTENT


def test_complete_part_is_not_downloaded_again(server, path):
    interrupt(server, path)
    path.with_name("file.hdf5.part").write_bytes(CONTENT)
    get(server, path)
    assert server.requests == []
    assert path.read_bytes() == CONTENT


def test_without_content_length(server, path):
    server.length = False
    get(server, path)
    assert path.read_bytes() == CONTENT


def test_404_is_not_retried(server, path):
    server.statuses = [404]
    with pytest.raises(UserError, match="the server responds 404 Not Found") as error:
        get(server, path)
    assert not isinstance(error.value, fetch.Unreachable)
    assert len(server.requests) == 1
    assert not any(path.parent.iterdir())


def test_temporary_errors_are_retried(server, path):
    server.statuses = [503, 429]
    get(server, path)
    assert path.read_bytes() == CONTENT
    path.unlink()
    server.statuses = [503] * 3
    with pytest.raises(fetch.Unreachable, match=r"HTTP 503 .*3 attempts"):
        get(server, path)


def test_unreachable_server(server, path):
    server.shutdown()
    server.server_close()
    with pytest.raises(fetch.Unreachable, match=r"127\.0\.0\.1.*refused.*3 attempts") as error:
        get(server, path)
    assert "\n" not in str(error.value)


def test_damaged_file_is_discarded(server, path):
    def refuse(part: Path) -> None:
        assert part.read_bytes() == CONTENT
        raise DamagedFile("not a dataset")

    with pytest.raises(UserError, match="not a dataset"):
        get(server, path, refuse)
    assert not any(path.parent.iterdir())


def test_a_second_process_waits_and_finds_the_file(server, path):
    path.with_name("file.hdf5.part.lock").touch()  # as a killed process leaves it
    checking, checked = threading.Event(), threading.Event()

    def check(part: Path) -> None:
        checking.set()
        assert checked.wait(20)

    first, second = (threading.Thread(target=get, args=(server, path, check)) for _ in range(2))
    first.start()
    assert checking.wait(20)
    second.start()
    second.join(0.2)
    assert second.is_alive()
    checked.set()
    first.join()
    second.join()
    assert len(server.requests) == 1
    assert path.read_bytes() == CONTENT
    assert only(path)


def test_a_second_process_resumes_after_the_first_one_failed(server, path):
    server.cuts = [250_000, 0, 0]
    with fetch._one_process(path):
        second = threading.Thread(target=get, args=(server, path))
        second.start()
        with pytest.raises(fetch.Unreachable):
            fetch._fetch(server.url, path, no_check, 3, 0.001)
    second.join()
    assert server.requests[-1]["Range"] == "bytes=250000-"
    assert path.read_bytes() == CONTENT
    assert only(path)


def test_folder_that_cannot_be_written(server, path):
    path.with_name("file.hdf5.part").mkdir()
    with pytest.raises(UserError, match="cannot be written"):
        get(server, path)
