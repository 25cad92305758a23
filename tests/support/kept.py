"""Owns calls whose answers are kept: made, left by their clients, read at any gateway, and what is said of them.

The tests of contract section 9 call it.
"""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Any

from tests.support.scripted import Gated
from tests.support.streams import BODY, CHAT
from tests.support.waiting import GUARD_SECONDS, until

if TYPE_CHECKING:
    from tests.support.gateway import Gateway
    from tests.support.scripted import Exchange, Upstream
    from tests.support.wire import Client, Field, Response

KEEP: Field = (b"X-Task-Keep", b"true")
ASYNC: Field = (b"Prefer", b"respond-async")
DONE_EVENT = b"data: [DONE]\n\n"
EVENTS = [b'data: {"n":%d}\n\n' % n for n in range(50)] + [DONE_EVENT]
WHOLE = b"".join(EVENTS)


def new_id() -> str:
    """An id that no other call has."""
    return f"kept-{uuid.uuid4()}"


def bearer(key: str) -> Field:
    """The field that names an API key."""
    return (b"Authorization", b"Bearer " + key.encode())


class Kept:
    """One kept call with an answer that the test releases step by step."""

    def __init__(self, gateway: Gateway, upstream: Upstream, *answer_fields: Field, status: int = 200) -> None:
        self.gateway = gateway
        self.upstream = upstream
        self.task_id = new_id()
        self.script = Gated(*answer_fields, status=status)
        self.client: Client
        self.exchange: Exchange

    async def ask(self, *fields: Field, body: bytes = BODY, path: str = CHAT) -> None:
        """Sends the request and waits until the upstream has it."""
        number = len(self.upstream.exchanges)
        self.upstream.then(self.script)
        self.client = await self.gateway.send("POST", path, self.name, KEEP, *fields, body=body)
        self.exchange = await self.upstream.exchange(number)

    @property
    def name(self) -> Field:
        """The field that names the task."""
        return (b"X-Task-Id", self.task_id.encode())

    async def begin(self, *fields: Field, body: bytes = BODY) -> None:
        """Sends the request and waits for the head of the answer."""
        await self.ask(*fields, body=body)
        self.script.head()
        await self.client.head()

    async def leave(self, *, is_reset: bool = False) -> None:
        """The client goes; waits until the gateway has noticed that and goes on."""
        if is_reset:
            self.client.reset()
        else:
            await self.client.close()
        await until(self.is_detached, what="the call goes on without its client")

    async def is_detached(self) -> bool:
        """Whether it runs without its client."""
        extensions = (await self.gateway.status(self.task_id))["extensions"]
        return bool(extensions["is_detached"])

    def finish(self, *events: bytes) -> None:
        """Lets the rest of a stream go."""
        for event in (*events, DONE_EVENT):
            self.script.piece(event)
        self.script.end()


async def kept(gateway: Gateway, upstream: Upstream, *fields: Field) -> Kept:
    """A kept stream that has begun."""
    call = Kept(gateway, upstream)
    await call.begin(*fields)
    return call


async def ended_call(gateway: Gateway, upstream: Upstream, *fields: Field, events: list[bytes] = EVENTS) -> str:
    """The id of a kept stream that has ended well, its client having had all of it."""
    call = await kept(gateway, upstream, *fields)
    call.finish(*events[:-1])
    answer = await call.client.up_to(b"0\r\n\r\n")
    assert DONE_EVENT in answer
    await call.client.close()
    return call.task_id


def route(task_id: str, query: str = "") -> str:
    """The target at which the answer is read."""
    return f"/tasks/{task_id}/response{query and '?' + query}"


async def read(gateway: Gateway, task_id: str, query: str = "", *fields: Field, method: str = "GET") -> Response:
    """The kept answer of a task, to its end."""
    return await gateway.ask(method, route(task_id, query), *fields)


async def delete(gateway: Gateway, task_id: str, *fields: Field) -> Response:
    """Deletes the kept answer of a task."""
    return await gateway.ask("DELETE", route(task_id), *fields)


def code_of(answer: Response) -> tuple[int, str]:
    """Status and code of an error of the gateway's own."""
    error: dict[str, Any] = answer.json()["error"]
    assert error["type"] == "gateway_error"
    return answer.status, error["code"]


async def response_of(gateway: Gateway, task_id: str, *fields: Field) -> str | None:
    """What the status says of the kept answer."""
    answer = await gateway.ask("GET", f"/tasks/status/{task_id}", *fields)
    assert answer.status == 200, answer.data
    found: str | None = answer.json()["extensions"]["response"]
    return found


async def until_response(gateway: Gateway, task_id: str, value: str | None, seconds: float = GUARD_SECONDS) -> None:
    """Waits until the status says so of the kept answer."""

    async def is_so() -> bool:
        return await response_of(gateway, task_id) == value

    await until(is_so, seconds, f"the answer of {task_id} is {value}")
