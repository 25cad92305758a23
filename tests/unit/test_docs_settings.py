"""Owns the promise that docs/settings.md is what gateway/settings/__init__.py says, and that the defaults stay.

The table is built here from SETTINGS and compared as text: after a change of a setting, paste what the failing test
shows.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from gateway.settings import SETTINGS, InvalidSettings, Setting, load
from tests.support.process import ROOT, environment

PAGE = (ROOT / "docs" / "settings.md").read_text()

# Contract section 7, and MAX_CONNECTIONS of issue 4: names and defaults that stay, "" where unset.
CONTRACT = {
    "UPSTREAM_BASE": "http://127.0.0.1:11434", "REDIS_HOST": "", "REDIS_PORT": "6379", "REDIS_USER": "default",
    "REDIS_PASSWORD": "", "REDIS_DB": "0", "TTL_RUNNING": "3600", "TTL_DONE": "86400", "HEARTBEAT_SEC": "10",
    "ALGORITHM_ID": "ollama-openai", "GATEWAY_HOST": "0.0.0.0", "GATEWAY_PORT": "11535",
    "REDIS_URL": "", "REDIS_PASSWORD_FILE": "", "GATEWAY_API_KEYS": "", "GATEWAY_API_KEYS_FILE": "",
    "CORS_ALLOW_ORIGINS": "", "ALLOWED_HOSTS": "", "MAX_BODY_BYTES": "268435456",
    "MAX_RUNNING": "0", "MAX_QUEUED": "1000", "UPSTREAM_IDLE_TIMEOUT_SEC": "0",
    "DRAIN_SEC": "30", "OLLAMA_PULL_MODELS": "", "LOG_LEVEL": "info", "LOG_FORMAT": "text", "MAX_CONNECTIONS": "8000",
}  # fmt: skip
LATER = {
    "DRAIN_NOTICE_SEC": "0", "GATEWAY_INSTANCE": "", "READY_REQUIRES_MODELS": "false",
    "MAX_RESPONSE_BYTES": "16777216", "MAX_KEPT_BYTES": "268435456", "MAX_STORED_RESPONSE_BYTES": "67108864",
    "TTL_RESPONSE": "3600", "REDIS_CA_FILE": "", "REDIS_CERT_FILE": "", "REDIS_KEY_FILE": "",
    "REQUIRE_GPU": "false", "ERROR_TEXT_BYTES": "0", "OTEL_EXPORTER_OTLP_ENDPOINT": "",
    "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
    "REDIS_SENTINEL_USER": "", "REDIS_SENTINEL_PASSWORD": "", "REDIS_SENTINEL_PASSWORD_FILE": "",
}  # fmt: skip


def row(setting: Setting) -> str:
    """The setting's line in the table."""
    default = f"`{setting.default}`" if setting.default else "unset"
    allowed = f"`{setting.allowed}`" if "://" in setting.allowed else setting.allowed
    meaning = setting.meaning + (" **Secret.**" if setting.is_secret else "")
    return f"| `{setting.name}` | {default} | {allowed} | {meaning} |"


def test_the_table_is_what_the_code_says() -> None:
    """Every setting is a row, in the order of the code, word for word, and there is no other row."""
    expected = [row(setting) for setting in SETTINGS]
    found = [line for line in PAGE.splitlines() if line.startswith("| `")]
    assert found == expected, "docs/settings.md should have:\n" + "\n".join(expected)


def test_the_example_is_real() -> None:
    """The example in the page, run as it stands, prints what the page shows."""
    _, block = PAGE.split("```console\n$ ")
    command, _, shown = block.split("\n```")[0].partition("\n")
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    done = subprocess.run(
        ["bash", "-c", command],
        cwd=ROOT,
        env=environment({"PATH": path}),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=120,
    )
    assert done.stdout.rstrip("\n") == shown


def test_the_contracts_names_and_defaults_stay() -> None:
    """Names and defaults are those of the contract, and these few of later issues; no more and no fewer."""
    assert {setting.name: setting.default for setting in SETTINGS} == CONTRACT | LATER


