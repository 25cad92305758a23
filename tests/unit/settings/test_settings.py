"""The settings in the environment: each row's good and bad values, all errors at once, no secret shown."""

from __future__ import annotations

import os
from hashlib import sha256
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from redis.asyncio.connection import parse_url

from gateway import settings
from gateway.settings import SETTINGS, InvalidSettings, Setting, Settings, load, start_warnings, terminal_peer

if TYPE_CHECKING:
    from pathlib import Path

SECRET = "hunter2"
# Each variable, the field it ends in, and values with what they mean.
GOOD: list[tuple[str, str, dict[str, Any]]] = [
    ("UPSTREAM_BASE", "upstream_host", {"http://h": "h", "http://h:1/": "h", "http://[::1]:5": "::1", "HTTP://A": "a"}),
    ("UPSTREAM_BASE", "upstream_port", {"http://h": 80, "http://h:65535": 65535, "http://[::1]:5": 5, "http://h:": 80}),
    ("REDIS_HOST", "redis_url", {"h": "redis://h:6379/0", "10.0.0.1": "redis://10.0.0.1:6379/0",
                                 "::1": "redis://[::1]:6379/0", "[::1]": "redis://[::1]:6379/0"}),
    ("REDIS_URL", "redis_url", {url: url for url in (
        "redis://h", "rediss://u:p@h:1/15", "redis://[::1]:1/", "redis+sentinel://h/main", "RediSS://h",
        "rediss+sentinel://u:p@a:1,b,[::1]:3/my-master.1/15")}),
    ("TTL_RUNNING", "ttl_running_seconds", {"50": 50, "31536000": 31536000}),
    ("TTL_DONE", "ttl_done_seconds", {"1": 1, "31536000": 31536000}),
    ("HEARTBEAT_SEC", "heartbeat_seconds", {"0.1": 0.1, "720": 720.0, "2.5": 2.5}),
    ("ALGORITHM_ID", "algorithm_id", {"a": "a", "ollama/v1:x@y-z_1.0": "ollama/v1:x@y-z_1.0", "a" * 128: "a" * 128}),
    ("GATEWAY_HOST", "gateway_host",
     {"127.0.0.1": "127.0.0.1", "::": "::", "[::1]": "::1", "my-host.local": "my-host.local"}),
    ("GATEWAY_PORT", "gateway_port", {"1": 1, "65535": 65535}),
    ("MAX_RUNNING", "max_running", {"0": 0, "100000": 100_000}),
    ("MAX_QUEUED", "max_queued", {"0": 0, "1000000": 1_000_000}),
    ("MAX_RESPONSE_BYTES", "max_response_bytes", {"0": 0, "268435456": 2**28}),
    ("MAX_KEPT_BYTES", "max_kept_bytes", {"16777216": 2**24, "1099511627776": 2**40}),
    ("MAX_STORED_RESPONSE_BYTES", "max_stored_response_bytes", {"1": 1, "1099511627776": 2**40}),
    ("TTL_RESPONSE", "ttl_response_seconds", {"1": 1, "86400": 86400}),
    ("MAX_BODY_BYTES", "max_body_bytes", {"1": 1, "1099511627776": 2**40}),
    ("MAX_CONNECTIONS", "max_connections", {"1": 1, "1000000": 1_000_000}),
    ("UPSTREAM_IDLE_TIMEOUT_SEC", "upstream_idle_timeout_seconds", {"0": 0.0, "86400": 86400.0, "0.25": 0.25}),
    ("DRAIN_SEC", "drain_seconds", {"0": 0.0, "3600": 3600.0, "1.5": 1.5}),
    ("DRAIN_NOTICE_SEC", "drain_notice_seconds", {"0": 0.0, "3600": 3600.0, "1.5": 1.5}),
    ("LOG_LEVEL", "log_level", {"debug": "debug", "WARNING": "warning", "Error": "error"}),
    ("LOG_FORMAT", "log_format", {"text": "text", "JSON": "json"}),
    ("CORS_ALLOW_ORIGINS", "cors_allow_origins", {
        "*": ("*",), "https://a.example": ("https://a.example",), "http://[::1]:3000": ("http://[::1]:3000",),
        " HTTPS://A:8443 ,app2://x,": ("https://a:8443", "app2://x"), "x-ext://*": ("x-ext://*",),
        "https://*.example.com,http://h:*": ("https://*.example.com", "http://h:*")}),
    ("ALLOWED_HOSTS", "allowed_hosts", {
        "*": ("*",), "Gateway, b.example.com": ("gateway", "b.example.com"), "*.example.com": ("*.example.com",),
        "10.0.0.1,::1": ("10.0.0.1", "::1")}),
    ("OLLAMA_PULL_MODELS", "pull_models", {
        "gpt-oss:20b qwen3:0.6b": ("gpt-oss:20b", "qwen3:0.6b"), "a,b , c\n": ("a", "b", "c"), " ,": (),
        "hf.co/me/Model-GGUF:Q4_K_M": ("hf.co/me/Model-GGUF:Q4_K_M",), "h:5000/n/m me/m": ("h:5000/n/m", "me/m"),
        "m m:latest M library/m registry.ollama.ai/library/m m:2": ("m", "m:2")}),
    ("READY_REQUIRES_MODELS", "ready_requires_models", {"true": True, "False": False}),
    ("REQUIRE_GPU", "require_gpu", {"true": True, "False": False}),
    ("ERROR_TEXT_BYTES", "error_text_bytes", {"0": 0, "1024": 1024}),
    ("OTEL_EXPORTER_OTLP_ENDPOINT", "otlp_endpoint", {
        "http://collector:4318": "http://collector:4318", "https://u:p@h/otlp/": "https://u:p@h/otlp/",
        "http://[::1]:4318": "http://[::1]:4318"}),
]  # fmt: skip
NUMBERS = ["-1", "x", "1e3", "0x10", "+5", "1_000", " 5", "5 ", "5\n", "nan", "inf", "9" * 40]
BAD: dict[str, list[str]] = {
    "UPSTREAM_BASE": ["h:11434", "https://h", "http://", "http:///", "http://h/v1", "http://h?x=1", "http://h#x",
                      "http://u:p@h", "http://h:65536", "http://h:x", "http://[::1", "http://h:-1", "ftp://h", "/"],
    "REDIS_HOST": ["redis://h", "h/0", "a b", "h?", "u@h", "h\n", "x" * 256],
    "REDIS_PORT": ["0", "65536", "1.5", *NUMBERS],
    "REDIS_USER": ["a b", "a\tb", " ", "x" * 129],
    "REDIS_PASSWORD_FILE": ["/no/such/file", "/", "/\x00", "./none"],
    "REDIS_DB": ["10000", "1.5", *NUMBERS],
    "REDIS_URL": ["h:6379", "http://h", "redis://", "redis://:p@", "redis://h:0", "redis://h:65536", "redis://h:x",
                  "redis://h/x", "redis://h/0/1", "redis://h/12345", "unix:///tmp/s", "redis://[::1", "redis://a,b",
                  "redis+sentinel://h", "redis+sentinel://h/", "redis+sentinel://h/m/x", "redis+sentinel://h/m/0/1",
                  "redis+sentinel://h,/m", "redis+sentinel://h:0/m", "redis+sentinel://a,b:65536/m", "redis://[h]",
                  "redis+sentinel://a, b/m", "sentinel://h/m", "redis+sentinel:///m", "redis+sentinel://h/m?x=1"],
    "REDIS_CA_FILE": ["/no/such/file", "/", "/\x00", "./none"],
    "REDIS_CERT_FILE": ["/no/such/file", "/", "/\x00", "./none"],
    "REDIS_KEY_FILE": ["/no/such/file", "/", "/\x00", "./none"],
    "REDIS_SENTINEL_USER": ["a b", "a\tb", " ", "x" * 129],
    "REDIS_SENTINEL_PASSWORD_FILE": ["/no/such/file", "/", "/\x00", "./none"],
    "TTL_RUNNING": ["0", "31536001", "60.5", *NUMBERS],
    "TTL_DONE": ["0", "31536001", "60.5", *NUMBERS],
    "HEARTBEAT_SEC": ["0", "0.09", "3601", ".5", "5.", "1.0000001", *NUMBERS],
    "ALGORITHM_ID": ["a b", "é", "a\n", "x" * 129, "a?", "{}"],
    "GATEWAY_HOST": ["a b", "http://h", "h/", "x" * 256],
    "GATEWAY_PORT": ["0", "65536", "80.0", *NUMBERS],
    "GATEWAY_INSTANCE": ["a b", "a/b", "a" * 129],
    "MAX_RUNNING": ["100001", *NUMBERS],
    "MAX_QUEUED": ["1000001", "ten", *NUMBERS],
    "MAX_RESPONSE_BYTES": ["1073741825", "16M", *NUMBERS],
    "MAX_KEPT_BYTES": ["0", "1099511627777", "256M", *NUMBERS],
    "MAX_STORED_RESPONSE_BYTES": ["0", "1099511627777", "64M", *NUMBERS],
    "TTL_RESPONSE": ["0", "31536001", "60.5", *NUMBERS],
    "MAX_BODY_BYTES": ["0", "1099511627777", "1.5", "256M", *NUMBERS],
    "MAX_CONNECTIONS": ["0", "1000001", "many", *NUMBERS],
    "UPSTREAM_IDLE_TIMEOUT_SEC": ["86401", "off", *NUMBERS],
    "DRAIN_SEC": ["3601", *NUMBERS],
    "DRAIN_NOTICE_SEC": ["3601", *NUMBERS],
    "LOG_LEVEL": ["verbose", "critical", "20", " info"],
    "LOG_FORMAT": ["xml", "text,json"],
    "GATEWAY_API_KEYS": ["k", ",", " ", "seven77", "x" * 257, "a b c d e f", "n:", ":longenough", "a b:longenough",
                         "é" * 9, "a:longenough,b:longenough", "x" * 65 + ":longenough", "a:b:longenough",
                         "longenough,k"],
    "GATEWAY_API_KEYS_FILE": ["/no/such/file", "/", "/\x00", "/dev/null"],
    "CORS_ALLOW_ORIGINS": [",", "null", "example.com", "https://", "https://a/", "https://a/b", "https://*.*", "**",
                           "https://a:x", "https://u@a", "https://a b", "//a", "https://a,b", "é://a", "a://é"],
    "ALLOWED_HOSTS": [",", "a:1", "http://a", "a/b", "a b", "*a", "a.*", "**", ".a", "a..b", "é", "*.*", "u@h"],
    "OLLAMA_PULL_MODELS": ["-m", ".", "..", "a/../b", "a b; c", "a/b/c/d", "http://h/n/m", "m:", "m:a:b", "/m", "m/",
                           "é", "a&b", "m@sha256", "x" * 81, "$(id)", " ".join(f"m{n}" for n in range(65))],
    "READY_REQUIRES_MODELS": ["yes", "1", " true"],
    "REQUIRE_GPU": ["yes", "1"],
    "ERROR_TEXT_BYTES": ["1025", "1.5", *NUMBERS],
    "OTEL_EXPORTER_OTLP_ENDPOINT": ["collector:4318", "grpc://h", "http://", "http://h:0", "http://h:x", "http://h?a=b",
                                    "http://h#x", "http://ho st", "http://h\n", "http://[::1"],
    "OTEL_EXPORTER_OTLP_PROTOCOL": ["grpc", "http/json", "http"],
}  # fmt: skip
ANY_TEXT = {"REDIS_PASSWORD", "REDIS_SENTINEL_PASSWORD"}
NOT_REFUSED_YET = [
    ("UPSTREAM_BASE", "http://127.0.0.1:0"), ("UPSTREAM_BASE", "http://ho st"), ("UPSTREAM_BASE", "http://h\\x"),
    ("UPSTREAM_BASE", "http://h\n"), ("REDIS_URL", "redis://h?db=x"), ("REDIS_URL", "redis://h/0#x"),
    ("REDIS_URL", "redis://ho st"), ("REDIS_HOST", "h:6379"), ("REDIS_HOST", "[::1"), ("GATEWAY_PORT", "\u0663"),
]  # fmt: skip


