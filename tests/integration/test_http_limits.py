"""Owns the promises about clients that ask for too much: heads, times, bodies, requests and connections have limits.

The numbers that take long are shortened; that they are the contract's is looked at here too.
"""

from __future__ import annotations

import asyncio
import os
import resource
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from gateway.http import limits
from tests.support.faults import elapse
from tests.support.impatient import ImpatientGateway
from tests.support.scripted import JSON, Gated, answering
from tests.support.waiting import until, until_steady, within
from tests.support.wire import request

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.conftest import Launch
    from tests.support.gateway import Gateway
    from tests.support.scripted import Exchange, Upstream
    from tests.support.wire import Client


MEGABYTE = 1024 * 1024
GROWTH_BOUND = 16 * MEGABYTE
SHORT = {
    "IDLE_SECONDS": 2.2, "HEAD_SECONDS": 1.5, "BODY_SECONDS": 2, "STALL_SECONDS": 5,
    "LINGER_IDLE_SECONDS": 0.5, "LINGER_SECONDS": 2,
}  # fmt: skip
CHUNKED = (b"Transfer-Encoding", b"chunked")


@pytest.fixture(scope="module")
async def short(scripted: Upstream, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[ImpatientGateway]:
    """A gateway whose times are short."""
    log = tmp_path_factory.mktemp("impatient") / "gateway.log"
    gateway = ImpatientGateway(
        log, SHORT, UPSTREAM_BASE=f"http://127.0.0.1:{scripted.port}", MAX_BODY_BYTES="100000000"
    )
    yield await gateway.start()
    await gateway.stop()


async def until_closed(client: Client) -> None:
    """Wait until the gateway closes the connection, whatever it says before."""
    with suppress(ConnectionResetError):  # it was closed while we were sending
        await within(30, client.reader.read(), "the connection is closed")


async def test_the_numbers_are_the_contracts() -> None:
    """64 KiB, 10 s for a head, 60 s for a connection without one, 30 s of stall in a body, 5 minutes in an answer."""
    numbers = (limits.MAX_HEAD_BYTES, limits.HEAD_SECONDS, limits.IDLE_SECONDS, limits.BODY_SECONDS)
    assert numbers == (65_536, 10.0, 60.0, 30.0)
    assert limits.STALL_SECONDS == 300.0


# -- heads --


def head_of(size: int) -> bytes:
    """A request whose head has exactly `size` bytes."""
    start = b"GET /v1/own HTTP/1.1\r\nHost: a\r\nX: "
    return start + b"y" * (size - len(start) - 4) + b"\r\n\r\n"


@pytest.mark.parametrize("step", [1_000_000, 65_536, 40_000, 4_096, 509])
async def test_a_head_may_have_64_kib(tracked: Gateway, upstream: Upstream, step: int) -> None:
    """65,536 bytes are taken and one more is 431, however they are cut."""
    for size, status in ((65_536, 200), (65_537, 431)):
        client = await tracked.connect()
        raw = head_of(size)
        for start in range(0, size, step):
            await client.send(raw[start : start + step])
        answer = await within(30, client.answer(), "an answer")
        assert answer.status == status
        assert await client.at_end() if status == 431 else (await client.ask("GET", "/v1/own")).status == 200
    assert len(upstream.exchanges) == 2


async def test_a_head_without_end_is_refused_while_it_comes(tracked: Gateway, upstream: Upstream) -> None:
    """No one has to send the end of a head to learn that it is too long."""
    client = await tracked.connect()
    await client.send(head_of(300_000)[:200_000])
    assert (await within(30, client.answer(), "an answer")).status == 431
    assert upstream.exchanges == []


async def test_a_head_may_have_128_fields(tracked: Gateway, upstream: Upstream) -> None:
    """One more is 431, and that before the head's end: small fields take many times their size in memory."""
    client = await tracked.connect()
    fields = [(b"X", b"y")] * 127  # and Host
    assert (await client.ask("GET", "/v1/own", *fields)).status == 200
    await client.send(request("GET", "/v1/own", *fields, (b"X", b"y")).removesuffix(b"\r\n") + b"Z")
    assert (await within(30, client.answer(), "an answer")).status == 431
    assert len(upstream.exchanges) == 1


async def test_long_heads_behind_each_other_are_counted_apart(tracked: Gateway, upstream: Upstream) -> None:
    """Pipelined requests with heads of 40 KB are five heads, not one of 200 KB."""
    client = await tracked.connect()
    await client.send(head_of(40_000) * 5)
    assert [(await client.answer()).status for _ in range(5)] == [200] * 5


# -- times --


async def test_a_silent_connection_is_closed(short: ImpatientGateway, upstream: Upstream) -> None:
    """A connection on which nothing is sent ends after its time, without a word."""
    start = time.monotonic()
    await until_closed(await short.connect())
    assert time.monotonic() - start > 2


async def test_empty_lines_are_no_request(short: ImpatientGateway, upstream: Upstream) -> None:
    """Who keeps sending empty lines is as silent as who sends nothing."""
    client = await short.connect()

    async def knock() -> None:
        while not client.reader.at_eof():
            await client.send(b"\r\n")
            await short.ask("GET", "/livez")

    knocking = asyncio.create_task(knock())
    await until_closed(client)
    await asyncio.gather(knocking, return_exceptions=True)


async def test_a_kept_connection_is_closed_when_idle(short: ImpatientGateway, upstream: Upstream) -> None:
    """After an answer the same time counts from its end."""
    client = await short.connect()
    start = time.monotonic()
    assert (await client.ask("GET", "/v1/own")).status == 200
    await until_closed(client)
    assert time.monotonic() - start > 2


async def test_a_slow_head_is_closed(short: ImpatientGateway, upstream: Upstream) -> None:
    """The time of a head runs from its first byte to its end: trickling does not prolong it."""
    client = await short.connect()
    start = time.monotonic()
    await client.send(b"GET /v1/own HTTP/1.1\r\nX: ")

    async def trickle() -> None:
        while not client.reader.at_eof():
            await client.send(b"y")
            await short.ask("GET", "/livez")

    trickling = asyncio.create_task(trickle())
    answer = await within(30, client.answer(), "the end of its patience")
    assert answer.status == 408
    assert time.monotonic() - start > 1.4
    await asyncio.gather(trickling, return_exceptions=True)  # it ends with the connection
    assert upstream.exchanges == []


async def test_a_slow_head_behind_an_answer_is_closed(short: ImpatientGateway, upstream: Upstream) -> None:
    """The time counts for every head of a connection, not only for the first."""
    client = await short.connect()
    assert (await client.ask("GET", "/v1/own")).status == 200
    await client.send(b"GET /v1/own HTTP/1.1\r\n")
    assert (await within(30, client.answer(), "the end of its patience")).status == 408


async def test_a_stalled_body_is_closed(short: ImpatientGateway, upstream: Upstream) -> None:
    """A body that stops half-way ends the connection, the upstream's too, and the task is no success."""
    client = await short.connect()
    start = time.monotonic()
    await client.send(request("POST", "/v1/own", (b"X-Task-Id", b"stalled"), (b"Content-Length", b"10")) + b"hello")
    got = await upstream.exchange()
    await within(30, got.closed.wait(), "the upstream is closed")
    assert 1.8 < time.monotonic() - start < 30
    assert (await client.answer()).status == 408
    assert (await short.ended("stalled"))["state"] == "FAILED"
    assert not got.body.complete


async def test_a_body_that_trickles_has_stalled(short: ImpatientGateway, upstream: Upstream) -> None:
    """Less than a kilobyte in the time of a stall is a stall."""
    start = time.monotonic()
    client = await short.send("POST", "/v1/own", CHUNKED)

    async def trickle() -> None:
        while not client.reader.at_eof():
            await client.send(b"1\r\nx\r\n")
            await until_steady(lambda: len(upstream.exchanges), steady_seconds=0.05)

    trickling = asyncio.create_task(trickle())
    await until_closed(client)
    assert 1.8 < time.monotonic() - start < 30
    await asyncio.gather(trickling, return_exceptions=True)  # it ends with the connection


async def test_a_client_that_waits_for_100_continue_in_the_queue_is_not_late(
    scripted: Upstream, upstream: Upstream, tmp_path: Path
) -> None:
    """It may not send before it has its place; from then on it has its full time, and no more."""
    base, seconds = f"http://127.0.0.1:{scripted.port}", 4
    numbers = SHORT | {"BODY_SECONDS": seconds}
    gateway = ImpatientGateway(tmp_path / "gateway.log", numbers, UPSTREAM_BASE=base, MAX_RUNNING="1")
    await gateway.start()
    running = upstream.gated(JSON)
    first = await gateway.send("POST", "/v1/own", body=b"{}")
    await upstream.exchange()
    waits = (b"Expect", b"100-continue"), (b"Content-Length", b"2")
    client = await gateway.send("POST", "/v1/own", *waits)
    silent = await gateway.send("POST", "/v1/own", *waits)
    await elapse(1.7 * seconds, time.monotonic(), "longer than a body may take, and not two times that")
    running.head()
    running.end()
    assert (await within(30, first.answer())).status == 200
    assert (await within(30, client.head())).status == 100
    await elapse(0.5 * seconds, time.monotonic(), "longer than was left of two times that")
    await client.send(b"{}")
    assert (await within(30, client.answer())).status == 200
    assert (await within(30, silent.head())).status == 100
    assert (await within(30, silent.answer())).status == 408
    await gateway.stop()


async def test_a_slow_body_is_taken(short: ImpatientGateway, upstream: Upstream) -> None:
    """A kilobyte in that time is enough, for as long as it takes."""
    client = await short.send("POST", "/v1/own", CHUNKED)
    start = time.monotonic()
    while time.monotonic() - start < 5:
        await client.send(b"400\r\n" + b"x" * 1024 + b"\r\n")
        await until_steady(lambda: len(upstream.exchanges), steady_seconds=0.3)
    await client.send(b"0\r\n\r\n")
    assert (await within(30, client.answer(), "an answer")).status == 200


async def test_a_slow_upstream_is_not_the_clients_stall(scripted: Upstream, upstream: Upstream, tmp_path: Path) -> None:
    """While the upload waits for the upstream, the client is not late; when it goes on, nothing is lost."""
    base, numbers = f"http://127.0.0.1:{scripted.port}", SHORT | {"BODY_SECONDS": 5}
    gateway = ImpatientGateway(tmp_path / "gateway.log", numbers, UPSTREAM_BASE=base, MAX_BODY_BYTES="100000000")
    await gateway.start()

    async def script(exchange: Exchange) -> None:
        exchange.stop_reading()
        await elapse(7, time.monotonic(), "longer than a client may stall")
        exchange.go_on_reading()
        await exchange.answer(200, body=b"{}")

    upstream.then(script)
    start = time.monotonic()
    answer = await gateway.ask("POST", "/v1/own", body=bytes(60_000_000))
    assert answer.status == 200
    assert time.monotonic() - start > 7
    assert upstream.exchanges[0].body.size == 60_000_000
    await gateway.stop()


async def test_a_slow_answer_has_no_limit(short: ImpatientGateway, upstream: Upstream) -> None:
    """None of the times counts while the client waits for its answer."""
    slow = upstream.gated()
    client = await short.send("POST", "/v1/own", body=b"{}")
    await upstream.exchange()
    await until_steady(lambda: len(upstream.exchanges), steady_seconds=2)
    slow.head()
    assert (await within(30, client.head(), "the head")).status == 200
    await until_steady(lambda: len(upstream.exchanges), steady_seconds=2)
    slow.piece(b"data: [DONE]\n\n")
    slow.end()
    assert await within(30, client.up_to(b"0\r\n\r\n"), "the end")
    assert (await client.ask("GET", "/v1/own")).status == 200


# -- readers --

LARGE = bytes(20 * MEGABYTE)


async def reading_nothing(gateway: Gateway, upstream: Upstream, task_id: str) -> Client:
    """A client whose large answer has filled all buffers on its way."""
    upstream.then(answering(200, JSON, body=LARGE))
    client = await gateway.connect(receive_buffer=65_536)
    await client.send(request("GET", "/v1/own", (b"X-Task-Id", task_id.encode())))
    assert (await client.head()).status == 200
    return client


async def test_who_takes_nothing_of_an_answer_is_closed(
    short: ImpatientGateway, upstream: Upstream, fresh_id: str
) -> None:
    """A reader that takes nothing for the time of a stall is let go, and its task has ended."""
    start = time.monotonic()
    await reading_nothing(short, upstream, fresh_id)
    assert (await short.ended(fresh_id))["extensions"]["reason"] == "client_disconnect"
    assert time.monotonic() - start > 4.5


async def test_who_takes_little_is_waited_for(short: ImpatientGateway, upstream: Upstream, fresh_id: str) -> None:
    """A reader that takes a little now and then gets all of it, however long that takes."""
    client = await reading_nothing(short, upstream, fresh_id)
    start, got = time.monotonic(), 0
    while time.monotonic() - start < 8:
        got += len(await client.reader.readexactly(300_000))
        await until_steady(lambda: len(upstream.exchanges), steady_seconds=1.5)
    assert (await short.status(fresh_id))["state"] == "RUNNING"
    await within(30, client.reader.readexactly(len(LARGE) - got), "the rest")
    assert (await short.ended(fresh_id))["state"] == "SUCCESS"


async def test_the_end_of_an_answer_waits_for_its_reader(
    scripted: Upstream, upstream: Upstream, tmp_path: Path
) -> None:
    """While the end of the last answer is on its way, its connection is not idle, whatever kernels hold of it."""
    base, numbers = f"http://127.0.0.1:{scripted.port}", SHORT | {"STALL_SECONDS": 120}
    gateway = await ImpatientGateway(tmp_path / "gateway.log", numbers, UPSTREAM_BASE=base).start()
    waiting = []
    for size in range(100_000, 6_000_000, 100_000):  # one of them ends between the kernel's buffers and our own
        upstream.then(answering(200, JSON, body=bytes(size)))
        client = await gateway.connect(receive_buffer=65_536)
        await client.send(request("GET", "/v1/own"))
        assert (await client.head()).status == 200
        waiting.append((client, size))
    await until_steady(lambda: len(upstream.exchanges), steady_seconds=3.5)
    for client, size in waiting:
        await within(30, client.reader.readexactly(size), "the rest")
    await gateway.stop()


async def test_a_broken_off_answer_does_not_wait_for_its_reader(
    short: ImpatientGateway, upstream: Upstream, fresh_id: str
) -> None:
    """When the task of a reader that stalls is cancelled, its connection does not stay."""
    client = await reading_nothing(short, upstream, fresh_id)
    assert (await short.http.post(f"/tasks/{fresh_id}/cancel")).status_code == 200
    assert is_held(short, client)
    await until(lambda: not is_held(short, client), 3.5, "the connection is gone")


def is_held(gateway: Gateway, client: Client) -> bool:
    """Whether the gateway has a socket for this connection."""
    return any(inode != "0" for _, inode in kernels_view(gateway, client))


def kernels_view(gateway: Gateway, client: Client) -> list[tuple[str, str]]:
    """Timer and inode of the connection's end at the gateway, if it is there."""
    here, there = (f":{port:04X}" for port in (gateway.port, client.writer.get_extra_info("sockname")[1]))
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()]
    return [(row[5], row[9]) for row in rows if row[1].endswith(here) and row[2].endswith(there)]


