"""Owns the promise that docs/many-machines.md fits the files that it ships with, and the code."""

from __future__ import annotations

import re
import subprocess
from typing import TYPE_CHECKING

import pytest
import yaml

from gateway.nodes import announcer
from gateway.settings import SETTINGS
from gateway.store.layout import MAX_NODES
from gateway.tasks.stages import PRESUMED_MS
from gateway.tracking.tracked import SILENT_BEATS
from tests.support.pages import blocks, page, table, the_block
from tests.support.process import ROOT

if TYPE_CHECKING:
    from pathlib import Path

PAGE = page("docs/many-machines.md")
HAPROXY, ENVOY = page("deploy/haproxy/haproxy.cfg"), page("deploy/envoy/envoy.yaml")
COMPOSE, CLUSTER = yaml.safe_load(page("compose.yaml")), yaml.safe_load(page("compose.cluster.yaml"))
ADDRESSES = ["192.0.2.11", "192.0.2.12", "192.0.2.13"]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
CODE = re.compile(r"`([^`\n]+)`")
# What needs other machines stands in blocks without a language.
EXAMPLES = [text for language, text in FENCE.findall(PAGE) if not language]


def heartbeat_seconds() -> int:
    """The default of HEARTBEAT_SEC, which the times of the page are for."""
    (default,) = [setting.default for setting in SETTINGS if setting.name == "HEARTBEAT_SEC"]
    return int(default)


def written(holding: str, name: str, directory: Path) -> str:
    """The file that the page's command makes of a shipped one."""
    (directory / "deploy").symlink_to(ROOT / "deploy")
    command = the_block(PAGE, "sh", holding)
    subprocess.run(["sh", "-ec", command], cwd=directory, check=True, timeout=20)
    return (directory / name).read_text()


def test_the_command_for_haproxy_puts_in_the_addresses(tmp_path: Path) -> None:
    """Each gateway's address takes the place of its name in both lists, and all else is as shipped."""
    text = written(ADDRESSES[0] + ":", "haproxy.cfg", tmp_path)
    assert re.findall(r"^ +server gateway-\d (\S+)$", text, re.MULTILINE) == [f"{a}:11535" for a in ADDRESSES] * 2
    back = text
    for number, address in enumerate(ADDRESSES, start=1):
        back = back.replace(f" {address}:", f" gateway-{number}:")
    assert back == HAPROXY


def test_the_command_for_two_gateways_puts_in_their_ports(tmp_path: Path) -> None:
    """Both lists have the ports of the two commands that start the gateways, and HAProxy has a third one."""
    text = written("two-gateways.cfg", "two-gateways.cfg", tmp_path)
    gateways = re.findall(r"^GATEWAY_INSTANCE=(\S+) GATEWAY_PORT=(\d+) .* make run$", "\n".join(EXAMPLES), re.MULTILINE)
    servers = [f"    server {name} 127.0.0.1:{port}" for name, port in gateways]
    assert [line for line in text.splitlines() if line.startswith("    server ")] == servers * 2
    assert "\n    bind 127.0.0.1:11535\n" in text
    assert len({"11535", *(port for _, port in gateways)}) == 3
    others = [line for line in HAPROXY.splitlines() if not line.startswith(("    server ", "    bind "))]
    assert [line for line in text.splitlines() if not line.startswith(("    server ", "    bind "))] == others


def test_the_command_for_envoy_puts_in_the_addresses(tmp_path: Path) -> None:
    """Each gateway's address takes the place of its name, and all else is as shipped."""
    text = written("envoy.yaml", "envoy.yaml", tmp_path)
    assert re.findall(r"address: (192\S+), port_value: 11535", text) == ADDRESSES
    back = text
    for number, address in enumerate(ADDRESSES, start=1):
        back = back.replace(f" {address},", f" gateway-{number},")
    assert back == ENVOY


def test_the_file_env_is_one_that_compose_takes() -> None:
    """Every variable of the page's .env is passed on by compose.yaml, and the stop limits nest."""
    values = dict(line.split("=", 1) for line in the_block(PAGE, "ini", "GATEWAY_INSTANCE").splitlines())
    taken = set(COMPOSE["services"]["gateway"]["environment"]) | set(re.findall(r"\$\{(\w+)", page("compose.yaml")))
    assert set(values) - taken == {"COMPOSE_FILE"}
    assert all((ROOT / name).is_file() for name in values["COMPOSE_FILE"].split(":"))
    stop = int(values["DRAIN_NOTICE_SEC"]) + int(values["DRAIN_SEC"])
    assert int(values["STOP_GRACE_PERIOD"].removesuffix("s")) >= stop + 20


