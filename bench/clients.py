"""The clients of the load generator: raw asyncio protocols on uvloop that check every answer.

Owns what the clients send, which answers are right, and what they record. Knows nothing of windows, rounds or variants.
"""

import asyncio
import itertools
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import cast

import httptools

from bench.upstream import COMPLETION

_BODY = (
    b'{"model":"smollm2:135m","messages":[{"role":"user","content":"Say hello to me, please.%s"}],'
    b'"temperature":0.2,"max_tokens":32%s}'
)
_HEAD = (
    b"POST %s/v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nAccept: application/json\r\n"
    b"Content-Type: application/json\r\nAuthorization: Bearer ollama\r\nUser-Agent: bench\r\n%s"
    b"Content-Length: %d\r\n"
)
_MARK = b"How can I help you today?"  # in the completion, however it is written
_DONE = b"data: [DONE]"
_SENT, _ASKED = b'"sent=', b" asked="
_DIGITS = 20
_task_numbers = itertools.count(1)


@dataclass(frozen=True, slots=True)
class Target:
    """Where a variant listens; `fields` are additional header lines that its clients send.

    One that is not `is_verbatim` writes the upstream's answers anew. `prefix`: what its paths begin with.
    """

    port: int
    sends_task_ids: bool = False
    fields: bytes = b""
    is_verbatim: bool = True
    prefix: str = ""


@dataclass(slots=True)
class Run:
    """The shared results of the clients of one run: delays in seconds, answers and errors."""

    is_over: bool = False
    delays: list[float] = field(default_factory=list)
    first_bytes: list[float] = field(
        default_factory=list
    )  # what a stream's first piece took beside the upstream's time
    answers: int = 0
    errors: list[str] = field(default_factory=list)


class Client(asyncio.Protocol):
    """The base of all clients: parser, transport, and what counts as an error. `request` returns the next request."""

    def __init__(self, run: Run, request: Callable[[], bytes]) -> None:
        self._run = run
        self._request = request
        self._parser = httptools.HttpResponseParser(self)
        self._is_done = False
        self._sent_at = 0.0
        self.closed = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is none by inheritance
        self.send()

    def connection_lost(self, exc: Exception | None) -> None:
        if not self._is_done:
            self._run.errors.append(f"connection lost: {exc!r}")
        self.closed.set_result(None)

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def send(self) -> None:
        request = self._request()
        self._sent_at = time.perf_counter()
        self._transport.write(request)

    def finish(self) -> None:
        self._is_done = True
        self._transport.close()

    def _answered(self, complaint: str) -> None:
        """One answer is complete; the next request follows while the run lasts."""
        self._run.answers += 1
        if complaint:
            self._run.errors.append(f"status {self._parser.get_status_code()}, {complaint}")
        if complaint or self._run.is_over:
            self.finish()
        else:
            self.send()


class AskingClient(Client):
    """Sends, waits for the whole answer, sends again. `is_right` judges the body of an answer with `status`."""

    def __init__(
        self, run: Run, request: Callable[[], bytes], is_right: Callable[[bytes], bool], status: int = 200
    ) -> None:
        super().__init__(run, request)
        self._is_right = is_right
        self._status = status
        self._body = b""

    def on_body(self, piece: bytes) -> None:
        self._body += piece

    def on_message_complete(self) -> None:
        self._run.delays.append(time.perf_counter() - self._sent_at)
        body, self._body = self._body, b""
        is_good = self._parser.get_status_code() == self._status and self._is_right(body)
        self._answered("" if is_good else f"body {body[:200]!r}")


class PacedClient(AskingClient):
    """Sends `rate` times a second, or at once if the last answer came later than that."""

    def __init__(
        self, run: Run, request: Callable[[], bytes], is_right: Callable[[bytes], bool], *, rate: float
    ) -> None:
        super().__init__(run, request, is_right)
        self._interval_seconds = 1 / rate
        self._next_at = asyncio.get_running_loop().time() + random.random() * self._interval_seconds

    def send(self) -> None:
        asyncio.get_running_loop().call_at(self._next_at, super().send)
        self._next_at += self._interval_seconds