def refusal(**environ: str) -> list[str]:
    """The lines that say what is wrong with this environment."""
    with pytest.raises(InvalidSettings) as caught:
        load(environ)
    assert str(caught.value) == "\n".join(caught.value.problems)
    assert all("\n" not in line for line in caught.value.problems)
    return caught.value.problems


def credentials(url: str | None) -> tuple[str | None, str | None]:
    """User and password as redis-py reads them from the URL."""
    assert url is not None
    found = parse_url(url)
    return found.get("username"), found.get("password")


def test_nothing_set_gives_the_defaults() -> None:
    """An empty environment is valid, without a store."""
    found = load({})
    assert isinstance(found, Settings)
    assert (found.upstream_host, found.upstream_port, found.redis_url) == ("127.0.0.1", 11434, None)
    assert (found.ttl_running_seconds, found.ttl_done_seconds, found.heartbeat_seconds) == (3600, 86400, 10)
    assert (found.gateway_host, found.gateway_port) == ("0.0.0.0", 11535)
    assert (found.max_body_bytes, found.upstream_idle_timeout_seconds, found.drain_seconds) == (268435456, 0, 30)
    assert (found.algorithm_id, found.log_level, found.log_format) == ("ollama-openai", "info", "text")
    assert found.instance


def test_the_protocol_of_traces_has_one_value() -> None:
    """It may be set to that value, which changes nothing."""
    assert load({"OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf"}) == load({})


