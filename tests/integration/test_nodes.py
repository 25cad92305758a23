"""Owns the promises of `GET /nodes`: the gateways that share a store know of each other. Contract section 10.1."""

from __future__ import annotations

import signal
import time
from typing import TYPE_CHECKING, Any

import pytest

from gateway import __version__
from gateway.store.layout import MAX_NODES
from tests.chaos.mortal import Mortal
from tests.support.exposition import Scrape
from tests.support.faults import elapse
from tests.support.nodes import TABLE, forge
from tests.support.scripted import JSON, answering
from tests.support.streams import held
from tests.support.waiting import GUARD_SECONDS, until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from tests.conftest import Launch, NewStore
    from tests.support.gateway import Gateway
    from tests.support.scripted import Upstream
    from tests.support.store import Store

    Start = Callable[..., Awaitable[Mortal]]

BEAT_SECONDS = 1
LOST_SECONDS = 3 * BEAT_SECONDS
ADMIN, ALICE = "sk-admin-0123456789", "sk-alice-0123456789"
KEYS = f"admin:{ADMIN},alice:{ALICE}"
CHAT = "/v1/chat/completions"


@pytest.fixture
async def fresh(new_store: NewStore) -> Store:
    """A store that no other gateway knows."""
    return await new_store()


@pytest.fixture
async def start(upstream: Upstream, fresh: Store, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Start]:
    """Starts gateways of one store, which a test may kill and stop."""
    started: list[Mortal] = []

    async def begin(instance: str, **settings: str) -> Mortal:
        shared = {"REDIS_URL": fresh.url, "HEARTBEAT_SEC": str(BEAT_SECONDS), "GATEWAY_INSTANCE": instance}
        started.append(Mortal(tmp_path_factory, upstream, **(shared | settings)))
        await started[-1].start()
        return started[-1]

    yield begin
    for gateway in started:
        gateway.check_log()
        await gateway.put_down()


async def items(gateway: Gateway) -> dict[str, dict[str, Any]]:
    """What a gateway says of all, by instance; they come in that order."""
    answer = await gateway.http.get("/nodes")
    assert answer.status_code == 200, answer.text
    found: list[dict[str, Any]] = answer.json()["items"]
    names = [item["instance"] for item in found]
    assert names == sorted(set(names))
    return dict(zip(names, found, strict=True))


async def states(gateway: Gateway) -> dict[str, str]:
    """The state of each gateway."""
    return {instance: item["state"] for instance, item in (await items(gateway)).items()}


async def shows(gateway: Gateway, seconds: float = GUARD_SECONDS, /, **expected: str) -> None:
    """Waits until a gateway shows just these states."""
    shown: dict[str, str] = {}

    async def is_so() -> bool:
        shown.clear()
        shown.update(await states(gateway))
        return shown == expected

    try:
        await until(is_so, seconds, f"it shows {expected}")
    except AssertionError as error:
        raise AssertionError(f"{error}; it shows {shown}") from None


async def scraped(gateway: Gateway) -> Scrape:
    """What its metrics say."""
    answer = await gateway.http.get("/metrics")
    return Scrape(answer.text, answer.headers["Content-Type"])


async def test_all_see_all(start: Start, upstream: Upstream) -> None:
    """Each of three gateways shows all three: who it is, what it does, and how it finds the store."""
    upstream.loaded = answering(200, JSON, body=b'{"models":[{"name":"smollm2:135m","size":1,"size_vram":1}]}')
    began_ms = int(time.time() * 1000)
    gateways = [await start("a", MAX_RUNNING="1"), await start("b", MAX_RUNNING="3"), await start("c")]
    streams = [await held(gateways[0], upstream), await held(gateways[2], upstream)]
    waiting = await gateways[0].send("POST", CHAT, body=b"{}")

    async def are_told() -> bool:
        tables = [await items(gateway) for gateway in gateways]
        loads = [[(i["running"], i["waiting"], i["models"]) for i in table.values()] for table in tables]
        models = ["smollm2:135m"]
        return loads == [[(1, 1, models), (0, 0, models), (1, 0, models)]] * 3

    await until(are_told, GUARD_SECONDS, "all have told what they do")
    for gateway in gateways:
        for name, item in (await items(gateway)).items():
            assert list(item) == [
                "instance", "version", "started_ms", "running", "waiting", "max_running", "models", "store", "state",
                "age_sec",
            ]  # fmt: skip
            assert (item["version"], item["store"], item["state"]) == (__version__, "up", "up")
            assert item["max_running"] == {"a": 1, "b": 3, "c": 0}[name]
            assert began_ms <= item["started_ms"] <= time.time() * 1000
            assert item["age_sec"] < LOST_SECONDS
    for stream in streams:
        await stream.end()
    assert (await waiting.answer()).status == 200