async def test_a_client_that_vanished_is_looked_for(gateway: Gateway) -> None:
    """The kernel asks after a client that is silent while it waits, from half a minute on: it may be gone."""
    client = await gateway.connect()
    assert (await client.ask("GET", "/livez")).status == 200
    keepalive = "02:"
    await until(lambda: kernels_view(gateway, client)[0][0].startswith(keepalive), 30, "its timer runs")
    assert int(kernels_view(gateway, client)[0][0].removeprefix(keepalive), 16) <= 30 * os.sysconf("SC_CLK_TCK")


# -- bodies --


async def test_an_early_413_reaches_who_sends_on(gateways: Launch, upstream: Upstream) -> None:
    """A client that sends all of its 100 MB before it reads finds the 413, and no reset; memory does not grow."""
    gateway = await gateways(MAX_BODY_BYTES="1000")
    await gateway.ask("GET", "/v1/own")
    before = gateway.resident_bytes
    for fields in ([(b"Content-Length", b"%d" % (100 * MEGABYTE))], [CHUNKED]):
        client = await gateway.send("POST", "/v1/own", *fields)
        for _ in range(1600):
            await client.send(b"10000\r\n" + bytes(65_536) + b"\r\n")
        answer = await within(30, client.answer(), "the answer")
        assert (answer.status, answer.json()["error"]["code"]) == (413, "body_too_large")
        assert answer.head.all("connection") == [b"close"]
        assert await within(30, client.at_end(), "the connection is closed")
        assert gateway.resident_bytes - before < GROWTH_BOUND
        await client.close()
    assert not any(exchange.body.complete for exchange in upstream.exchanges[1:])