@pytest.mark.parametrize(
    ("text", "is_off"), [("true", True), ("TRUE", True), (" True ", True), ("false", False), ("1", False), ("", False)]
)
def test_opentelemetrys_own_switch_turns_traces_off(text: str, is_off: bool) -> None:
    """OTEL_SDK_DISABLED=true counts as no address of a collector; any other value is false, as the standard says."""
    found = load({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4318", "OTEL_SDK_DISABLED": text})
    assert found.otlp_endpoint == (None if is_off else "http://collector:4318")


def test_an_empty_variable_is_an_unset_one() -> None:
    """Compose files set empty variables; each means its default."""
    assert load({setting.name: "" for setting in SETTINGS}) == load({})


def test_every_variable_has_its_cases() -> None:
    """Each row has bad values here, unless it accepts any text."""
    assert {setting.name for setting in SETTINGS} == BAD.keys() | ANY_TEXT


@pytest.mark.parametrize(
    ("name", "field", "text", "value"),
    [(name, field, text, value) for name, field, cases in GOOD for text, value in cases.items()],
)
def test_a_good_value_is_taken(name: str, field: str, text: str, value: Any) -> None:
    """Values at both ends of a range arrive in their field, and the other fields do not change."""
    found = load({name: text})
    assert getattr(found, field) == value
    assert type(getattr(found, field)) is type(value)


@pytest.mark.parametrize(("name", "text"), [(name, text) for name, texts in BAD.items() for text in texts])
def test_a_bad_value_is_named(name: str, text: str) -> None:
    """A wrong value stops the start with one line: the variable, the value (or its mask), the allowed values."""
    (line,) = refusal(**{name: text})
    (setting,) = [setting for setting in SETTINGS if setting.name == name]
    assert line.startswith(f"{name}=")
    assert setting.allowed in line
    assert "***" in line if setting.is_secret or "@" in text else repr(text) in line


@pytest.mark.parametrize(("name", "text"), NOT_REFUSED_YET)
def test_a_value_that_cannot_work_is_named(name: str, text: str) -> None:
    """An address that cannot work, or that means something else than it says, stops the start as well."""
    assert len(refusal(**{name: text})) == 1


def test_all_that_is_wrong_is_named_at_once() -> None:
    """Several wrong values give several lines, also errors between values that are valid alone."""
    lines = refusal(GATEWAY_PORT="0", LOG_LEVEL="loud", TTL_RUNNING="49", REDIS_URL="redis://:pw@", MAX_BODY_BYTES="x")
    named = [line.partition("=")[0] for line in lines]
    assert sorted(named) == ["GATEWAY_PORT", "LOG_LEVEL", "MAX_BODY_BYTES", "REDIS_URL", "TTL_RUNNING"]


def test_every_wrong_variable_is_named() -> None:
    """If all rows are wrong, all of them are named at once."""
    lines = refusal(**{name: texts[0] for name, texts in BAD.items()})
    assert BAD.keys() <= {line.partition("=")[0] for line in lines}


def test_keys_are_kept_as_digests() -> None:
    """A named key and one without a name are both known by their SHA-256; the settings do not keep the keys."""
    found = load({"GATEWAY_API_KEYS": "alice:a-key-of-alice, some-other-key"})
    digests = {sha256(key).digest() for key in (b"a-key-of-alice", b"some-other-key")}
    assert found.api_keys.keys() == digests
    assert found.api_keys[sha256(b"a-key-of-alice").digest()] == "alice"
    assert "a-key-of-alice" not in repr(found)


def test_the_file_of_keys_is_checked_at_start(tmp_path: Path) -> None:
    """A good file is accepted; for a bad one the error names the line, but does not show its text."""
    path = tmp_path / "keys"
    path.write_text("# ours\n\nalice:a-key-of-alice\n  some-other-key  \n")
    assert load({"GATEWAY_API_KEYS_FILE": str(path)}).api_keys_file == path
    path.write_text("# ours\nalice:hunter2\n")
    (line,) = refusal(GATEWAY_API_KEYS_FILE=str(path))
    assert "line 2 is no key" in line
    assert SECRET not in line


@pytest.mark.parametrize(
    ("name", "text"),
    [("REDIS_URL", f"redis://u:{SECRET}@h:x"), ("REDIS_URL", f"http://{SECRET}"), ("GATEWAY_API_KEYS", SECRET),
     ("UPSTREAM_BASE", f"http://u:{SECRET}@h"), ("REDIS_HOST", f"u:{SECRET}@h"),
     ("REDIS_URL", f"redis+sentinel://u:{SECRET}@a,b"), ("REDIS_SENTINEL_PASSWORD_FILE", SECRET),
     ("REDIS_PASSWORD_FILE", SECRET), ("GATEWAY_API_KEYS_FILE", f"admin:{SECRET}")],
)  # fmt: skip
def test_a_wrong_value_that_can_hold_a_password_is_masked(name: str, text: str) -> None:
    """The line names the variable and shows `***` in place of the value."""
    (line,) = refusal(**{name: text})
    assert SECRET not in line
    assert line.startswith(f"{name}=***")


def test_a_password_stays_masked_when_something_else_is_wrong(tmp_path: Path) -> None:
    """Neither a good password nor a superfluous one appears in what is printed."""
    path = tmp_path / "password"
    path.write_text(SECRET)
    environ = {"REDIS_HOST": "h", "REDIS_PASSWORD": SECRET, "REDIS_PASSWORD_FILE": str(path), "REDIS_PORT": "x"}
    lines = refusal(**environ)
    assert sorted(line.partition("=")[0] for line in lines) == ["REDIS_PASSWORD", "REDIS_PORT"]
    assert SECRET not in "".join(lines)


# -- the store's address --

PASSWORDS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), min_size=1, max_size=30)