async def test_the_numbers_are_those_of_the_metrics(start: Start, upstream: Upstream) -> None:
    """`running` and `waiting` are the gauges: handed to Ollama and not ended, without GETs, with any MAX_RUNNING."""
    for gateway, bound in ((await start("free"), False), (await start("bounded", MAX_RUNNING="1"), True)):
        reading = upstream.gated()
        reader = await gateway.send("GET", "/v1/models?list")
        await upstream.exchange(len(upstream.exchanges))
        stream = await held(gateway, upstream)
        second = None if bound else await held(gateway, upstream)
        third = await gateway.send("POST", CHAT, body=b"{}") if bound else None
        expected = (1, 1) if bound else (2, 0)

        async def numbers(gateway: Gateway = gateway) -> set[tuple[float, float]]:
            own, seen = (await items(gateway))[gateway.settings["GATEWAY_INSTANCE"]], await scraped(gateway)
            return {(own["running"], own["waiting"]), (seen("running_requests"), seen("waiting_requests"))}

        async def are_right(expected: tuple[int, int] = expected, numbers: Any = numbers) -> bool:
            return bool(await numbers() == {expected})

        await until(are_right, GUARD_SECONDS, f"both say {expected}")
        reading.head()
        reading.end()
        assert (await reader.answer()).status == 200
        await stream.end()
        if second is not None:
            await second.end()
        if third is not None:
            assert (await third.answer()).status == 200

        async def are_none(numbers: Any = numbers) -> bool:
            return bool(await numbers() == {(0, 0)})

        await until(are_none, GUARD_SECONDS, "both say that nothing runs")


async def test_one_that_is_killed_is_lost(start: Start) -> None:
    """A gateway that says nothing for three heartbeats is lost for the others, with the age of its last word."""
    living, dying = await start("living"), await start("dying")
    await shows(living, living="up", dying="up")
    await dying.kill()
    await shows(living, LOST_SECONDS + 1, living="up", dying="lost")
    assert (await items(living))["dying"]["age_sec"] >= LOST_SECONDS

    async def is_counted() -> bool:
        seen = await scraped(living)
        return [seen("nodes", state=state) for state in ("up", "draining", "lost")] == [1, 0, 1]

    await until(is_counted, GUARD_SECONDS, "the metric has it")


async def test_a_lost_one_is_forgotten(start: Start, fresh: Store) -> None:
    """Ten minutes after its last word a lost gateway is gone."""
    living, dying = await start("living"), await start("dying")
    await shows(living, living="up", dying="up")
    await dying.kill()
    record = str(await fresh.client.hget(TABLE, "dying"))
    written, rest = record.split(" ", 1)
    await fresh.client.hset(TABLE, "dying", f"{int(written) - 595_000} {rest}")
    await shows(living, living="up", dying="lost")
    await shows(living, living="up")


async def test_one_that_stops_is_gone_at_once(start: Start) -> None:
    """A gateway that ends cleanly is gone when its process is."""
    staying, going = await start("staying", HEARTBEAT_SEC="60"), await start("going", HEARTBEAT_SEC="60")
    await shows(staying, staying="up", going="up")
    await going.stop()
    assert await states(staying) == {"staying": "up"}


async def test_draining_is_told_at_once(start: Start) -> None:
    """From the beginning of the notice on all gateways show that it drains, whatever its heartbeat; it is not ready."""
    staying = await start("staying")
    going = await start("going", HEARTBEAT_SEC="60", DRAIN_NOTICE_SEC="60")
    await shows(staying, staying="up", going="up")
    going.process.send_signal(signal.SIGTERM)
    await shows(staying, 1, staying="up", going="draining")
    assert await states(going) == {"staying": "up", "going": "draining"}
    assert (await going.http.get("/readyz")).status_code == 503
    seen = await scraped(going)
    assert [seen("nodes", state=state) for state in ("up", "draining", "lost")] == [1, 1, 0]
    await going.stop()  # the second signal ends the notice
    assert await states(staying) == {"staying": "up"}


async def test_a_drain_without_notice_is_told(start: Start, upstream: Upstream) -> None:
    """A gateway that stops without notice is draining as long as a task runs there."""
    staying, going = await start("staying"), await start("going", HEARTBEAT_SEC="60")
    stream = await held(going, upstream)
    going.process.send_signal(signal.SIGTERM)
    await shows(staying, 1, staying="up", going="draining")
    assert (await items(staying))["going"]["running"] == 1
    await stream.end()
    await shows(staying, staying="up")
    await until(lambda: going.process.poll() is not None, GUARD_SECONDS, "it ends")


