"""Owns how work for one request ends: answered once, whatever else is due in the same turn of the loop."""

from __future__ import annotations

import asyncio
import inspect
import time
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import pytest

from gateway.errors import GatewayError, NotFound, StartTimeout, TaskTimeout
from gateway.http.background import Background
from gateway.http.request import Request
from tests.support.waiting import next_turn, until

if TYPE_CHECKING:
    from gateway.http.wire import Wire


class Connection:
    """The connection of a request: remembers what was sent on it, and whether it was broken off."""

    def __init__(self) -> None:
        self.sent = b""
        self.is_broken_off = False

    def request(self) -> Request:
        """A whole request."""
        wire: Any = SimpleNamespace(
            is_writable=True, is_read_paused=False, send=self._send, finish=id, break_off=self._break_off
        )
        request = Request(cast("Wire", wire), "GET", b"/", [(b"host", b"h")], is_http_10=False, is_keep_alive=True)
        request.is_whole = True
        return request

    def _send(self, data: bytes) -> None:
        self.sent += data

    def _break_off(self, *, is_reset: bool) -> None:
        self.is_broken_off = True


async def for_ever() -> None:
    """Work that does not end."""
    await asyncio.Event().wait()


async def leave(background: Background) -> None:
    """The client leaves; waits until the work has ended."""
    background.on_left()
    await until(lambda: background._work is None or background._work.done())


async def test_two_limits_at_once_give_one_answer() -> None:
    """Both timeouts of a request may be over at the same moment: the first one answers, the connection goes on."""
    connection = Connection()
    background = Background(connection.request())
    background.begin(for_ever())
    began = time.monotonic() - 10
    background.limit(1, lambda _: StartTimeout("too late to start"), began)
    background.limit(1, lambda _: TaskTimeout("too late to end"), began)
    await until(lambda: connection.sent)
    await leave(background)
    assert connection.sent.count(b"HTTP/1.1 ") == 1
    assert b"start_timeout" in connection.sent
    assert not connection.is_broken_off


async def test_new_work_has_no_limits_of_the_work_before() -> None:
    """Work that begins anew for a request sets its limits anew."""
    connection = Connection()
    background = Background(connection.request())
    background.begin(next_turn())
    background.limit(1, lambda _: TaskTimeout("too late to end"), time.monotonic() - 10)
    background.begin(for_ever())
    for _ in range(3):
        await next_turn()
    assert not connection.sent
    await leave(background)


async def test_a_limit_for_the_start_ends_nothing_that_has_started() -> None:
    """The start timeout counts only while the task is not with Ollama."""

    class Started(Background):
        has_started = True

    connection = Connection()
    background = Started(connection.request())
    background.begin(for_ever())
    background.limit(1, lambda _: StartTimeout("too late to start"), time.monotonic() - 10, is_for_start=True)
    for _ in range(3):
        await next_turn()
    assert not connection.sent
    await leave(background)


@pytest.mark.parametrize(
    ("error", "code"), [(NotFound("no such task"), b"not_found"), (ValueError("a bug"), b"gateway_error")]
)
async def test_work_that_fails_answers(error: Exception, code: bytes, caplog: pytest.LogCaptureFixture) -> None:
    """The client gets the error, or one that says that the gateway failed; the log has the reason of the latter."""

    async def fail() -> None:
        raise error

    connection = Connection()
    Background(connection.request()).begin(fail())
    await until(lambda: connection.sent)
    assert code in connection.sent
    assert bool(caplog.records) is not isinstance(error, GatewayError)


async def test_a_failure_after_the_head_breaks_the_answer_off() -> None:
    """The end of an answer is never forged."""
    connection = Connection()
    request = connection.request()

    async def fail() -> None:
        request.start(200, b"", length=None)
        request.write(b"part")
        raise NotFound("gone meanwhile")

    Background(request).begin(fail())
    await until(lambda: connection.is_broken_off)
    assert not connection.sent.endswith(b"0\r\n\r\n")


async def test_work_ends_when_its_client_leaves() -> None:
    """Nothing is sent then, and no limit stays."""
    connection = Connection()
    request = connection.request()
    background = Background(request)
    background.begin(for_ever())
    background.limit(60, lambda _: TaskTimeout("too late to end"), time.monotonic())
    request.lose()
    await until(lambda: not background._timers)
    assert not connection.sent


async def test_a_client_may_leave_before_the_work_begins() -> None:
    """Both may happen in one turn of the loop; the work is closed, without a warning."""
    work = for_ever()
    background = Background(Connection().request())
    background.begin(work)
    await leave(background)
    await next_turn()
    assert inspect.getcoroutinestate(work) == inspect.CORO_CLOSED