@given(st.text(st.characters(codec="utf-8", exclude_categories=["Z", "C"]), min_size=1, max_size=20), PASSWORDS)
def test_the_parts_make_an_address_that_says_the_same(user: str, password: str) -> None:
    """User and password may hold any characters: the URL returns exactly these."""
    found = load(
        {"REDIS_HOST": "h", "REDIS_PORT": "7", "REDIS_DB": "3", "REDIS_USER": user, "REDIS_PASSWORD": password}
    )
    assert credentials(found.redis_url) == (user, password)
    assert found.redis_url is not None
    assert found.redis_url.endswith("@h:7/3")


def test_without_a_password_nobody_logs_in() -> None:
    """A user alone is no login: a server without access control would refuse it."""
    assert load({"REDIS_HOST": "h", "REDIS_USER": "someone"}).redis_url == "redis://h:6379/0"


@pytest.mark.parametrize(
    ("address", "url", "user"),
    [({"REDIS_HOST": "::1"}, "redis://[::1]:6379/0", "default"),
     ({"REDIS_HOST": "h", "REDIS_USER": "me", "REDIS_DB": "2"}, "redis://h:6379/2", "me"),
     ({"REDIS_URL": "rediss://h:1/2", "REDIS_USER": "of-the-parts"}, "rediss://h:1/2", ""),
     ({"REDIS_URL": "redis://m%40e@[::1]"}, "redis://[::1]", "m@e"), ({"REDIS_URL": "redis://:@h"}, "redis://h", "")],
)  # fmt: skip
def test_the_password_may_come_from_a_file(address: dict[str, str], url: str, user: str, tmp_path: Path) -> None:
    """The file works with the parts and with a URL without a password; user and file are kept beside the bare URL."""
    path = tmp_path / "password"
    path.write_text(SECRET)
    found = load({**address, "REDIS_PASSWORD_FILE": str(path)})
    assert (found.redis_url, found.redis_user, found.redis_password_file) == (url, user, path)
    assert SECRET not in repr(found)