async def test_a_restarted_gateway_is_one(start: Start) -> None:
    """A gateway that was killed and starts again has one entry, of its new run, and no warning about its name."""
    staying, again = await start("staying"), await start("again")
    await shows(staying, staying="up", again="up")
    before = (await items(staying))["again"]
    await again.kill()
    await again.start()

    async def is_new() -> bool:
        table = await items(staying)
        return len(table) == 2 and table["again"]["started_ms"] > before["started_ms"]

    await until(is_new, GUARD_SECONDS, "there is the new run")
    await elapse(2.5 * BEAT_SECONDS, time.monotonic(), "two heartbeats more")
    assert "calls itself" not in again.log


async def test_two_gateways_of_one_name_are_warned(start: Start) -> None:
    """Two gateways that run with one GATEWAY_INSTANCE both say so, once."""
    twins = [await start("twin"), await start("twin")]
    for twin in twins:

        def warns(twin: Gateway = twin) -> bool:
            return "another gateway calls itself twin, too" in twin.log

        await until(warns, GUARD_SECONDS, "it warns")
    await elapse(2.5 * BEAT_SECONDS, time.monotonic(), "two heartbeats more")
    assert [twin.log.count("calls itself") for twin in twins] == [1, 1]


async def test_without_a_store_a_gateway_is_alone(gateways: Launch) -> None:
    """A gateway without a store shows itself, and that it has none."""
    alone = await gateways(GATEWAY_INSTANCE="alone")
    [item] = (await items(alone)).values()
    assert (item["instance"], item["store"], item["state"], item["age_sec"]) == ("alone", "none", "up", 0)
    assert (await scraped(alone))("nodes", state="up") == 1


async def test_while_the_store_is_away_each_is_alone(start: Start, fresh: Store) -> None:
    """While the store is away each gateway shows itself alone; when it is back, also empty, all are there."""
    pair = [await start("a", HEARTBEAT_SEC="10"), await start("b", HEARTBEAT_SEC="10")]
    for gateway in pair:
        await shows(gateway, a="up", b="up")
    await fresh.kill()
    for gateway, name in zip(pair, "ab", strict=True):
        await shows(gateway, GUARD_SECONDS, **{name: "up"})
        assert (await items(gateway))[name]["store"] == "down"
    await fresh.start()
    back = time.monotonic()
    for gateway in pair:
        await shows(gateway, a="up", b="up")
    assert time.monotonic() - back < 8, "not only with the next heartbeat"


async def test_with_keys_admin_alone_sees_it(start: Start) -> None:
    """With API keys `/nodes` is for `admin`: 401 without a key, 403 with another one, which counts as refused."""
    gateway = await start("keyed", GATEWAY_API_KEYS=KEYS)
    assert (await gateway.http.get("/nodes")).status_code == 401
    for target in ("/nodes", "/%6eodes"):
        refused = await gateway.http.get(target, headers={"Authorization": f"Bearer {ALICE}"})
        assert refused.status_code == 403
        body = refused.json()
        assert (body["error"]["code"], body["error"]["type"]) == ("forbidden", "gateway_error")
        assert body["detail"] == body["error"]["message"]
        assert refused.headers["Cache-Control"] == "no-store"
    admin = {"Authorization": f"Bearer {ADMIN}"}
    assert [item["instance"] for item in (await gateway.http.get("/nodes", headers=admin)).json()["items"]] == ["keyed"]
    answer = await gateway.http.get("/metrics", headers=admin)
    assert Scrape(answer.text, answer.headers["Content-Type"])("refused_total", code="forbidden") == 2


async def test_malformed_records_are_left_out(start: Start, fresh: Store) -> None:
    """Records that no gateway wrote are left out and told of once; the gateway's own comes back with its next word."""
    pair = [await start("a"), await start("b")]
    now = int(time.time() * 1000)
    forged = {"b": "x", "c": "", "d": f"{now} 600000 boot {{}}", "\x1b[31m": f"{now} 600000 boot {{}}"}
    await forge(fresh.client, forged)
    for gateway in pair:
        await shows(gateway, a="up", b="up")
    for name in ("c", "d", "\\x1b[31m"):
        assert sum(gateway.log.count(f"malformed in the store: '{TABLE} {name}'") for gateway in pair) in (1, 2)
    assert all("\x1b" not in gateway.log for gateway in pair)


async def test_a_flood_of_records_is_survived(start: Start, fresh: Store) -> None:
    """More foreign records than there can be gateways are thrown away, and the gateways are back within a heartbeat."""
    pair = [await start("a"), await start("b")]
    await shows(pair[0], a="up", b="up")
    record = str(await fresh.client.hget(TABLE, "a"))
    await forge(fresh.client, {f"n{n}": record for n in range(MAX_NODES * 4)})
    for gateway in pair:
        await shows(gateway, a="up", b="up")
    await fresh.client.set(TABLE, "x")
    for gateway in pair:
        await shows(gateway, a="up", b="up")
