"""Fetching from a server that stalls, truncates, changes, redirects, ignores ranges, fails."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from yolo_lite.utils.errors import UserError
from yolo_lite.utils.transfer import Patience, fetch

PATIENCE = Patience(timeout=0.3, attempts=3, wait=0.01, longest_wait=0.02)
BODY = bytes(range(256)) * 400
OTHER = BODY[::-1]


class Server:
    """Answers each request with the next of `answers`, the last one again and again.

    An answer is a function of the handler; what was asked for is in `ranges`.
    """

    def __init__(self) -> None:
        self.answers: list[Callable[[BaseHTTPRequestHandler], None]] = []
        self.ranges: list[str | None] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.ranges.append(self.headers.get("Range"))
                answer = outer.answers.pop(0) if len(outer.answers) > 1 else outer.answers[0]
                answer(self)

            def log_message(self, format: str, *args: object) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = True
        threading.Thread(target=self.http.serve_forever, args=(0.02,), daemon=True).start()
        self.url = f"http://127.0.0.1:{self.http.server_address[1]}/file.bin"


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    yield server
    server.http.shutdown()
    server.http.server_close()


def send(
    body: bytes = BODY,
    tag: str | None = '"1"',
    send_bytes: int | None = None,
    stall: bool = False,
    knows_ranges: bool = True,
    says_length: bool = True,
) -> Callable[[BaseHTTPRequestHandler], None]:
    """Answer with `body`, or the part asked for, or only `send_bytes` of it."""

    def answer(handler: BaseHTTPRequestHandler) -> None:
        asked, same = handler.headers.get("Range"), handler.headers.get("If-Range") == tag
        start = int(asked.removeprefix("bytes=").rstrip("-")) if asked and same and knows_ranges else 0
        handler.send_response(206 if start else 200)
        if start:
            handler.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
        if tag is not None:
            handler.send_header("ETag", tag)
        if says_length:
            handler.send_header("Content-Length", str(len(body) - start))
        handler.end_headers()
        part = body[start:]
        handler.wfile.write(part if send_bytes is None else part[:send_bytes])
        if stall:
            handler.wfile.flush()
            time.sleep(1)

    return answer


def fail(code: int) -> Callable[[BaseHTTPRequestHandler], None]:
    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(code)
        handler.send_header("Content-Length", "0")
        handler.end_headers()

    return answer


def redirect(handler: BaseHTTPRequestHandler) -> None:
    handler.send_response(302)
    handler.send_header("Location", "/elsewhere.bin")
    handler.send_header("Content-Length", "0")
    handler.end_headers()


CASES = {
    "plain": [send()],
    "truncated": [send(send_bytes=3000), send()],
    "stalls": [send(send_bytes=3000, stall=True), send()],
    "stalls_before_the_first_byte": [send(send_bytes=0, stall=True), send()],
    "redirected": [redirect, send()],
    "redirected_and_truncated": [redirect, send(send_bytes=3000), redirect, send()],
    "errors": [fail(500), fail(503), send()],
    "ignores_ranges": [send(send_bytes=3000), send(knows_ranges=False)],
    "no_tag": [send(tag=None, send_bytes=3000), send(tag=None)],
    "no_length": [send(says_length=False)],
    "little_by_little": [*[send(send_bytes=10000)] * 9, send()],
}


@pytest.mark.parametrize("case", CASES)
def test_arrives_whole(server: Server, tmp_path: Path, case: str) -> None:
    server.answers = list(CASES[case])
    digest = fetch(server.url, tmp_path / "file.bin", size=len(BODY), patience=PATIENCE)
    assert (tmp_path / "file.bin").read_bytes() == BODY
    assert digest == hashlib.sha256(BODY).hexdigest()
    assert [path.name for path in tmp_path.iterdir()] == ["file.bin"]


def test_goes_on_where_it_stopped(server: Server, tmp_path: Path) -> None:
    server.answers = [send(send_bytes=3000), send()]
    fetch(server.url, tmp_path / "file.bin", patience=PATIENCE)
    assert server.ranges == [None, "bytes=3000-"]


def test_a_later_command_goes_on(server: Server, tmp_path: Path) -> None:
    server.answers = [send(send_bytes=3000), fail(500)]
    with pytest.raises(UserError, match=r"cannot fetch .*HTTP 500.*3000 bytes are kept in .*file\.bin\.part"):
        fetch(server.url, tmp_path / "file.bin", patience=PATIENCE)
    assert not (tmp_path / "file.bin").exists()
    server.answers, server.ranges = [send()], []
    fetch(server.url, tmp_path / "file.bin", patience=PATIENCE)
    assert server.ranges == ["bytes=3000-"]
    assert (tmp_path / "file.bin").read_bytes() == BODY


@pytest.mark.parametrize("tag", ['"2"', None])
def test_a_file_that_changed_meanwhile_starts_again(server: Server, tmp_path: Path, tag: str | None) -> None:
    """Never the beginning of one version with the end of another."""
    server.answers = [send(send_bytes=3000), send(OTHER, tag=tag)]
    fetch(server.url, tmp_path / "file.bin", patience=PATIENCE)
    assert (tmp_path / "file.bin").read_bytes() == OTHER


def test_a_file_that_shrank_starts_again(server: Server, tmp_path: Path) -> None:
    server.answers = [send(send_bytes=3000), fail(416), send(BODY[:1000])]
    fetch(server.url, tmp_path / "file.bin", patience=PATIENCE)
    assert (tmp_path / "file.bin").read_bytes() == BODY[:1000]


def test_another_address_does_not_go_on_with_the_part(server: Server, tmp_path: Path) -> None:
    server.answers = [send(send_bytes=3000), fail(500)]
    with pytest.raises(UserError):
        fetch(server.url, tmp_path / "file.bin", patience=PATIENCE)
    server.answers = [send(OTHER)]
    fetch(server.url + "?mirror", tmp_path / "file.bin", patience=PATIENCE)
    assert (tmp_path / "file.bin").read_bytes() == OTHER


def test_gives_up(server: Server, tmp_path: Path) -> None:
    server.answers = [send(send_bytes=3000, knows_ranges=False)]
    with pytest.raises(UserError, match="got 3000 of"):
        fetch(server.url, tmp_path / "file.bin", patience=PATIENCE)
    assert len(server.ranges) == PATIENCE.attempts


def test_what_is_not_there_is_not_asked_for_again(server: Server, tmp_path: Path) -> None:
    server.answers = [fail(404)]
    with pytest.raises(UserError, match=r"HTTP 404.*--url"):
        fetch(server.url, tmp_path / "file.bin", patience=PATIENCE)
    assert len(server.ranges) == 1
    assert not list(tmp_path.iterdir())


def test_nobody_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot fetch"):
        fetch("http://127.0.0.1:9/file.bin", tmp_path / "file.bin", patience=PATIENCE)


def test_another_size_or_digest_is_refused(server: Server, tmp_path: Path) -> None:
    server.answers = [send()]
    with pytest.raises(UserError, match=f"{len(BODY)} bytes instead of 5"):
        fetch(server.url, tmp_path / "file.bin", size=5, patience=PATIENCE)
    with pytest.raises(UserError, match="SHA-256"):
        fetch(server.url, tmp_path / "file.bin", sha256="0" * 64, patience=PATIENCE)
    assert not list(tmp_path.iterdir())


def test_nothing_is_overwritten(server: Server, tmp_path: Path) -> None:
    (tmp_path / "file.bin").write_text("mine")
    with pytest.raises(UserError, match="exists"):
        fetch(server.url, tmp_path / "file.bin", patience=PATIENCE)
    assert (tmp_path / "file.bin").read_text() == "mine"