def test_a_password_in_the_address_wins_over_the_file(tmp_path: Path) -> None:
    """REDIS_URL wins over the parts: if it has a password, the file is not used."""
    path = tmp_path / "password"
    path.write_text("of-the-file")
    found = load({"REDIS_URL": "redis://u:p@h", "REDIS_PASSWORD_FILE": str(path)})
    assert (found.redis_url, found.redis_password_file) == ("redis://u:p@h", None)


@pytest.mark.parametrize(
    ("data", "reason"), [(b"\xff\xfe", "it is not UTF-8"), (b" \n", "it is empty"), (b"\xef\xbb\xbf\n", "it is empty")]
)
def test_a_password_file_without_a_password_is_refused(data: bytes, reason: str, tmp_path: Path) -> None:
    """A named file has to hold a password: otherwise it is an error, not a login without a password."""
    path = tmp_path / "password"
    path.write_bytes(data)
    (line,) = refusal(REDIS_HOST="h", REDIS_PASSWORD_FILE=str(path))
    assert line.startswith(f"REDIS_PASSWORD_FILE='{path}' is not valid ({reason}); allowed: ")


FILES = ["REDIS_PASSWORD_FILE", "GATEWAY_API_KEYS_FILE", "REDIS_SENTINEL_PASSWORD_FILE"]
TLS_FILES = ["REDIS_CA_FILE", "REDIS_CERT_FILE", "REDIS_KEY_FILE"]


