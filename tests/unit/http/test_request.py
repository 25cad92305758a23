"""Owns what the head of an answer leaves room for: no body goes out that the head does not announce.

And what a body that waits takes in memory.
"""

from __future__ import annotations

import tracemalloc
from typing import TYPE_CHECKING

import pytest

from gateway.http.request import BodyMismatch, Request

if TYPE_CHECKING:
    from collections.abc import Callable


class Wire:
    """A client's connection: what was sent on it, and how the answer on it ended."""

    is_writable = True
    is_read_paused = False

    def __init__(self) -> None:
        self.sent = b""
        self.end = ""
        self.send: Callable[[bytes], None] = self._take

    def _take(self, data: bytes) -> None:
        self.sent += data

    def hold_reading(self) -> None:
        """What waits in memory has changed."""

    def give_time(self) -> None:
        """The client may send on."""

    def look_for_client(self) -> None:
        """Whether the client is still there is asked."""

    def finish(self, request: Request) -> None:
        """The answer is complete."""
        self.end = "finished"

    def break_off(self, *, is_reset: bool) -> None:
        """It will not be."""
        self.end = "reset" if is_reset else "broken off"

    @property
    def body(self) -> bytes:
        """What was sent behind the head."""
        return self.sent.partition(b"\r\n\r\n")[2]


def asked(method: str = "GET", *, is_http_10: bool = False) -> tuple[Request, Wire]:
    """A whole request, and where its answer goes."""
    wire = Wire()
    request = Request(wire, method, b"/v1/x", [(b"host", b"h")], is_http_10=is_http_10, is_keep_alive=True)
    request.is_whole = True
    return request, wire


def test_a_body_of_the_announced_length_is_finished() -> None:
    """Pieces that are together as long as the head says end the answer well, and the connection goes on."""
    request, wire = asked()
    request.start(200, b"content-length: 5\r\n", length=5)
    request.write(b"he")
    request.end(b"llo")
    assert (wire.body, wire.end) == (b"hello", "finished")


NO_ROOM = {
    "a length": ("GET", 200, 5, b"hello"),
    "a length of nought": ("GET", 200, 0, b""),
    "an answer to HEAD": ("HEAD", 200, 5, b""),
    "204": ("GET", 204, None, b""),
    "304": ("GET", 304, 5, b""),
}


@pytest.mark.parametrize(("method", "status", "length", "body"), NO_ROOM.values(), ids=NO_ROOM)
def test_no_byte_goes_out_behind_the_body(method: str, status: int, length: int | None, body: bytes) -> None:
    """More than the head announces is refused: the client would take it for the next answer."""
    request, wire = asked(method)
    request.start(status, b"", length=length)
    if body:
        request.write(body)
    with pytest.raises(BodyMismatch):
        request.write(b"HTTP/1.1 200 OK\r\n\r\n")
    request.flush()
    assert wire.body == body


@pytest.mark.parametrize("last", [b"", b"hell", b"hello!"])
def test_an_end_that_does_not_fit_is_broken_off(last: bytes) -> None:
    """An answer that ends with too little or too much is broken off, and nothing of its last piece goes out."""
    request, wire = asked()
    request.start(200, b"content-length: 5\r\n", length=5)
    request.end(last)
    assert (wire.body, wire.end) == (b"", "broken off")


@pytest.mark.parametrize("is_http_10", [False, True])
def test_a_body_without_a_length_has_any(is_http_10: bool) -> None:
    """In chunks, or until the connection ends, there is room for every byte."""
    request, wire = asked(is_http_10=is_http_10)
    request.start(200, b"", length=None)
    request.write(b"hello")
    request.end(b"!")
    assert wire.body == (b"hello!" if is_http_10 else b"5\r\nhello\r\n1\r\n!\r\n0\r\n\r\n")
    assert wire.end == "finished"


def test_a_body_in_tiny_chunks_takes_no_more_memory_than_its_bytes() -> None:
    """Each piece would else take twenty times its size."""
    request, _ = asked("POST")
    tracemalloc.start()
    try:
        for number in range(2**16):
            request.feed(number.to_bytes(2))
        taken, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert taken < 2 * request.waiting_bytes
    assert request.take() == b"".join(number.to_bytes(2) for number in range(2**16))
