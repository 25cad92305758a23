"""The gateway's settings: the only reader of the environment.

Every variable is one row of SETTINGS; docs/settings.md lists the same rows and a test holds the two together.
All that is wrong is named at once. An empty variable counts as unset, as compose files produce it.
Called by __main__ (which prints what is wrong) and app.
"""

import ipaddress
import os
import re
import secrets
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

from gateway.access import InvalidKeys, Keys, keys_of_list
from gateway.keyring import read_keys
from gateway.origins import host_patterns, origin_patterns
from gateway.wanted import MAX_MODELS, model_names

MASK = "***"
_RUN = "GATEWAY_RUN"  # no setting: see `share_run`
_LAUNCHER_DIRECTORY = "LAUNCHER_DIRECTORY"  # no setting: the launcher's, for what its programs share while they run
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_NETWORK = Path("/proc/self/ns/net")


class InvalidSettings(ValueError):
    """One line per wrong variable: its name, its value (masked where secret) and what is allowed."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


class _Refused(ValueError):
    """A value that its parser does not take."""


@dataclass(frozen=True, slots=True)
class Setting:
    """One environment variable. `parse` raises ValueError for what is not `allowed`."""

    name: str
    default: str
    allowed: str
    meaning: str
    parse: Callable[[str], Any] = str
    is_secret: bool = False


@dataclass(frozen=True, slots=True)
class Settings:
    """What the environment asks for, checked. Durations in seconds, sizes in bytes, 0 = off where said so."""

    upstream_host: str
    upstream_port: int
    redis_url: str | None
    ttl_running_seconds: int
    ttl_done_seconds: int
    heartbeat_seconds: float
    algorithm_id: str
    gateway_host: str
    gateway_port: int
    gateway_workers: int
    max_body_bytes: int
    max_connections: int
    upstream_idle_timeout_seconds: float
    drain_seconds: float
    log_level: str
    log_format: str
    machine: str
    instance: str
    api_keys: Keys
    api_keys_file: Path | None
    cors_allow_origins: tuple[str, ...]
    allowed_hosts: tuple[str, ...]
    pull_models: tuple[str, ...]
    ready_requires_models: bool


def _whole(least: int, most: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        number = int(text) if re.fullmatch(r"[0-9]{1,15}", text) else -1
        if not least <= number <= most:
            raise _Refused
        return number

    return parse


def _seconds(least: float, most: float) -> Callable[[str], float]:
    def parse(text: str) -> float:
        number = float(text) if re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,6})?", text) else -1.0
        if not least <= number <= most:
            raise _Refused
        return number

    return parse


def _one_of(*words: str) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if text.lower() not in words:
            raise _Refused
        return text.lower()

    return parse


def _matching(pattern: str) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if not re.fullmatch(pattern, text):
            raise _Refused
        return text

    return parse


def _http_base(text: str) -> tuple[str, int]:
    parts = urlsplit(text)
    host = parts.hostname or ""
    if parts.scheme != "http" or parts.path not in ("", "/") or parts.port == 0 or not _is_host(host, text):
        raise _Refused
    if parts.query or parts.fragment or parts.username is not None or parts.password is not None:
        raise _Refused
    return host, 80 if parts.port is None else parts.port


def _redis_url(text: str) -> str:
    parts = urlsplit(text)
    if parts.scheme not in ("redis", "rediss") or parts.port == 0 or not _is_host(parts.hostname, text):
        raise _Refused
    if not re.fullmatch(r"/?|/[0-9]{1,4}", parts.path) or parts.query or parts.fragment:
        raise _Refused
    return text


def _host(text: str) -> str:
    host = text[1:-1] if text.startswith("[") and text.endswith("]") else text
    if not _is_host(host):
        raise _Refused
    return host


def _is_host(host: str | None, whole: str = "") -> bool:
    """Whether `host` is a name or an address (IPv6 without brackets), and `whole` without white space."""
    if not host or re.search(r"\s", whole):
        return False
    if ":" not in host:
        return re.fullmatch(r"[A-Za-z0-9._\-]{1,253}", host) is not None
    try:
        ipaddress.IPv6Address(host)
    except ValueError:
        return False
    return True


def _password_file(text: str) -> str:
    try:
        password = Path(text).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeError) as error:
        raise _Refused from error
    if not password:
        raise _Refused
    return password


def _keys_file(text: str) -> Path:
    path = Path(text)
    try:
        read_keys(path)
    except OSError as error:
        raise _Refused from error
    return path


SETTINGS = (
    Setting("UPSTREAM_BASE", "http://127.0.0.1:11434", "http://host[:port]", "Where Ollama listens.", _http_base),
    Setting("REDIS_HOST", "", "a host name or address", "The store. Unset, and no `REDIS_URL`: statuses live in this "
            "process only, and are lost at exit.", _host),
    Setting("REDIS_PORT", "6379", "1 to 65535", "The store's port.", _whole(1, 65535)),
    Setting("REDIS_USER", "default", "1 to 128 characters, no white space", "The user to log in as, where there is a "
            "password.", _matching(r"\S{1,128}")),
    Setting("REDIS_PASSWORD", "", "text", "The store's password.", str, is_secret=True),
    Setting("REDIS_PASSWORD_FILE", "", "the path of a readable UTF-8 file, not empty",
            "A file that holds the password, instead of `REDIS_PASSWORD`.", _password_file),
    Setting("REDIS_DB", "0", "0 to 9999", "The store's database number.", _whole(0, 9999)),
    Setting("REDIS_URL", "", "redis://[user:password@]host[:port][/db], or rediss:// for TLS", "The store as one "
            "address; wins over the parts.", _redis_url, is_secret=True),
    Setting("TTL_RUNNING", "3600", "1 to 31536000 seconds, at least five heartbeats", "How long the status of a "
            "PENDING or RUNNING task outlives its last heartbeat.", _whole(1, 31_536_000)),
    Setting("TTL_DONE", "86400", "1 to 31536000 seconds", "How long the status of an ended task is kept.",
            _whole(1, 31_536_000)),
    Setting("HEARTBEAT_SEC", "10", "0.1 to 3600 seconds", "How often a task in flight renews its status.",
            _seconds(0.1, 3600)),
    Setting("ALGORITHM_ID", "ollama-openai", "1 to 128 of A-Z a-z 0-9 . _ : @ / -", "`algorithm_id` of every status.",
            _matching(r"[A-Za-z0-9._:@/\-]{1,128}")),
    Setting("GATEWAY_HOST", "0.0.0.0", "a host name or address", "Where to listen: an address, or all "  # noqa: S104
            "addresses of a name. `make run` listens on 127.0.0.1 where it is unset.", _host),
    Setting("GATEWAY_PORT", "11535", "1 to 65535", "The port to listen on.", _whole(1, 65535)),
    Setting("GATEWAY_WORKERS", "1", "1 to 64; more than 1 needs a store", "Processes that serve requests.",
            _whole(1, 64)),
    Setting("GATEWAY_INSTANCE", "", "1 to 128 of A-Z a-z 0-9 . _ : @ -", "This gateway's name in statuses, unlike any "
            "other's that uses the same store. Unset: the host's name and the port.",
            _matching(r"[A-Za-z0-9._:@\-]{1,128}")),
    Setting("MAX_BODY_BYTES", "268435456", "1 to 1099511627776 bytes", "The longest request body that is taken.",
            _whole(1, 2**40)),
    Setting("MAX_CONNECTIONS", "8000", "1 to 1000000", "How many clients' connections a process serves at once; fewer "
            "where its file descriptors do not suffice for two each.", _whole(1, 1_000_000)),
    Setting("UPSTREAM_IDLE_TIMEOUT_SEC", "0", "0 (off) to 86400 seconds", "How long Ollama may stay silent. Loading a "
            "model takes minutes of silence.", _seconds(0, 86_400)),
    Setting("DRAIN_SEC", "30", "0 to 3600 seconds", "How long requests get to finish after SIGTERM.",
            _seconds(0, 3600)),
    Setting("LOG_LEVEL", "info", "debug, info, warning or error", "The least serious messages to log.",
            _one_of("debug", "info", "warning", "error")),
    Setting("LOG_FORMAT", "text", "text or json", "One line of text, or one JSON object, per message; "
            "in the container and with `make run` of every program, named in `program`.",
            _one_of("text", "json")),
    Setting("GATEWAY_API_KEYS", "", "a comma list of `key` or `name:key`; a key has 8 to 256 printable ASCII "
            "characters, no white space, comma or colon; a name 1 to 64 of A-Z a-z 0-9 . _ -", "Who may use the "
            "gateway. Unset, and no `GATEWAY_API_KEYS_FILE`: everybody.", keys_of_list, is_secret=True),
    Setting("GATEWAY_API_KEYS_FILE", "", "the path of a readable UTF-8 file with one `key` or `name:key` a line, `#` "
            "for comments", "Further keys. Read again when the file changes, and on SIGHUP.", _keys_file),
    Setting("CORS_ALLOW_ORIGINS", "", "a comma list of scheme://host[:port], each with at most one *; or * for all",
            "Further origins whose pages may call from a browser.", origin_patterns),
    Setting("ALLOWED_HOSTS", "", "a comma list of host names without ports, `*.name` for all below a name; or `*` for "
            "all", "Further host names under which browsers may use the gateway.", host_patterns),
    Setting("OLLAMA_PULL_MODELS", "", f"up to {MAX_MODELS} names of models as Ollama has them, separated by white "
            "space or commas", "Models that are pulled after the start where they are missing.", model_names),
    Setting("READY_REQUIRES_MODELS", "false", "true or false", "Whether the gateway is ready only when all of "
            "`OLLAMA_PULL_MODELS` are there.", _one_of("true", "false")),
)  # fmt: skip


def load(environ: Mapping[str, str] = os.environ) -> Settings:
    """The settings that `environ` asks for. Raises InvalidSettings with all that is wrong."""
    values: dict[str, Any] = {}
    problems: list[str] = []
    for setting in SETTINGS:
        text = environ.get(setting.name) or setting.default
        try:
            values[setting.name] = setting.parse(text) if text else None
        except ValueError as error:
            problems.append(_problem(setting, text, error))
    problems += _problems_between(values)
    if problems:
        raise InvalidSettings(problems)
    return _settings(values)


def _problem(setting: Setting, text: str, error: ValueError) -> str:
    is_no_path = setting.name.endswith("_FILE") and not text.startswith(("/", "."))  # the secret itself, by mistake
    shown = MASK if setting.is_secret or is_no_path or "@" in text else repr(text)
    where = f" ({error})" if isinstance(error, InvalidKeys) else ""
    return f"{setting.name}={shown} is not valid{where}; allowed: {setting.allowed}"


def _problems_between(values: Mapping[str, Any]) -> list[str]:
    """What is wrong with values that are each right by themselves."""
    ttl, beat, workers = (values.get(name) for name in ("TTL_RUNNING", "HEARTBEAT_SEC", "GATEWAY_WORKERS"))
    problems = []
    if ttl is not None and beat is not None and ttl < 5 * beat:
        problems.append(f"TTL_RUNNING={ttl} is not valid; allowed: at least five heartbeats, HEARTBEAT_SEC={beat:g}")
    stores = [values[name] for name in ("REDIS_HOST", "REDIS_URL") if name in values]
    if workers is not None and workers > 1 and len(stores) == 2 and not any(stores):
        problems.append(f"GATEWAY_WORKERS={workers} is not valid; allowed: 1 without a store (set REDIS_HOST)")
    if values.get("REDIS_PASSWORD") and values.get("REDIS_PASSWORD_FILE"):
        problems.append(f"REDIS_PASSWORD={MASK} is not valid; allowed: either it or REDIS_PASSWORD_FILE")
    return problems


def _settings(values: Mapping[str, Any]) -> Settings:
    host, port = values["UPSTREAM_BASE"]
    return Settings(
        upstream_host=host,
        upstream_port=port,
        redis_url=_store_url(values),
        ttl_running_seconds=values["TTL_RUNNING"],
        ttl_done_seconds=values["TTL_DONE"],
        heartbeat_seconds=values["HEARTBEAT_SEC"],
        algorithm_id=values["ALGORITHM_ID"],
        gateway_host=values["GATEWAY_HOST"],
        gateway_port=values["GATEWAY_PORT"],
        gateway_workers=values["GATEWAY_WORKERS"],
        max_body_bytes=values["MAX_BODY_BYTES"],
        max_connections=values["MAX_CONNECTIONS"],
        upstream_idle_timeout_seconds=values["UPSTREAM_IDLE_TIMEOUT_SEC"],
        drain_seconds=values["DRAIN_SEC"],
        log_level=values["LOG_LEVEL"],
        log_format=values["LOG_FORMAT"],
        api_keys=values["GATEWAY_API_KEYS"] or {},
        api_keys_file=values["GATEWAY_API_KEYS_FILE"],
        cors_allow_origins=values["CORS_ALLOW_ORIGINS"] or (),
        allowed_hosts=values["ALLOWED_HOSTS"] or (),
        pull_models=values["OLLAMA_PULL_MODELS"] or (),
        ready_requires_models=values["READY_REQUIRES_MODELS"] == "true",
        machine=socket.gethostname(),
        instance=values["GATEWAY_INSTANCE"] or f"{socket.gethostname()}:{values['GATEWAY_PORT']}",
    )


def terminal_peer() -> tuple[str, str | None]:
    """For the terminal's commands: the URL of the gateway to ask, and the key to it, if any."""
    port = os.environ.get("GATEWAY_PORT") or "11535"
    return os.environ.get("OLLAMA_GATEWAY_URL") or f"http://127.0.0.1:{port}", os.environ.get("OLLAMA_GATEWAY_KEY")