@pytest.mark.parametrize("name", FILES + TLS_FILES)
@pytest.mark.parametrize(
    ("below", "reason"),
    [("none", "No such file or directory"), ("", "Is a directory"), ("file/x", "Not a directory"),
     ("n" * 300, "File name too long"), ("loop", "Too many levels of symbolic links"),
     ("fifo", "it is not a regular file"), ("me@home", "No such file or directory")],
)  # fmt: skip
def test_a_file_that_cannot_be_read_is_named_with_the_reason(
    name: str, below: str, reason: str, tmp_path: Path
) -> None:
    """The line shows the path and the operating system's reason."""
    (tmp_path / "file").touch()
    (tmp_path / "loop").symlink_to("loop")
    os.mkfifo(tmp_path / "fifo")
    (line,) = refusal(**{name: f"{tmp_path}/{below}"})
    assert line.startswith(f"{name}='{tmp_path}/{below}' is not valid ({reason}); allowed: ")


@pytest.mark.parametrize("name", FILES)
def test_a_relative_path_is_shown_where_it_evidently_is_one(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A path that exists, or whose directory exists, is not a secret given by mistake."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "secrets").mkdir()
    for path in ("secrets", "secrets/none"):
        (line,) = refusal(**{name: path})
        assert line.startswith(f"{name}='{path}' is not valid")


@pytest.mark.parametrize("name", FILES + TLS_FILES)
@pytest.mark.parametrize("text", [SECRET, "aGVs/bG8gd29ybGQ=", "alice:hunter2-hunter2"])
def test_a_secret_in_the_place_of_its_path_is_masked(name: str, text: str) -> None:
    """The line still gives the reason, which shows that a path was expected."""
    (line,) = refusal(**{name: text})
    assert line.startswith(f"{name}=*** is not valid (No such file or directory); allowed: ")
    assert text not in line


# -- what Kubernetes sets --

LINK = "tcp://10.0.0.1:11535"


@pytest.mark.parametrize("setting", SETTINGS, ids=lambda setting: setting.name)
def test_a_link_to_a_service_counts_as_unset(setting: Setting) -> None:
    """Kubernetes sets GATEWAY_PORT=tcp://… for a Service of that name: no setting takes that as its value."""
    environ = {setting.name: LINK}
    assert load(environ) == load({})
    (line,) = start_warnings(environ)
    assert line.startswith(f"{setting.name} counts as unset")
    assert "10.0.0.1" not in line


def test_the_terminal_takes_no_link_for_a_port(monkeypatch: pytest.MonkeyPatch) -> None:
    """Then the terminal's commands ask the default port, where the gateway listens."""
    monkeypatch.setenv("GATEWAY_PORT", LINK)
    assert terminal_peer()[0] == "http://127.0.0.1:11535"


def test_good_settings_bring_no_warning(tmp_path: Path) -> None:
    """Variables set as documented, and those of other programs, cause no warning."""
    path = tmp_path / "file"
    path.write_text("alice:key-of-alice")
    environ = {setting.name: setting.default for setting in SETTINGS}
    assert start_warnings({**environ, **dict.fromkeys(FILES, str(path)), "PATH": "/bin", "REDIS_VERSION": "8"}) == []


@pytest.mark.parametrize("name", FILES)
def test_a_file_mounted_by_itself_is_told(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that cannot be replaced from outside is one line at the start, with what to do about it."""
    monkeypatch.setattr(settings, "is_mounted_alone", lambda path: path == tmp_path)
    (line,) = start_warnings({name: str(tmp_path)})
    assert line.startswith(f"{name} is a file mounted by itself")
    assert "mount its directory" in line
    assert str(tmp_path) not in line


def test_the_address_wins_over_the_parts() -> None:
    """REDIS_URL is used unchanged, whatever else is set."""
    found = load({"REDIS_URL": "rediss://u:p@h:1/2", "REDIS_HOST": "other", "REDIS_PORT": "9", "REDIS_PASSWORD": "x"})
    assert found.redis_url == "rediss://u:p@h:1/2"


# -- values that depend on each other --


@pytest.mark.parametrize(
    ("ttl", "beat", "is_good"),
    [("50", "10", True), ("49", "10", False), ("3600", "720", True), ("3600", "720.1", False), ("1", "0.2", True),
     ("1", "0.3", False)],
)  # fmt: skip
def test_a_ttl_below_five_heartbeats_is_refused(ttl: str, beat: str, is_good: bool) -> None:
    """TTL_RUNNING is at least five times HEARTBEAT_SEC."""
    environ = {"TTL_RUNNING": ttl, "HEARTBEAT_SEC": beat}
    if is_good:
        assert load(environ).ttl_running_seconds == int(ttl)
    else:
        (line,) = refusal(**environ)
        assert line.startswith(f"TTL_RUNNING={ttl} ")
        assert f"HEARTBEAT_SEC={beat}" in line


@pytest.mark.parametrize(("response", "done"), [("1", "1"), ("2", "1"), ("86400", "86400"), ("86401", "86400")])
def test_an_answer_does_not_outlive_its_status(response: str, done: str) -> None:
    """TTL_RESPONSE is at most TTL_DONE."""
    environ = {"TTL_RESPONSE": response, "TTL_DONE": done}
    if int(response) <= int(done):
        found = load(environ)
        assert (found.ttl_response_seconds, found.ttl_done_seconds) == (int(response), int(done))
    else:
        assert refusal(**environ) == [f"TTL_RESPONSE={response} is not valid; allowed: at most TTL_DONE={done}"]


@pytest.mark.parametrize("done", ["1", "3599", "3600", "86400"])
def test_without_a_time_for_answers_that_of_statuses_bounds_it(done: str) -> None:
    """A TTL_DONE below an hour is valid alone, as it was before answers were kept."""
    assert load({"TTL_DONE": done}).ttl_response_seconds == min(int(done), 3600)


@pytest.mark.parametrize(("one", "all_of_them"), [("1", "1"), ("2", "1"), ("1073741824", "1073741824"), ("0", "1")])
def test_the_longest_answer_fits_into_what_is_held(one: str, all_of_them: str) -> None:
    """MAX_RESPONSE_BYTES is at most MAX_KEPT_BYTES."""
    environ = {"MAX_RESPONSE_BYTES": one, "MAX_KEPT_BYTES": all_of_them}
    if int(one) <= int(all_of_them):
        found = load(environ)
        assert (found.max_response_bytes, found.max_kept_bytes) == (int(one), int(all_of_them))
    else:
        (line,) = refusal(**environ)
        assert line == f"MAX_RESPONSE_BYTES={one} is not valid; allowed: at most MAX_KEPT_BYTES={all_of_them}"


def test_what_does_not_concern_us_is_not_read() -> None:
    """Other variables of the environment change nothing."""
    assert load({"PATH": "/bin", "OLLAMA_HOST": "x", "redis_host": "h", "GATEWAY_PORTS": "1"}) == load({})
