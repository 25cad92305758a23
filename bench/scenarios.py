"""The scenarios, and the variants that run in each. A table without code."""

from bench.asking import AskedStreamScenario, HeartbeatScenario, StatusScenario, WaitScenario
from bench.load import (
    BulkScenario,
    IdleScenario,
    JsonScenario,
    Scenario,
    StartScenario,
    StreamScenario,
    WrkScenario,
)
from bench.peers import BINARIES

_PLAIN = ("direct", "nginx", "haproxy", "gateway")
_RELAYS = ("direct", "nginx", "haproxy", *BINARIES, "gateway")
_FILLED = ("gateway-1k", "gateway-1m")
_READERS = ("nginx-static", "gateway-1k", "fastapi-reads")
_ALL = (
    *_RELAYS, "gateway-ids", "gateway-queue", "gateway-no-store", "gateway-frozen", "floor", "fastapi", "litellm",
    "portkey",
)  # fmt: skip

SCENARIOS: tuple[Scenario, ...] = (
    JsonScenario(name="json-1", title="Small JSON, 1 client", variants=_ALL, clients=1),
    JsonScenario(name="json-32", title="Small JSON, 32 clients", variants=_ALL, clients=32),
    WrkScenario(name="wrk-32", title="Small JSON, 32 clients of wrk", variants=_PLAIN, clients=32, most_rounds=2),
    StreamScenario(
        name="sse-1",
        title="Event streams, 1 at a time, 20 pieces at 200 a second",
        variants=(*_RELAYS, "fastapi", "litellm"),  # Portkey 1.15 answers streams with 500 on Node 20
        streams=1, rate=200, pieces=20,
    ),
    StreamScenario(
        name="sse-100",
        title="Event streams, 100 at once, 50 pieces a second each",
        variants=(*_RELAYS, "gateway-kept", "gateway-no-store", "fastapi"),
        streams=100, rate=50, warm_seconds=0.6, seconds=1.5,
    ),
    # The limits compare these with small requests of the same round, so they share its processes.
    StatusScenario(name="status-1", title="Status reads of ended tasks, 1 client", variants=_READERS, clients=1),
    StatusScenario(name="status-32", title="Status reads of ended tasks, 32 clients", variants=_READERS, clients=32),
    StatusScenario(
        name="status-304-32", title="Status reads with If-None-Match, 32 clients",
        variants=("nginx-static", "gateway-1k"), clients=32, is_known=True,
    ),
    StatusScenario(
        name="list-50-32", title="Lists of 50, 32 clients", variants=_READERS, clients=32, query="limit=50",
    ),
    AskedStreamScenario(
        name="sse-100-asked",
        title="Event streams, 100 at once, and 1,000 status reads a second beside them",
        variants=("direct", "gateway-1k"),
        streams=100, rate=50, warm_seconds=0.6, seconds=3.0, reads=1_000,
    ),
    WaitScenario(
        name="wait-5000", title="5,000 pollers that wait, each for a running task",
        variants=("gateway", "gateway-other"), waiters=5_000, changes=500,
        seconds=5.0, limit_seconds=120.0, is_fresh=True,
        gateway_env={"MAX_CONNECTIONS": "20000", "HEARTBEAT_SEC": "60"},
    ),
    StreamScenario(
        name="sse-1000",
        title="Event streams, 1,000 at once, 10 pieces a second each",
        variants=("direct", "nginx", "haproxy", "go", "llama-swap", "gateway"),  # Olla opens at most 50 connections
        streams=1_000, rate=10, warm_seconds=1.0, seconds=2.0, is_fresh=True,
    ),
    HeartbeatScenario(
        name="heartbeats",
        title="Heartbeats of 1,000 streams of 10 pieces a second, HEARTBEAT_SEC=2",
        variants=("gateway",),
        streams=1_000, rate=10, seconds=9.0, is_fresh=True, most_rounds=2,
        heartbeat_seconds=2.0, gateway_env={"HEARTBEAT_SEC": "2"},
    ),
    IdleScenario(
        name="idle-1000",
        title="Idle event streams, 1,000 at once",
        variants=("nginx", "haproxy", "gateway", "gateway-no-store", "fastapi"),
        streams=1_000, seconds=0.5, is_fresh=True, most_rounds=3,
    ),
    BulkScenario(
        name="up-50", title="50 MiB up", variants=(*_PLAIN, "fastapi"),
        megabytes=50, is_upload=True, seconds=0.7, is_fresh=True,
    ),
    BulkScenario(
        name="down-50", title="50 MiB down", variants=(*_PLAIN, "fastapi"),
        megabytes=50, is_upload=False, seconds=0.7, is_fresh=True,
    ),
    StartScenario(
        name="start", title="Start and idle memory", variants=("nginx", "haproxy", "gateway", "fastapi"),
        seconds=0.5, is_fresh=True,
    ),
    StatusScenario(name="status", title="Status reads, 1 client", variants=_FILLED, clients=1, group="filled"),
    StatusScenario(
        name="list", title="Lists of 50, 1 client", variants=_FILLED, clients=1, group="filled", query="limit=50",
    ),
    StatusScenario(
        name="list-failed", title="Lists of 50 that failed, 1 client", variants=_FILLED, clients=1,
        query="limit=50&state=FAILED", group="filled",
    ),
)  # fmt: skip