async def test_nobody_lingers_for_ever(short: ImpatientGateway, upstream: Upstream) -> None:
    """Who neither closes nor sends after an early answer is let go."""
    client = await short.connect()
    assert (await client.ask("GET", "/livez")).status == 200
    assert is_held(short, client)
    await client.send(request("POST", "/v1/own", (b"Content-Length", b"999999999")))
    assert (await client.answer()).status == 413
    await until(lambda: not is_held(short, client), 30, "the connection is gone")


# -- requests and connections --


@pytest.mark.alone  # its upstream is closed within a second
async def test_pipelining_without_end_is_bounded(gateway: Gateway, upstream: Upstream) -> None:
    """A client that sends requests without reading answers is stopped, and memory does not grow with it."""
    upstream.gated()
    before = gateway.resident_bytes
    client = await gateway.connect()
    burst = request("GET", "/v1/own", (b"X", b"y" * 2000)) * 50  # of smaller ones, a read would hold too many
    sent = 0

    async def flood() -> None:
        nonlocal sent
        while True:
            await client.send(burst)
            sent += len(burst)

    flooding = asyncio.create_task(flood())
    try:
        await upstream.exchange()
        held = await until_steady(lambda: sent, steady_seconds=1)
        assert held < 24 * MEGABYTE  # what the kernel's buffers hold, and a little
        assert gateway.resident_bytes - before < GROWTH_BOUND
        assert len(upstream.exchanges) == 1
    finally:
        flooding.cancel()
        await asyncio.gather(flooding, return_exceptions=True)
        client.reset()
    await within(1, upstream.exchanges[0].closed.wait(), "the upstream is closed")
    assert len(upstream.exchanges) == 1