def run_name(settings: Settings) -> str:
    """`<place>-<run>`: all processes of this gateway have it; another run at the same place has another second half."""
    return os.environ.get(_RUN) or f"{_place(settings)}-{secrets.token_hex(4)}"


def share_run(settings: Settings) -> None:
    """Makes the processes that this one starts part of one run: together they are one gateway."""
    os.environ[_RUN] = run_name(settings)


def pull_progress_file() -> Path | None:
    """Where the pull program tells the gateway how far it is; None without the launcher, which makes the place."""
    directory = os.environ.get(_LAUNCHER_DIRECTORY)
    return Path(directory) / "pull.json" if directory else None


def _place(settings: Settings) -> str:
    """A name of the address listened on, in this network namespace, since this machine booted.

    Two gateways cannot be there at once. Where the kernel does not tell, it is a name of nothing.
    """
    try:
        kernel = f"{_BOOT_ID.read_text()} {_NETWORK.stat().st_ino}"
    except OSError:
        kernel = secrets.token_hex()
    return sha256(f"{kernel} {settings.gateway_host} {settings.gateway_port}".encode()).hexdigest()[:8]


def _store_url(values: Mapping[str, Any]) -> str | None:
    """The store as one URL, or None. Credentials are sent only where there is a password."""
    if values["REDIS_URL"] or not values["REDIS_HOST"]:
        url: str | None = values["REDIS_URL"]
        return url
    password = values["REDIS_PASSWORD"] or values["REDIS_PASSWORD_FILE"]
    login = f"{quote(values['REDIS_USER'], safe='')}:{quote(password, safe='')}@" if password else ""
    host = values["REDIS_HOST"]
    host = f"[{host}]" if ":" in host else host
    return f"redis://{login}{host}:{values['REDIS_PORT']}/{values['REDIS_DB']}"
