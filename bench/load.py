"""The load generator: raw asyncio protocols on uvloop, in the bench's own process.

Owns what one measured run of a scenario is: connect, warm up, open the window, count, close it, and look at
every answer. It knows nothing of who is behind the port; `__main__` calls it and starts nothing in between.
"""

import asyncio
import gc
import itertools
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import cast

import httptools

from bench.procstat import Meter, Usage
from bench.upstream import COMPLETION_BYTES, END_EVENT, SENT_NS

_BODY = (
    b'{"model":"smollm2:135m","stream":%s,"messages":[{"role":"user","content":"Say hello to me, please."}],'
    b'"temperature":0.2,"max_tokens":32}'
)
_HEAD = (
    b"POST /v1/chat/completions%s HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nAccept: application/json\r\n"
    b"Content-Type: application/json\r\nAuthorization: Bearer ollama\r\nUser-Agent: bench\r\n"
    b"Content-Length: %d\r\n"
)
_LIMIT_SECONDS = 30.0  # what a run may take beyond its planned time
_task_numbers = itertools.count(1)


@dataclass(frozen=True, slots=True)
class JsonScenario:
    """`clients` connections, each sending its next small request when it has the last answer."""

    name: str
    title: str
    clients: int
    warm_seconds: float = 0.5
    seconds: float = 3.0
    unit: str = "request"


@dataclass(frozen=True, slots=True)
class SseScenario:
    """`streams` event streams at once, each of `rate` pieces a second."""

    name: str
    title: str
    streams: int
    rate: int
    warm_seconds: float = 1.0
    seconds: float = 5.0
    unit: str = "piece"


Scenario = JsonScenario | SseScenario


@dataclass(frozen=True, slots=True)
class Target:
    """Where one variant listens, and whether its clients name their tasks."""

    port: int
    sends_task_ids: bool


@dataclass(slots=True)
class Run:
    """What the clients of one run share: the open window's delays in seconds, answers and errors."""

    is_over: bool = False
    delays: list[float] = field(default_factory=list)
    answers: int = 0
    errors: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Measured:
    """One run's outcome: sorted delays of the window in seconds, CPU in it, and the whole run's answers."""

    delays: list[float]
    usage: Usage
    answers: int
    errors: list[str]


class _Client(asyncio.Protocol):
    """What both kinds of client share: the parser, the transport and what counts as an error."""

    def __init__(self, run: Run, target: Target, query: bytes = b"") -> None:
        self._run = run
        self._sends_task_ids = target.sends_task_ids
        self._body = _BODY % (b"true" if query else b"false")
        self._head = _HEAD % (query, target.port, len(self._body))
        self._parser = httptools.HttpResponseParser(self)
        self._is_done = False
        self.closed = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is none by inheritance
        self.send()

    def connection_lost(self, exc: Exception | None) -> None:
        if not self._is_done:
            self._run.errors.append(f"connection lost: {exc!r}")
        self.closed.set_result(None)

    def send(self) -> None:
        task_id = b"X-Task-Id: bench-%d\r\n" % next(_task_numbers) if self._sends_task_ids else b""
        self._transport.write(b"%s%s\r\n%s" % (self._head, task_id, self._body))

    def finish(self) -> None:
        self._is_done = True
        self._transport.close()

    def fail(self, what: str) -> None:
        self._run.errors.append(what)
        self.finish()


class _JsonClient(_Client):
    """Sends, waits for the whole answer, sends again."""

    _sent_at = 0.0
    _received_bytes = 0

    def send(self) -> None:
        self._received_bytes = 0
        self._sent_at = time.perf_counter()
        super().send()

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_body(self, data: bytes) -> None:
        self._received_bytes += len(data)

    def on_message_complete(self) -> None:
        self._run.delays.append(time.perf_counter() - self._sent_at)
        self._run.answers += 1
        status = self._parser.get_status_code()
        if status != 200 or self._received_bytes != COMPLETION_BYTES:
            self.fail(f"status {status}, {self._received_bytes} body bytes")
        elif self._run.is_over:
            self.finish()
        else:
            self.send()


class _SseClient(_Client):
    """Sends one request and notes for every piece how long it was under way."""

    def __init__(self, run: Run, target: Target, pieces: int, rate: int) -> None:
        super().__init__(run, target, b"?pieces=%d&rate=%d" % (pieces, rate))
        self._pieces_left = pieces
        self._is_ended = False
        self._buffer = b""
        self._received_ns = 0

    def data_received(self, data: bytes) -> None:
        self._received_ns = time.monotonic_ns()
        self._parser.feed_data(data)

    def on_body(self, data: bytes) -> None:
        *events, self._buffer = (self._buffer + data).split(b"\n\n")
        for event in events:
            if event == END_EVENT:
                self._is_ended = True
            else:
                self._pieces_left -= 1
                self._run.delays.append((self._received_ns - int(event[SENT_NS])) / 1e9)

    def on_message_complete(self) -> None:
        self._run.answers += 1
        status = self._parser.get_status_code()
        if status != 200 or self._pieces_left or not self._is_ended:
            self.fail(f"status {status}, {self._pieces_left} pieces missing, end seen: {self._is_ended}")
        else:
            self.finish()


async def measure(scenario: Scenario, target: Target, meter: Meter) -> Measured:
    """Run `scenario` once against `target`; TimeoutError when it takes much longer than planned."""
    planned_seconds = scenario.warm_seconds + scenario.seconds
    run = Run()
    async with asyncio.timeout(planned_seconds + _LIMIT_SECONDS):
        with _without_collector():
            clients = await _connect(scenario, target, run)
            await asyncio.sleep(scenario.warm_seconds)
            before = meter.read()
            run.delays.clear()
            await asyncio.sleep(scenario.seconds)
            usage, delays = meter.read() - before, sorted(run.delays)
            run.is_over = True
            await asyncio.gather(*(client.closed for client in clients))
    return Measured(delays, usage, run.answers, run.errors)


async def _connect(scenario: Scenario, target: Target, run: Run) -> list[_Client]:
    loop = asyncio.get_running_loop()

    def client() -> _Client:
        if isinstance(scenario, JsonScenario):
            return _JsonClient(run, target)
        # Half a second more than the window needs, so that no stream ends inside it.
        pieces = int((scenario.warm_seconds + scenario.seconds + 0.5) * scenario.rate)
        return _SseClient(run, target, pieces, scenario.rate)

    count = scenario.clients if isinstance(scenario, JsonScenario) else scenario.streams
    return [(await loop.create_connection(client, "127.0.0.1", target.port))[1] for _ in range(count)]


@contextmanager
def _without_collector() -> Iterator[None]:
    """No garbage collection of ours inside a window: its pauses would be read as the proxy's."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