class WaitingClient(Client):
    """Asks once, for a status that is to change. `answered_ns` is the clock when the answer had come; 0 before."""

    def __init__(self, run: Run, request: Callable[[], bytes], is_right: Callable[[bytes], bool]) -> None:
        super().__init__(run, request)
        self._is_right = is_right
        self._body = b""
        self.answered_ns = 0

    def on_body(self, piece: bytes) -> None:
        self._body += piece

    def on_message_complete(self) -> None:
        self.answered_ns = time.monotonic_ns()
        if self._parser.get_status_code() != 200 or not self._is_right(self._body):
            self._run.errors.append(f"status {self._parser.get_status_code()}, body {self._body[:200]!r}")
        self.finish()


class BulkClient(Client):
    """Sends and receives large bodies without keeping them. `size` is an answer's size; None: at least a byte."""

    def __init__(self, run: Run, request: Callable[[], bytes], size: int | None) -> None:
        super().__init__(run, request)
        self._size = size
        self._received = 0

    def on_body(self, piece: bytes) -> None:
        self._received += len(piece)

    def on_message_complete(self) -> None:
        self._run.delays.append(time.perf_counter() - self._sent_at)
        received, self._received = self._received, 0
        is_whole = received == self._size or (self._size is None and received)
        is_good = self._parser.get_status_code() == 200 and is_whole
        self._answered("" if is_good else f"{received} body bytes")


class StreamClient(Client):
    """Requests an event stream and records the delay of every piece. `sent_ns`: the upstream's clock at the last one.

    `repeats`: asks for the next one at its end, else leaves.
    """

    def __init__(self, run: Run, request: Callable[[], bytes], pieces: int, *, repeats: bool = False) -> None:
        super().__init__(run, request)
        self._pieces = self._pieces_left = pieces
        self._repeats = repeats
        self._is_ended = False
        self._buffer = b""
        self._received_ns = 0
        self.sent_ns = 0
        self.has_begun = asyncio.get_running_loop().create_future()

    def data_received(self, data: bytes) -> None:
        self._received_ns = time.monotonic_ns()
        self._parser.feed_data(data)

    def on_body(self, data: bytes) -> None:
        *events, self._buffer = (self._buffer + data).split(b"\n\n")
        for event in events:
            if event == _DONE:
                self._is_ended = True
            elif (sent_ns := _number(event, _SENT)) is not None:
                self._take(event, sent_ns)

    def _take(self, event: bytes, sent_ns: int) -> None:
        if self._pieces_left == self._pieces:
            upstream_ns = sent_ns - (_number(event, _ASKED) or sent_ns)
            self._run.first_bytes.append(time.perf_counter() - self._sent_at - upstream_ns / 1e9)
            if not self.has_begun.done():
                self.has_begun.set_result(None)
        self._pieces_left -= 1
        self.sent_ns = sent_ns
        self._run.delays.append((self._received_ns - sent_ns) / 1e9)

    def on_message_complete(self) -> None:
        is_whole = not self._pieces_left and self._is_ended and self._parser.get_status_code() == 200
        complaint = "" if is_whole else f"{self._pieces_left} pieces missing, end seen: {self._is_ended}"
        self._pieces_left, self._is_ended, self._buffer = self._pieces, False, b""
        if self._repeats or complaint:
            self._answered(complaint)
        else:
            self._run.answers += 1
            self.finish()


def chat(target: Target, plan: str = "", *, is_stream: bool = False, padding: int = 0) -> Callable[[], bytes]:
    """Chat requests for `target`; `plan` tells the upstream what to answer; `padding` bytes make the body long."""
    more = b',"stream":true' if is_stream else b""
    words = f" [{plan}]".encode() if plan else b""
    more += b',"metadata":"%s"' % bytes(padding).replace(b"\0", b"x") if padding else b""
    body = _BODY % (words, more)
    head = _HEAD % (target.prefix.encode(), target.port, target.fields, len(body))
    if not target.sends_task_ids:
        request = b"%s\r\n%s" % (head, body)
        return lambda: request
    return lambda: b"%sX-Task-Id: bench-%d\r\n\r\n%s" % (head, next(_task_numbers), body)


def is_completion(target: Target) -> Callable[[bytes], bool]:
    """Whether a body is the upstream's completion: byte for byte, if the variant relays bytes."""
    return COMPLETION.__eq__ if target.is_verbatim else lambda body: _MARK in body


def _number(event: bytes, name: bytes) -> int | None:
    """The number after `name` in a piece; None if a peer added the piece itself."""
    begin = event.find(name)
    return None if begin < 0 else int(event[begin + len(name) : begin + len(name) + _DIGITS])
