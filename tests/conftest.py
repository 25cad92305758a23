"""Owns the fixtures: one real store, one scripted upstream and the gateways that stand between them.

Processes are dear on a small machine, so gateways with the same settings are started once per session and
every test looks at fresh task ids. A test that needs its own process or store takes `launch` or `new_store`.
All async fixtures and tests run on the session's event loop (pyproject.toml).
"""

from __future__ import annotations

import os
import signal
import uuid
from typing import TYPE_CHECKING

import hypothesis
import pytest

from tests.support.gateway import COMMAND, Gateway
from tests.support.model import EmbeddedModel
from tests.support.scripted import Upstream
from tests.support.store import Store
from tests.support.waiting import GUARD_SECONDS

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    Launch = Callable[..., Awaitable[Gateway]]
    NewStore = Callable[[], Awaitable[Store]]


# A shell that starts the tests in the background has them ignore Ctrl-C, and with them all that they start.
signal.signal(signal.SIGINT, signal.default_int_handler)

# How long an example takes says something about the machine alone.
hypothesis.settings.register_profile("any machine", deadline=None)
hypothesis.settings.load_profile("any machine")


async def started_store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A running store; without one tests are skipped at home and fail in CI."""
    store = Store(tmp_path_factory.mktemp("store"))
    try:
        await store.start()
    except (AssertionError, OSError) as error:
        await store.close()
        if os.environ.get("CI"):
            raise
        pytest.skip(f"no store can be started here: {error}")
    return store


@pytest.fixture(scope="session")
async def store(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Store]:
    """The session's store."""
    store = await started_store(tmp_path_factory)
    yield store
    await store.close()


@pytest.fixture
async def new_store(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[NewStore]:
    """Starts stores that belong to one test."""
    stores: list[Store] = []

    async def start() -> Store:
        stores.append(await started_store(tmp_path_factory))
        return stores[-1]

    yield start
    for store in stores:
        await store.close()


@pytest.fixture
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Clients of a store in this process wait as long as tests do: for tests that are not about time."""
    for module in ("pipeline", "reader"):
        monkeypatch.setattr(f"gateway.store.{module}.COMMAND_TIMEOUT_SECONDS", GUARD_SECONDS)
        monkeypatch.setattr(f"gateway.store.{module}.CONNECT_TIMEOUT_SECONDS", GUARD_SECONDS)
    monkeypatch.setattr("gateway.store.peeks._TIMEOUT_SECONDS", GUARD_SECONDS)


@pytest.fixture(scope="session")
async def scripted() -> AsyncIterator[Upstream]:
    """The session's scripted upstream; tests take `upstream`."""
    upstream = Upstream()
    await upstream.start()
    yield upstream
    await upstream.stop()


@pytest.fixture
async def upstream(scripted: Upstream) -> AsyncIterator[Upstream]:
    """The scripted upstream with nothing queued and nothing recorded."""
    yield scripted
    await scripted.forget()


@pytest.fixture
async def own_upstream() -> AsyncIterator[Upstream]:
    """A scripted upstream that only this test's gateways ask; the shared one gets the heartbeats of shared gateways."""
    upstream = Upstream()
    await upstream.start()
    yield upstream
    await upstream.stop()


@pytest.fixture(scope="session")
async def shared_gateways(scripted: Upstream, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Launch]:
    """Starts each gateway once per session and per settings; its upstream is the scripted one."""
    running: dict[frozenset[tuple[str, str]], Gateway] = {}

    async def get(**settings: str) -> Gateway:
        key = frozenset(settings.items())
        if key not in running:
            upstream = {"UPSTREAM_BASE": f"http://127.0.0.1:{scripted.port}"}
            log = tmp_path_factory.mktemp("gateway") / "gateway.log"
            running[key] = await Gateway(log, **(upstream | settings)).start()
        return running[key]

    yield get
    for gateway in running.values():
        await gateway.stop()


@pytest.fixture
async def gateways(shared_gateways: Launch, upstream: Upstream) -> AsyncIterator[Launch]:
    """The gateways that tests share; a test leaves no connection to those that it used, and no traceback."""
    used: list[Gateway] = []

    async def get(**settings: str) -> Gateway:
        used.append(await shared_gateways(**settings))
        return used[-1]

    yield get
    for gateway in used:
        await gateway.close_clients()
        gateway.check_log()


@pytest.fixture
async def launch(upstream: Upstream, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Launch]:
    """Starts gateways that belong to one test; each has to end cleanly."""
    running: list[Gateway] = []

    async def start(command: list[str] = COMMAND, **settings: str) -> Gateway:
        base = {"UPSTREAM_BASE": f"http://127.0.0.1:{upstream.port}"}
        log = tmp_path_factory.mktemp("gateway") / "gateway.log"
        gateway = Gateway(log, **(base | settings))
        gateway.command = command
        running.append(gateway)
        return await gateway.start()

    yield start
    for gateway in running:
        await gateway.stop()


@pytest.fixture
async def tracked(gateways: Launch, store: Store) -> Gateway:
    """A gateway with the session's store, default settings otherwise."""
    return await gateways(REDIS_URL=store.url)


@pytest.fixture(params=["store", "in-process"])
async def gateway(request: pytest.FixtureRequest, gateways: Launch, store: Store) -> Gateway:
    """A gateway once with a real store and once without any: what holds for both takes this one."""
    return await (gateways(REDIS_URL=store.url) if request.param == "store" else gateways())


@pytest.fixture
def fresh_id() -> str:
    """A task id that no one has used."""
    return f"test-{uuid.uuid4()}"


@pytest.fixture(scope="session")
async def model(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[EmbeddedModel]:
    """The real model behind `embedded/ollama`, loaded once per session."""
    model = EmbeddedModel(tmp_path_factory.mktemp("model") / "ollama.log")
    await model.start()
    yield model
    await model.stop()
