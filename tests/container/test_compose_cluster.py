"""Promises of compose.cluster.yaml that need no container: what Compose makes of it."""

from __future__ import annotations

import re
from typing import Any

import pytest

from healthcheck.programs import gateway_stop_seconds
from tests.container.test_compose import HARDENING, config

pytestmark = pytest.mark.container
GATEWAYS = ["gateway-1", "gateway-2", "gateway-3"]
STORES = ["redis-1", "redis-2", "sentinel-1", "sentinel-2", "sentinel-3"]


@pytest.fixture(autouse=True)
def _engine(engine: None) -> None:
    """Compose is there."""


def services(**environment: str) -> dict[str, Any]:
    """The services with just these variables set."""
    return dict(config("compose.cluster.yaml", **environment)["services"])


def seconds(duration: str) -> int:
    """Compose's way to write a time, in seconds."""
    found = re.fullmatch(r"(?:(\d+)m)?(\d+)s", duration)
    assert found
    return int(found[1] or 0) * 60 + int(found[2])


def test_haproxys_port_alone_is_published() -> None:
    """Nothing else can be reached from outside; on 127.0.0.1 unless told otherwise."""
    seen = services()
    assert [name for name, service in seen.items() if "ports" in service] == ["haproxy"]
    [port] = seen["haproxy"]["ports"]
    assert (port["host_ip"], port["published"], port["target"]) == ("127.0.0.1", "11535", 11535)
    [opened] = services(GATEWAY_BIND="0.0.0.0", GATEWAY_PUBLISH_PORT="80")["haproxy"]["ports"]
    assert (opened["host_ip"], opened["published"]) == ("0.0.0.0", "80")


def test_only_the_gateways_reach_the_store() -> None:
    """Redis and Sentinel have no password, so their one network leads nowhere but to the gateways."""
    whole = config("compose.cluster.yaml")
    assert whole["networks"]["store"]["internal"] is True
    for name, service in whole["services"].items():
        assert (
            set(service["networks"])
            == {
                "haproxy": {"outside"},
                **{key: {"outside", "store"} for key in GATEWAYS},
                **{key: {"store"} for key in STORES},
            }[name]
        )


def test_a_gateway_is_that_of_compose_yaml() -> None:
    """Each gateway is set up like the one of compose.yaml, except for its name, its store and its notice."""
    plain = config()["services"]["gateway"]
    own = {"ports", "depends_on", "environment", "build", "pull_policy"}
    not_passed = {key for key in plain["environment"] if key.startswith("REDIS_")} - {"REDIS_URL"}
    for name in GATEWAYS:
        seen = services()[name]
        assert {key: seen[key] for key in seen.keys() - own} == {key: plain[key] for key in plain.keys() - own}
        assert set(seen["environment"]) == set(plain["environment"]) - not_passed
        told = {key: value for key, value in seen["environment"].items() if value is not None}
        assert told.pop("REDIS_URL") == "redis+sentinel://sentinel-1:26379,sentinel-2:26379,sentinel-3:26379/ollama"
        assert told.pop("OLLAMA_PULL_MODELS", "") == ""
        assert told == {"GATEWAY_INSTANCE": name, "DRAIN_NOTICE_SEC": "5"}
    assert services()["gateway-1"]["build"] == plain["build"]


def test_one_gateway_pulls_for_all() -> None:
    """The three share the models, so only the first pulls them."""
    seen = services(OLLAMA_PULL_MODELS="small")
    assert [seen[name]["environment"]["OLLAMA_PULL_MODELS"] for name in GATEWAYS] == ["small", "", ""]
    assert len({service["volumes"][0]["source"] for name, service in seen.items() if name in GATEWAYS}) == 1


@pytest.mark.parametrize("name", ["haproxy", *GATEWAYS, *STORES])
def test_every_service_is_hardened(name: str) -> None:
    """A plain user, read-only root, no capabilities, no new privileges, a tmpfs for /tmp."""
    seen = services()[name]
    assert {key: seen[key] for key in HARDENING} == HARDENING
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", seen["user"])
    assert not {"privileged", "cap_add", "pid", "ipc", "devices", "network_mode"} & seen.keys()


def test_the_stop_limits_nest() -> None:
    """Notice and drain < the gateway's stop wait < its container's grace; HAProxy stops first and waits as long."""
    seen = services()
    grace = {name: seconds(seen[name]["stop_grace_period"]) for name in ["haproxy", *GATEWAYS]}
    notice = seen["gateway-1"]["environment"]["DRAIN_NOTICE_SEC"]
    assert 30 + int(notice) < gateway_stop_seconds({"DRAIN_NOTICE_SEC": notice}) < min(grace.values())
    assert set(seen["haproxy"]["depends_on"]) == set(GATEWAYS)
    assert seen["haproxy"]["stop_signal"] == "SIGUSR1"
    assert seconds(services(STOP_GRACE_PERIOD="10m")["haproxy"]["stop_grace_period"]) == 600
