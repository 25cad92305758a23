"""The store's password in a file: read again at every connect, so that it can be replaced while the gateway runs.

A real server with real passwords; what a status poller sees tells whether writer and readers have logged in.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest
import redis.asyncio

from tests.support.scripted import answering
from tests.support.waiting import until, within

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from tests.conftest import Launch, NewStore
    from tests.support.gateway import Gateway
    from tests.support.scripted import Upstream


LIMIT_SECONDS = 20


class Guarded:
    """A store whose users have passwords, and the file in which the gateway finds one."""

    def __init__(self, port: int, control: redis.asyncio.Redis, path: Path) -> None:
        self.port = port
        self.control = control
        self.path = path

    def file(self, password: str) -> None:
        """Another file in the place of this one, as secret stores do it."""
        other = self.path.with_name("other")
        other.write_text(password + "\n")
        other.replace(self.path)

    async def demand(self, user: str, password: str) -> None:
        """One password of this user's alone counts from now on, and all connections but the test's are ended."""
        await self.control.execute_command(
            "ACL", "SETUSER", user, "on", "resetpass", f">{password}", "~*", "&*", "+@all"
        )
        for kind in ("normal", "pubsub"):
            await self.control.client_kill_filter(_type=kind, skipme=True)

    async def has(self, task_id: str) -> bool:
        """Whether the store itself has a task's last status."""
        document = await self.control.get(f"ts:ollama:{task_id}")
        return document is not None and '"SUCCESS"' in document


@pytest.fixture
async def guarded(new_store: NewStore, tmp_path: Path) -> AsyncIterator[Guarded]:
    """A store that wants `first` of its default user, which is in the file."""
    store = await new_store()
    control = redis.asyncio.Redis(port=store.port, decode_responses=True, single_connection_client=True)
    guarded = Guarded(store.port, control, tmp_path / "password")
    guarded.file("first")
    await guarded.demand("default", "first")
    yield guarded
    await control.aclose()


async def stored(gateway: Gateway, guarded: Guarded, upstream: Upstream, task_id: str) -> None:
    """A request goes through, its end gets to the store, and the gateway's readers find it there."""
    upstream.then(answering(200, body=b"{}"))
    answer = await within(
        LIMIT_SECONDS, gateway.ask("GET", "/v1/models", (b"X-Task-Id", task_id.encode())), "an answer"
    )
    assert answer.status == 200

    async def is_there() -> bool:
        return await guarded.has(task_id)

    async def is_listed() -> bool:
        page = (await gateway.http.get("/tasks/status?limit=1")).json()
        return [item["task_id"] for item in page.get("items", [])] == [task_id]

    await until(is_there, LIMIT_SECONDS, "the store has the end")
    await until(is_listed, LIMIT_SECONDS, "a reader of the gateway's has logged in, too")


async def lost(gateway: Gateway) -> None:
    """Wait until the gateway says that its store is away."""

    async def is_away() -> bool:
        return bool((await gateway.http.get("/readyz")).json()["store"] == "down")

    await until(is_away, LIMIT_SECONDS, "the store is away")


@pytest.mark.parametrize("user", ["", "me"])
async def test_a_password_is_replaced_while_the_gateway_runs(
    user: str, launch: Launch, guarded: Guarded, upstream: Upstream, fresh_id: str
) -> None:
    """After the file is replaced the gateway logs in again, as the address's user or the default one, and goes on."""
    if user:
        await guarded.demand(user, "first")
        await guarded.demand("default", "none-of-the-gateways")
    address = f"redis://{f'{user}@' if user else ''}127.0.0.1:{guarded.port}/0"
    gateway = await launch(REDIS_URL=address, REDIS_PASSWORD_FILE=str(guarded.path))
    await stored(gateway, guarded, upstream, f"{fresh_id}-1")
    await guarded.demand(user or "default", "second")
    await lost(gateway)
    guarded.file("second")
    await stored(gateway, guarded, upstream, f"{fresh_id}-2")
    assert "first" not in gateway.log
    assert "second" not in gateway.log.replace("seconds", "")


async def test_the_parts_log_in_with_the_file(
    launch: Launch, guarded: Guarded, upstream: Upstream, fresh_id: str
) -> None:
    """REDIS_HOST, REDIS_USER and the file make a login; where the file changed first, no request is lost by that."""
    parts = {"REDIS_HOST": "127.0.0.1", "REDIS_PORT": str(guarded.port), "REDIS_USER": "me"}
    await guarded.demand("me", "first")
    gateway = await launch(**parts, REDIS_PASSWORD_FILE=str(guarded.path))
    await stored(gateway, guarded, upstream, f"{fresh_id}-1")
    guarded.file("second")
    await guarded.demand("me", "second")
    await stored(gateway, guarded, upstream, f"{fresh_id}-2")


def nothing(_: Path) -> None:
    """The file is gone, and nothing takes its place."""


@pytest.mark.parametrize(("stand", "reason"), [(nothing, "No such file"), (os.mkfifo, "it is not a regular file")])
async def test_a_file_that_cannot_be_read_is_a_store_that_is_away(
    launch: Launch, guarded: Guarded, upstream: Upstream, fresh_id: str, stand: Callable[[Path], None], reason: str
) -> None:
    """Requests go on whatever stands in the file's place; the log gives path and reason, and the next file counts."""
    gateway = await launch(REDIS_HOST="127.0.0.1", REDIS_PORT=str(guarded.port), REDIS_PASSWORD_FILE=str(guarded.path))
    await stored(gateway, guarded, upstream, f"{fresh_id}-0")
    guarded.path.unlink()
    stand(guarded.path)
    await guarded.demand("default", "next")
    await lost(gateway)
    upstream.then(answering(200, body=b"{}"))
    assert (await within(LIMIT_SECONDS, gateway.ask("GET", "/v1/models"), "an answer")).status == 200
    told = f"REDIS_PASSWORD_FILE cannot be used: {reason}"
    await until(lambda: told in gateway.log, LIMIT_SECONDS, "it is told")
    guarded.file("next")
    await stored(gateway, guarded, upstream, f"{fresh_id}-1")
    assert str(guarded.path)[:20] in gateway.log