@pytest.mark.parametrize("setting", [s for s in SETTINGS if s.default], ids=lambda setting: setting.name)
def test_a_default_is_a_value_that_may_be_set(setting: Setting) -> None:
    """Setting a variable to its default changes nothing."""
    assert load({setting.name: setting.default}) == load({})


def test_empty_is_unset() -> None:
    """An empty variable counts as unset, each and all."""
    assert load({setting.name: "" for setting in SETTINGS}) == load({})


def test_defaults_become_what_they_say() -> None:
    """The settings of an empty environment are the documented defaults."""
    settings = load({})
    upstream = urlsplit(CONTRACT["UPSTREAM_BASE"])
    assert (settings.upstream_host, settings.upstream_port) == (upstream.hostname, upstream.port)
    assert settings.redis_url is None
    numbers = {
        "TTL_RUNNING": settings.ttl_running_seconds, "TTL_DONE": settings.ttl_done_seconds,
        "HEARTBEAT_SEC": settings.heartbeat_seconds, "GATEWAY_PORT": settings.gateway_port,
        "MAX_BODY_BYTES": settings.max_body_bytes, "MAX_CONNECTIONS": settings.max_connections,
        "MAX_RESPONSE_BYTES": settings.max_response_bytes, "MAX_KEPT_BYTES": settings.max_kept_bytes,
        "MAX_STORED_RESPONSE_BYTES": settings.max_stored_response_bytes,
        "TTL_RESPONSE": settings.ttl_response_seconds,
        "MAX_RUNNING": settings.max_running, "MAX_QUEUED": settings.max_queued,
        "UPSTREAM_IDLE_TIMEOUT_SEC": settings.upstream_idle_timeout_seconds, "DRAIN_SEC": settings.drain_seconds,
        "DRAIN_NOTICE_SEC": settings.drain_notice_seconds,
    }  # fmt: skip
    assert numbers == {name: float((CONTRACT | LATER)[name]) for name in numbers}
    words = (settings.algorithm_id, settings.gateway_host, settings.log_level, settings.log_format)
    assert words == ("ollama-openai", "0.0.0.0", "info", "text")


STORES = [
    ({"REDIS_HOST": "store"}, "redis://store:6379/0"),
    ({"REDIS_HOST": "store", "REDIS_PORT": "7000", "REDIS_DB": "3"}, "redis://store:7000/3"),
    ({"REDIS_HOST": "::1"}, "redis://[::1]:6379/0"),
    ({"REDIS_HOST": "store", "REDIS_USER": "me"}, "redis://store:6379/0"),
    ({"REDIS_HOST": "store", "REDIS_PASSWORD": "p@ss/w:rd"}, "redis://default:p%40ss%2Fw%3Ard@store:6379/0"),
    ({"REDIS_HOST": "store", "REDIS_URL": "rediss://other/1"}, "rediss://other/1"),
    ({"REDIS_PORT": "7000"}, None),
]


@pytest.mark.parametrize(("environ", "url"), STORES, ids=range(len(STORES)))
def test_how_the_parts_name_a_store(environ: dict[str, str], url: str | None) -> None:
    """Parts become one address; REDIS_URL wins; credentials are sent only with a password; no host, no store."""
    assert load(environ).redis_url == url


def test_a_password_comes_from_its_file(tmp_path: Path) -> None:
    """REDIS_PASSWORD_FILE names the file of the password, which the address does not hold; both at once are refused."""
    file = tmp_path / "password"
    file.write_text("from-a-file\n")
    environ = {"REDIS_HOST": "store", "REDIS_PASSWORD_FILE": str(file)}
    settings = load(environ)
    assert settings.redis_url == "redis://store:6379/0"
    assert (settings.redis_user, settings.redis_password_file) == ("default", file)
    with pytest.raises(InvalidSettings, match="REDIS_PASSWORD_FILE"):
        load(environ | {"REDIS_PASSWORD": "another"})