def test_the_commands_name_services_that_are_there() -> None:
    """Each service in a Docker command of the page is one of its file."""
    commands = "\n".join(blocks(PAGE, "sh"))
    named = re.findall(r"compose\.cluster\.yaml (?:restart|kill|exec|start) ([\w-]+)", commands)
    assert len(named) == 4
    assert set(named) <= set(CLUSTER["services"])
    plain = re.findall(r"docker compose up .* (\w+)$", "\n".join(EXAMPLES), re.MULTILINE)
    assert set(plain) == {"gateway"} <= set(COMPOSE["services"])


def test_the_redis_of_the_page_is_that_of_compose() -> None:
    """The commands that start Redis use the options of compose.yaml, the one for Docker its image and user, too."""
    (command,) = [block for block in EXAMPLES if "--name redis" in block]
    (plain,) = [block for block in EXAMPLES if block.startswith("redis-server --bind 127.0.0.1 ")]
    redis = COMPOSE["services"]["redis"]
    assert redis["image"].split(":-")[1].rstrip("}") in command
    assert f"--user {redis['user']}" in command
    for option in ('--save ""', "--appendonly yes", "--maxmemory 256mb", "--maxmemory-policy volatile-lru"):
        assert option in command
        assert option in plain


def test_the_haproxy_of_the_page_is_that_of_compose() -> None:
    """The command that starts HAProxy uses the image, the user, the file and the signal of compose.cluster.yaml."""
    (command,) = [block for block in EXAMPLES if "--name haproxy" in block]
    haproxy = CLUSTER["services"]["haproxy"]
    assert haproxy["image"].split(":-")[1].rstrip("}") in command
    assert f"--user {haproxy['user']}" in command
    assert f"--stop-signal {haproxy['stop_signal']}" in command
    assert haproxy["volumes"][0].partition(":")[2] in command


def test_every_setting_has_its_row() -> None:
    """The page says of every setting whether it has to be the same at all gateways; those for Redis are one row."""
    rows = table(PAGE, "| Setting | At all gateways | Otherwise |")
    named = [name for row in rows for name in re.findall(r"\b[A-Z][A-Z_]{4,}\b", row[0])]
    expected = {setting.name for setting in SETTINGS if not setting.name.startswith("REDIS_")} | {"REDIS_URL"}
    assert sorted(named) == sorted(expected)


def test_the_times_are_those_of_the_code() -> None:
    """Silence, presumption, the size of the table and the log line of a name that is taken are the code's."""
    assert f"`HEARTBEAT_SEC={heartbeat_seconds()}`" in PAGE
    lost = SILENT_BEATS * heartbeat_seconds()
    assert f"`lost` after {lost} s" in PAGE
    assert f"RUNNING for up to {lost + 2} s" in PAGE
    assert PRESUMED_MS == 600_000
    assert "after ten minutes of silence" in PAGE
    assert f"`/nodes` holds {MAX_NODES} gateways" in PAGE
    text = " ".join(FENCE.sub("", PAGE).split())
    (line,) = [code for code in CODE.findall(text) if code.startswith("another gateway calls itself")]
    source = (ROOT / "gateway/nodes" / f"{announcer.__name__.rpartition('.')[2]}.py").read_text()
    assert line.replace("gateway-1", "%s") in source


@pytest.mark.parametrize(
    ("haproxy", "envoy", "said"),
    [
        ("inter 500ms fall 1 rise 1", "interval: 0.5s", "within half a second"),
        ("timeout check 2s", "timeout: 2s", "after 2.5 s at the latest"),
        ("option srvtcpka", "tcp_keepalive", "broken off after a minute"),
        ("maxconn 8000", "max_connections: 8000", "8,000 clients"),
        ("no_gateway_ready", "code: no_gateway_ready", "503 `no_gateway_ready`"),
        ("hdr Retry-After 2", 'key: retry-after, value: "2"', "`Retry-After: 2`"),
        ("uri /readyz", "path: /readyz", "Decide by `/readyz` alone"),
        ("uri /livez", "path: /livez", "gateways whose `/livez` is 200"),
    ],
)
def test_the_balancers_do_what_the_page_says(haproxy: str, envoy: str, said: str) -> None:
    """Each time and limit of the page is in both files."""
    assert haproxy in HAPROXY
    assert envoy in ENVOY
    assert said in PAGE


def test_no_balancer_counts_errors() -> None:
    """Neither file lets the errors of answers take a gateway out of service."""
    assert not re.search(r"^[^#]*\bobserve\b", HAPROXY, re.MULTILINE)
    assert "outlier_detection" not in ENVOY