async def test_eighty_small_requests_at_once_are_answered(gateway: Gateway, upstream: Upstream) -> None:
    """So many may come in one piece, and are answered in their order."""
    client = await gateway.connect()
    await client.send(b"".join(request("GET", f"/v1/own/{number}") for number in range(80)))
    assert [(await within(30, client.answer(), "an answer")).status for _ in range(80)] == [200] * 80
    assert [exchange.head.target for exchange in upstream.exchanges] == [b"/v1/own/%d" % n for n in range(80)]


@pytest.mark.alone  # its upstream is closed within a second
async def test_long_heads_behind_a_waiting_request_cost_little(gateway: Gateway, upstream: Upstream) -> None:
    """Of what a client pipelines behind a request that waits, 256 KiB are held at most, however long the heads are."""
    count, before = 60, gateway.resident_bytes
    upstream.then(*[Gated() for _ in range(count)])
    clients = [await gateway.connect() for _ in range(count)]
    for client in clients:
        await client.send(request("GET", "/v1/own"))
    await until(lambda: len(upstream.exchanges) == count, 30, "all of them wait")
    for client in clients:
        client.writer.write(head_of(65_000) * 17)
    await until_steady(lambda: gateway.resident_bytes // MEGABYTE, steady_seconds=1)
    assert gateway.resident_bytes - before < count * 320 * 1024
    assert len(upstream.exchanges) == count
    for client in clients:
        client.reset()
    for exchange in upstream.exchanges:
        await within(2, exchange.closed.wait(), "the upstream is closed")


async def test_long_heads_behind_a_waiting_request_are_served(gateway: Gateway, upstream: Upstream) -> None:
    """They are only not read meanwhile: each is answered in its turn."""
    first = upstream.gated()
    client = await gateway.send("GET", "/v1/own")
    await upstream.exchange()
    client.writer.write(head_of(65_000) * 17)
    first.head()
    first.end()
    assert [(await within(30, client.answer(), "an answer")).status for _ in range(18)] == [200] * 18


@pytest.mark.parametrize(("fields", "requests"), [(0, 1500), (120, 80)], ids=["requests", "fields"])
async def test_one_read_of_small_requests_costs_little(
    gateway: Gateway, upstream: Upstream, fields: int, requests: int
) -> None:
    """A read full of requests that wait would take a hundred times its size in memory: the connection is closed."""
    upstream.then(*[Gated() for _ in range(30)])
    assert (await gateway.ask("GET", "/livez")).status == 200
    before = gateway.resident_bytes
    small = b"GET /v1/own HTTP/1.1\r\nHost:a\r\n" + b"a:b\r\n" * fields + b"\r\n"
    clients = [await gateway.connect() for _ in range(30)]
    for client in clients:
        await client.send(small * requests)
    for client in clients:
        with suppress(ConnectionResetError):
            assert await within(30, client.reader.read(), "the connection is closed") == b""
    assert gateway.resident_bytes - before < GROWTH_BOUND


@pytest.mark.alone  # its upstream is closed within a second
async def test_who_resets_an_upload_that_waits_is_noticed(gateway: Gateway, upstream: Upstream, fresh_id: str) -> None:
    """Also while the upload stands still for the upstream, a reset ends the task within a second."""

    gone = asyncio.Event()

    async def script(exchange: Exchange) -> None:
        exchange.stop_reading()
        await gone.wait()
        exchange.go_on_reading()
        await exchange.read()

    upstream.then(script)
    client = await gateway.connect()
    fields = ((b"X-Task-Id", fresh_id.encode()), (b"Content-Length", b"99999999"))
    client.writer.write(request("POST", "/v1/own", *fields) + bytes(50 * MEGABYTE))
    got = await upstream.exchange()
    await until_steady(client.writer.transport.get_write_buffer_size, steady_seconds=0.5)
    client.reset()
    assert (await gateway.ended(fresh_id, 1.2))["extensions"]["reason"] == "client_disconnect"
    gone.set()
    await within(1, got.closed.wait(), "the upstream is closed")
    assert not got.body.complete


async def test_connections_over_the_cap_are_told_so(launch: Launch, upstream: Upstream) -> None:
    """One more than MAX_CONNECTIONS is 503 with Retry-After; those within go on, and a free place is taken again."""
    gateway = await launch(MAX_CONNECTIONS="20")
    await gateway.http.aclose()
    clients = [await gateway.connect() for _ in range(19)]
    assert [(await client.ask("GET", "/v1/own")).status for client in clients] == [200] * 19
    clients.append(await until(lambda: served(gateway), what="a place for the twentieth"))
    for _ in range(60):
        answer = await refused(gateway)
        assert (answer["type"], answer["code"]) == ("gateway_error", "too_many_connections")
    assert [(await client.ask("GET", "/v1/own")).status for client in clients] == [200] * 20
    await clients.pop().close()
    await until(lambda: served(gateway), what="a place for another")
    assert gateway.log.count("are refused") == 1


async def served(gateway: Gateway) -> Client | None:
    """A new connection that is served, or None."""
    client = await gateway.connect()
    return client if (await client.ask("GET", "/v1/own")).status == 200 else None


async def refused(gateway: Gateway) -> dict[str, str]:
    """The error on a connection that is one too many; it needs no request."""
    client = await gateway.connect()
    answer = await within(30, client.answer(), "the refusal")
    assert (answer.status, answer.head.all("connection")) == (503, [b"close"])
    assert answer.head.get("retry-after") == b"5"
    assert await client.at_end()
    await client.close()
    error: dict[str, str] = answer.json()["error"]
    return error


async def test_it_recovers_when_descriptors_ran_out(launch: Launch, upstream: Upstream) -> None:
    """Without a file descriptor left, who is connected is still served, no CPU burns, and all is well afterwards."""
    gateway = await launch()
    client = await gateway.connect()
    assert (await client.ask("GET", "/v1/own")).status == 200
    _, hard = resource.prlimit(gateway.process.pid, resource.RLIMIT_NOFILE)
    resource.prlimit(gateway.process.pid, resource.RLIMIT_NOFILE, (40, hard))
    crowd = [await gateway.connect() for _ in range(100)]
    assert (await client.ask("GET", "/v1/own")).status == 200
    before = cpu_seconds(gateway)
    await until_steady(lambda: len(upstream.exchanges), steady_seconds=1)
    assert cpu_seconds(gateway) - before < 0.5
    for one in crowd:
        one.reset()
    await until(lambda: well(gateway), what="a new client is served")
    assert gateway.process.poll() is None


async def well(gateway: Gateway) -> bool:
    """Whether a new connection is accepted and answered."""
    try:
        return (await gateway.ask("GET", "/v1/own")).status == 200
    except (AssertionError, ConnectionError):
        return False


def cpu_seconds(gateway: Gateway) -> float:
    """The CPU time that the process has used so far."""
    fields = Path(f"/proc/{gateway.process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
