"""What the programs are given: addresses, stop limits, their part of the environment; and what is found wrong first."""

from __future__ import annotations

import os
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest

from healthcheck import programs
from healthcheck.programs import (
    addresses,
    gateway_stop_seconds,
    given_to,
    starts_ollama,
    unwritable,
    wants_models,
    wrong_settings,
)
from tests.support.process import environment as clean

if TYPE_CHECKING:
    from pathlib import Path

DEFAULT = {"OLLAMA_HOST": "127.0.0.1:11434", "UPSTREAM_BASE": "http://127.0.0.1:11434"}
MOVED = {"OLLAMA_HOST": "127.0.0.1:11500", "UPSTREAM_BASE": "http://127.0.0.1:11500"}


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, DEFAULT),
        ({"OLLAMA_HOST": "", "UPSTREAM_BASE": ""}, DEFAULT),
        ({"OLLAMA_HOST": "0.0.0.0"}, DEFAULT),
        ({"OLLAMA_HOST": "0.0.0.0:11500"}, MOVED),
        ({"OLLAMA_HOST": ":11500"}, MOVED),
        ({"OLLAMA_HOST": "http://[::1]:11500/"}, MOVED),
        ({"UPSTREAM_BASE": "http://127.0.0.1:11500"}, MOVED),
        ({"UPSTREAM_BASE": "tcp://10.0.0.1:11500"}, DEFAULT),
    ],
)
def test_addresses_agree_and_ollama_stays_on_loopback(environment: dict[str, str], expected: dict[str, str]) -> None:
    """Ollama listens on loopback only, and the gateway looks for it at the same port."""
    assert addresses(environment) == expected


def test_an_upstream_elsewhere_does_not_move_ollama() -> None:
    """An UPSTREAM_BASE on another machine stays as it is and says nothing about Ollama's port here."""
    found = addresses({"UPSTREAM_BASE": "http://gpu.internal:8000", "LAUNCHER_IN_IMAGE": "true"})
    assert found == {"OLLAMA_HOST": "127.0.0.1:11434", "UPSTREAM_BASE": "http://gpu.internal:8000"}


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, True),
        ({"UPSTREAM_BASE": ""}, True),
        ({"UPSTREAM_BASE": "tcp://10.0.0.1:80"}, True),
        ({"UPSTREAM_BASE": "http://127.0.0.1:11434"}, False),
        ({"UPSTREAM_BASE": "http://127.0.0.1:11434", "OLLAMA_HOST": "127.0.0.1:11500"}, False),
        ({"UPSTREAM_BASE": "http://127.0.0.1:11434", "LAUNCHER_IN_IMAGE": "true"}, True),
    ],
)
def test_an_upstream_that_is_named_is_used(environment: dict[str, str], expected: bool) -> None:
    """Outside the image no Ollama is started where UPSTREAM_BASE is set; in the image one always is."""
    assert starts_ollama(environment) is expected


@pytest.mark.parametrize("value", ["127.0.0.1:http", "127.0.0.1:99999", "http://user:hunter2@[::1"])
def test_a_wrong_address_for_ollama_is_named_with_the_wrong_settings(value: str) -> None:
    """OLLAMA_HOST is checked with the gateway's own settings; what may be a password in it is not shown."""
    code, lines = wrong_settings(clean({"OLLAMA_HOST": value, "GATEWAY_PORT": "0", "DRAIN_SEC": "soon"}))
    assert code == 2
    assert [program for program, _ in lines] == ["gateway", "gateway", "launcher"]
    assert [line.split("=")[0] for _, line in lines] == ["gateway: GATEWAY_PORT", "gateway: DRAIN_SEC", "OLLAMA_HOST"]
    assert "hunter2" not in str(lines)


def test_an_address_that_nothing_needs_is_not_judged() -> None:
    """Where no Ollama is started, its address may be anything; and right settings are no line."""
    settings = {"OLLAMA_HOST": "127.0.0.1:http", "UPSTREAM_BASE": "http://127.0.0.1:1"}
    assert wrong_settings(clean(settings)) == (0, [])


def test_a_check_that_breaks_is_heard(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Where the gateway cannot even be asked, that is said and nothing is started."""
    monkeypatch.setattr(programs, "ROOT", tmp_path)
    code, lines = wrong_settings(clean({"PYTHONPATH": ""}) | {"PYTHONNOUSERSITE": "1"})
    assert code == 1
    assert "gateway" in str(lines)


SECRETS = {
    "REDIS_PASSWORD": "a",
    "REDIS_PASSWORD_FILE": "/run/secrets/redis",
    "REDIS_URL": "redis://:a@store",
    "REDIS_SENTINEL_PASSWORD": "b",
    "GATEWAY_API_KEYS": "c",
    "GATEWAY_API_KEYS_FILE": "/run/secrets/keys",
    "OTEL_EXPORTER_OTLP_ENDPOINT": "https://user:d@collector",
    "OTEL_EXPORTER_OTLP_HEADERS": "d",
    "OTEL_RESOURCE_ATTRIBUTES": "d",
}


@pytest.mark.parametrize("program", ["ollama", "pull", "listener"])
def test_the_gateways_secrets_are_given_to_nothing_else(program: str) -> None:
    """Ollama, the pull program and the listener get no variable that can hold one, or the name of a file that does."""
    kept = {"PATH": "/bin", "UPSTREAM_BASE": "http://127.0.0.1:11434", "OLLAMA_PULL_MODELS": "m", "LOG_FORMAT": "json"}
    assert given_to(program, kept | SECRETS | {"OLLAMA_GATEWAY_KEY": "k"}) == kept


def test_the_gateway_gets_its_own_secrets() -> None:
    """All of them; but the key that the terminal's commands send is none of them."""
    assert given_to("gateway", SECRETS | {"OLLAMA_GATEWAY_KEY": "k"}) == SECRETS


@pytest.fixture
def writable_nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """As another user than root sees what belongs to root: root may write everywhere."""
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    monkeypatch.setattr(os, "geteuid", lambda: 10001)


@pytest.mark.usefixtures("writable_nowhere")
def test_models_that_cannot_be_written_are_one_line(tmp_path: Path) -> None:
    """The place is named, and the user to whom it has to belong: the one who runs this."""
    line = unwritable({"HOME": str(tmp_path), "OLLAMA_MODELS": str(tmp_path)})
    assert line == f"{tmp_path} cannot be written: it must belong to uid 10001, or Ollama can store nothing"


def test_a_place_below_a_file_is_called_so(tmp_path: Path) -> None:
    """Nothing can be made there by any user."""
    (tmp_path / "file").touch()
    line = unwritable({"HOME": str(tmp_path), "OLLAMA_MODELS": str(tmp_path / "file" / "models")})
    assert line == f"{tmp_path / 'file'} is no directory: Ollama can store nothing in {tmp_path / 'file' / 'models'}"


def test_a_place_that_can_be_made_is_no_line(tmp_path: Path) -> None:
    """Ollama makes its directories itself where it may; the nearest that is there counts."""
    assert unwritable({"HOME": str(tmp_path / "a" / "b"), "OLLAMA_MODELS": str(tmp_path / "models" / "c")}) is None


@pytest.mark.usefixtures("writable_nowhere")
def test_a_read_only_place_is_called_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No owner would help there."""
    monkeypatch.setattr(os, "statvfs", lambda path: SimpleNamespace(f_flag=os.ST_RDONLY))
    line = unwritable({"HOME": str(tmp_path), "OLLAMA_MODELS": str(tmp_path / "models")})
    assert line == f"{tmp_path} is read-only: Ollama can store nothing in {tmp_path / 'models'}"


@pytest.mark.parametrize(
    ("drain", "seconds"),
    [(None, 35), ("", 35), ("0", 5), ("12.5", 18), ("soon", 35), ("tcp://10.0.0.1:80", 35), ("inf", 35), ("-4", 5)],
)
def test_the_gateway_may_stop_longer_than_it_drains(drain: str | None, seconds: int) -> None:
    """The stop wait is notice, drain and five seconds more; a wrong duration is the gateway's to refuse."""
    drains = {} if drain is None else {"DRAIN_SEC": drain}
    assert gateway_stop_seconds(drains) == seconds
    assert gateway_stop_seconds({**drains, "DRAIN_NOTICE_SEC": "20"}) == seconds + 20
    assert gateway_stop_seconds({**drains, "DRAIN_NOTICE_SEC": "later"}) == seconds


@pytest.mark.parametrize(
    ("models", "expected"),
    [(None, False), ("", False), (" ,\n", False), ("m", True), ("?", True), ("tcp://10.0.0.1:80", False)],
)
def test_models_are_pulled_only_where_some_are_named(models: str | None, expected: bool) -> None:
    """No names, no program; a wrong name is the gateway's to refuse."""
    assert wants_models({} if models is None else {"OLLAMA_PULL_MODELS": models}) is expected


def test_traces_take_three_seconds_more() -> None:
    """The last ones are sent after the last statuses are written; that wait has a limit of its own."""
    assert gateway_stop_seconds({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4318"}) == 38
    assert gateway_stop_seconds({"OTEL_EXPORTER_OTLP_ENDPOINT": "tcp://10.0.0.1:80"}) == 35


def test_parts_of_seconds_count_for_the_stop_wait() -> None:
    """Notice and drain are added up before they are rounded, and never down."""
    assert gateway_stop_seconds({"DRAIN_SEC": "0.4", "DRAIN_NOTICE_SEC": "0.4"}) == 6
    assert gateway_stop_seconds({"DRAIN_SEC": "0.6", "DRAIN_NOTICE_SEC": "0.6"}) == 7
    assert gateway_stop_seconds({"DRAIN_NOTICE_SEC": "later"}) == gateway_stop_seconds({})
