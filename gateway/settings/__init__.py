"""The gateway's settings: the only reader of the environment.

Every setting is one row of SETTINGS. docs/settings.md lists the same rows, and a test compares the two. All errors are
reported at once. An empty variable counts as unset, because compose files set empty ones.
"""

import os
import secrets
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from gateway.access.keys import InvalidKeys, Keys, keys_of_list
from gateway.access.origins import host_patterns, origin_patterns
from gateway.access.secret_files import UnusableFile, is_mounted_alone
from gateway.settings import validators
from gateway.settings.combinations import MASK, problems_between
from gateway.settings.environment import values_of, warnings_of
from gateway.settings.store import store_fields
from gateway.settings.validators import matching, one_of, seconds, whole
from gateway.upstream.models import MAX_MODELS, model_names

_LAUNCHER_DIRECTORY = "LAUNCHER_DIRECTORY"  # no setting: the launcher sets it, for files that its programs share
_SDK_DISABLED = "OTEL_SDK_DISABLED"  # no setting: OpenTelemetry's own switch, which turns off traces here, too
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_NETWORK = Path("/proc/self/ns/net")


class InvalidSettings(ValueError):
    """One line per wrong variable: its name, its value (masked if it may be secret) and the allowed values."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


@dataclass(frozen=True, slots=True)
class Setting:
    """One environment variable. `parse` raises ValueError if a text is not `allowed`."""

    name: str
    default: str
    allowed: str
    meaning: str
    parse: Callable[[str], Any] = str
    is_secret: bool = False


@dataclass(frozen=True, slots=True)
class Settings:
    """The checked settings. Durations are in seconds, sizes in bytes; 0 is off where docs/settings.md says so.

    It has one field for each setting that can have more than one value.
    """

    upstream_host: str
    upstream_port: int
    redis_url: str | None
    redis_user: str
    redis_password_file: Path | None
    redis_ca_file: Path | None
    redis_cert_file: Path | None
    redis_key_file: Path | None
    redis_sentinel_user: str
    redis_sentinel_password: str
    redis_sentinel_password_file: Path | None
    ttl_running_seconds: int
    ttl_done_seconds: int
    heartbeat_seconds: float
    algorithm_id: str
    gateway_host: str
    gateway_port: int
    max_body_bytes: int
    max_connections: int
    max_running: int
    max_queued: int
    max_response_bytes: int
    max_kept_bytes: int
    max_stored_response_bytes: int
    ttl_response_seconds: int
    upstream_idle_timeout_seconds: float
    drain_seconds: float
    drain_notice_seconds: float
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
    error_text_bytes: int
    require_gpu: bool
    otlp_endpoint: str | None


SETTINGS = (
    Setting("UPSTREAM_BASE", "http://127.0.0.1:11434", "http://host[:port]", "Where Ollama listens.",
            validators.http_base),
    Setting("REDIS_HOST", "", "a host name or address", "The store. Unset, and no `REDIS_URL`: statuses live in this "
            "process only, and are lost at exit.", validators.host),
    Setting("REDIS_PORT", "6379", "1 to 65535", "The store's port.", whole(1, 65535)),
    Setting("REDIS_USER", "default", "1 to 128 characters, no white space", "The user to log in as, where there is a "
            "password.", matching(r"\S{1,128}")),
    Setting("REDIS_PASSWORD", "", "text", "The store's password.", str, is_secret=True),
    Setting("REDIS_PASSWORD_FILE", "", "the path of a readable UTF-8 file, not empty",
            "A file that holds the password, instead of `REDIS_PASSWORD`; for a `REDIS_URL` without a password, too. "
            "Read again for each connection.", validators.password_file),
    Setting("REDIS_DB", "0", "0 to 9999", "The store's database number.", whole(0, 9999)),
    Setting("REDIS_URL", "", "redis://[user:password@]host[:port][/db], or with Sentinel redis+sentinel://"
            "[user:password@]host[:port][,host…]/master[/db]; rediss://, rediss+sentinel:// for TLS", "The store as "
            "one address, or its Sentinels; wins over the parts. User and password are the store's.",
            validators.redis_url, is_secret=True),
    Setting("REDIS_CA_FILE", "", "the path of a readable PEM file with certificates", "With TLS: the certificate "
            "authorities to trust for the store and its Sentinels, instead of the system's. Read again for each "
            "connection.", validators.certificates_file),
    Setting("REDIS_CERT_FILE", "", "the path of a readable PEM file with a certificate", "With TLS: the gateway's "
            "own certificate, for a store that demands one. Needs `REDIS_KEY_FILE`. Read again for each connection.",
            validators.certificates_file),
    Setting("REDIS_KEY_FILE", "", "the path of a readable PEM file with a private key, not encrypted", "The key of "
            "`REDIS_CERT_FILE`.", validators.private_key_file),
    Setting("REDIS_SENTINEL_USER", "", "1 to 128 characters, no white space", "The user to log in as at the Sentinels, "
            "where there is a password. Unset: their default user.", matching(r"\S{1,128}")),
    Setting("REDIS_SENTINEL_PASSWORD", "", "text", "The Sentinels' password.", str, is_secret=True),
    Setting("REDIS_SENTINEL_PASSWORD_FILE", "", "the path of a readable UTF-8 file, not empty", "A file that holds "
            "the Sentinels' password, instead of `REDIS_SENTINEL_PASSWORD`. Read again for each connection.",
            validators.password_file),
    Setting("TTL_RUNNING", "3600", "1 to 31536000 seconds, at least five heartbeats", "How long the status of a "
            "PENDING or RUNNING task outlives its last heartbeat.", whole(1, 31_536_000)),
    Setting("TTL_DONE", "86400", "1 to 31536000 seconds", "How long the status of an ended task is kept.",
            whole(1, 31_536_000)),
    Setting("HEARTBEAT_SEC", "10", "0.1 to 3600 seconds", "How often a task in flight renews its status.",
            seconds(0.1, 3600)),
    Setting("ALGORITHM_ID", "ollama-openai", "1 to 128 of A-Z a-z 0-9 . _ : @ / -", "`algorithm_id` of every status.",
            matching(r"[A-Za-z0-9._:@/\-]{1,128}")),
    Setting("GATEWAY_HOST", "0.0.0.0", "a host name or address", "Where to listen: an address, or all "  # noqa: S104
            "addresses of a name. `make run` listens on 127.0.0.1 where it is unset.", validators.host),
    Setting("GATEWAY_PORT", "11535", "1 to 65535", "The port to listen on.", whole(1, 65535)),
    Setting("GATEWAY_INSTANCE", "", "1 to 128 of A-Z a-z 0-9 . _ : @ -", "This gateway's name in statuses, unlike any "
            "other's that uses the same store. Unset: the host's name and the port.",
            matching(r"[A-Za-z0-9._:@\-]{1,128}")),
    Setting("MAX_BODY_BYTES", "268435456", "1 to 1099511627776 bytes", "The longest request body that is taken.",
            whole(1, 2**40)),
    Setting("MAX_CONNECTIONS", "8000", "1 to 1000000", "How many clients' connections the gateway serves at once; "
            "fewer where its file descriptors do not suffice for two each. At most half of them wait (`?wait=`).",
            whole(1, 1_000_000)),
    Setting("MAX_RUNNING", "0", "0 (no bound) to 100000", "How many requests are with Ollama at once, GET, HEAD and "
            "OPTIONS aside. The others wait in a queue.", whole(0, 100_000)),
    Setting("MAX_QUEUED", "1000", "0 to 1000000", "With `MAX_RUNNING`: how many requests may wait; more get 429.",
            whole(0, 1_000_000)),
    Setting("MAX_RESPONSE_BYTES", "16777216", "0 (no answer is kept) to 1073741824 bytes, at most `MAX_KEPT_BYTES`",
            "The longest answer that is kept for a client that asks for it.", whole(0, 2**30)),
    Setting("MAX_KEPT_BYTES", "268435456", "1 to 1099511627776 bytes", "How much of kept answers, and of requests "
            "with `Prefer: respond-async`, the gateway holds in memory.", whole(1, 2**40)),
    Setting("MAX_STORED_RESPONSE_BYTES", "67108864", "1 to 1099511627776 bytes", "How much of kept answers the store "
            "holds for all gateways; where there are API keys, half of it for one key.", whole(1, 2**40)),
    Setting("TTL_RESPONSE", "3600", "1 to 31536000 seconds, at most `TTL_DONE`", "How long a kept answer can be read "
            "after its end. Unset, and `TTL_DONE` is less: as long as that.", whole(1, 31_536_000)),
    Setting("UPSTREAM_IDLE_TIMEOUT_SEC", "0", "0 (off) to 86400 seconds", "How long Ollama may stay silent. Loading a "
            "model takes minutes of silence.", seconds(0, 86_400)),
    Setting("DRAIN_SEC", "30", "0 to 3600 seconds", "How long requests get to finish after SIGTERM.",
            seconds(0, 3600)),
    Setting("DRAIN_NOTICE_SEC", "0", "0 to 3600 seconds", "How long new requests are still served after SIGTERM, while "
            "the gateway already says that it is not ready; then `DRAIN_SEC` begins.", seconds(0, 3600)),
    Setting("LOG_LEVEL", "info", "debug, info, warning or error", "The least serious messages to log.",
            one_of("debug", "info", "warning", "error")),
    Setting("LOG_FORMAT", "text", "text or json", "One line of text, or one JSON object, per message; "
            "in the container and with `make run` of every program, named in `program`.",
            one_of("text", "json")),
    Setting("GATEWAY_API_KEYS", "", "a comma list of `key` or `name:key`; a key has 8 to 256 printable ASCII "
            "characters, no white space, comma or colon; a name 1 to 64 of A-Z a-z 0-9 . _ -", "Who may use the "
            "gateway. Unset, and no `GATEWAY_API_KEYS_FILE`: everybody.", keys_of_list, is_secret=True),
    Setting("GATEWAY_API_KEYS_FILE", "", "the path of a readable UTF-8 file with one `key` or `name:key` a line, `#` "
            "for comments", "Further keys. Read again when the file changes, and on SIGHUP.", validators.keys_file),
    Setting("CORS_ALLOW_ORIGINS", "", "a comma list of scheme://host[:port], each with at most one *; or * for all",
            "Further origins whose pages may call from a browser.", origin_patterns),
    Setting("ALLOWED_HOSTS", "", "a comma list of host names without ports, `*.name` for all below a name; or `*` for "
            "all", "Further host names under which browsers may use the gateway.", host_patterns),
    Setting("OLLAMA_PULL_MODELS", "", f"up to {MAX_MODELS} names of models as Ollama has them, separated by white "
            "space or commas", "Models that are pulled after the start where they are missing.", model_names),
    Setting("READY_REQUIRES_MODELS", "false", "true or false", "Whether the gateway is ready only when all of "
            "`OLLAMA_PULL_MODELS` are there.", one_of("true", "false")),
    Setting("REQUIRE_GPU", "false", "true or false", "Whether the gateway is ready only while the GPU works: there "
            "was a GPU device at the start, none is lost, and not every loaded model has been wholly on the CPU for a "
            "minute.",
            one_of("true", "false")),
    Setting("ERROR_TEXT_BYTES", "0", "0 (off) to 1024 bytes", "How much of an answer of 400 or above the status keeps "
            "as `error_text`, in UTF-8. Such a text may quote the request.", whole(0, 1024)),
    Setting("OTEL_EXPORTER_OTLP_ENDPOINT", "", "http://host[:port][/path] or https://…", "Where to send a trace of "
            "each task (OpenTelemetry). Unset: nothing of it is loaded.", validators.otlp_endpoint, is_secret=True),
    Setting("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf", "http/protobuf", "How traces are sent.",
            one_of("http/protobuf")),
)  # fmt: skip

_NAMES = tuple(setting.name for setting in SETTINGS)


def load(environ: Mapping[str, str] = os.environ) -> Settings:
    """The settings in `environ`. Raises InvalidSettings with all errors."""
    given = values_of(environ, _NAMES)
    values: dict[str, Any] = {}
    problems: list[str] = []
    for setting in SETTINGS:
        text = given.get(setting.name, setting.default)
        try:
            values[setting.name] = setting.parse(text) if text else None
        except ValueError as error:
            problems.append(_problem(setting, text, error))
    if "TTL_RESPONSE" not in given and values.get("TTL_DONE") is not None:
        values["TTL_RESPONSE"] = min(values["TTL_RESPONSE"], values["TTL_DONE"])
    if environ.get(_SDK_DISABLED, "").strip().lower() == "true":  # as OpenTelemetry reads it
        values["OTEL_EXPORTER_OTLP_ENDPOINT"] = None
    problems += problems_between(values)
    if problems:
        raise InvalidSettings(problems)
    return _settings(values)


def start_warnings(environ: Mapping[str, str] = os.environ) -> list[str]:
    """Lines to log at the start: about settings that are valid but may not do what the user wants."""
    files = {name: text for name, text in values_of(environ, _NAMES).items() if name.endswith("_FILE")}
    return warnings_of(environ, _NAMES) + [
        f"{name} is a file mounted by itself: one that replaces it outside is not seen here; mount its directory"
        for name, path in files.items()
        if is_mounted_alone(Path(path))
    ]


def _problem(setting: Setting, text: str, error: ValueError) -> str:
    is_hidden = not _is_path(text) if setting.name.endswith("_FILE") else "@" in text
    shown = MASK if setting.is_secret or is_hidden else repr(text)
    where = f" ({error})" if isinstance(error, InvalidKeys | UnusableFile) else ""
    return f"{setting.name}={shown} is not valid{where}; allowed: {setting.allowed}"


def _is_path(text: str) -> bool:
    """Whether a text evidently names a file. Otherwise it may be the secret itself, by mistake."""
    if text.startswith(("/", ".")):
        return True
    return os.path.lexists(text) or os.path.isdir(os.path.dirname(text))


def _settings(values: Mapping[str, Any]) -> Settings:
    host, port = values["UPSTREAM_BASE"]
    return Settings(
        upstream_host=host,
        upstream_port=port,
        **store_fields(values),
        ttl_running_seconds=values["TTL_RUNNING"],
        ttl_done_seconds=values["TTL_DONE"],
        heartbeat_seconds=values["HEARTBEAT_SEC"],
        algorithm_id=values["ALGORITHM_ID"],
        gateway_host=values["GATEWAY_HOST"],
        gateway_port=values["GATEWAY_PORT"],
        max_body_bytes=values["MAX_BODY_BYTES"],
        max_connections=values["MAX_CONNECTIONS"],
        max_running=values["MAX_RUNNING"],
        max_queued=values["MAX_QUEUED"],
        max_response_bytes=values["MAX_RESPONSE_BYTES"],
        max_kept_bytes=values["MAX_KEPT_BYTES"],
        max_stored_response_bytes=values["MAX_STORED_RESPONSE_BYTES"],
        ttl_response_seconds=values["TTL_RESPONSE"],
        upstream_idle_timeout_seconds=values["UPSTREAM_IDLE_TIMEOUT_SEC"],
        drain_seconds=values["DRAIN_SEC"],
        drain_notice_seconds=values["DRAIN_NOTICE_SEC"],
        log_level=values["LOG_LEVEL"],
        log_format=values["LOG_FORMAT"],
        api_keys=values["GATEWAY_API_KEYS"] or {},
        api_keys_file=values["GATEWAY_API_KEYS_FILE"],
        cors_allow_origins=values["CORS_ALLOW_ORIGINS"] or (),
        allowed_hosts=values["ALLOWED_HOSTS"] or (),
        pull_models=values["OLLAMA_PULL_MODELS"] or (),
        ready_requires_models=values["READY_REQUIRES_MODELS"] == "true",
        require_gpu=values["REQUIRE_GPU"] == "true",
        error_text_bytes=values["ERROR_TEXT_BYTES"],
        otlp_endpoint=values["OTEL_EXPORTER_OTLP_ENDPOINT"],
        machine=socket.gethostname(),
        instance=values["GATEWAY_INSTANCE"] or f"{socket.gethostname()}:{values['GATEWAY_PORT']}",
    )


def terminal_peer() -> tuple[str, str | None]:
    """For the terminal's commands: (the URL of the gateway, its API key or None)."""
    port = values_of(os.environ, ["GATEWAY_PORT"]).get("GATEWAY_PORT", "11535")
    return os.environ.get("OLLAMA_GATEWAY_URL") or f"http://127.0.0.1:{port}", os.environ.get("OLLAMA_GATEWAY_KEY")


def run_name(settings: Settings) -> str:
    """`<site>-<run>`: each run at the same site has another second part."""
    return f"{_site(settings)}-{secrets.token_hex(4)}"


def pull_progress_file() -> Path | None:
    """The file in which the pull program reports its progress; None without the launcher, which makes its directory."""
    directory = os.environ.get(_LAUNCHER_DIRECTORY)
    return Path(directory) / "pull.json" if directory else None


def _site(settings: Settings) -> str:
    """A hash of the listening address, the network namespace and the machine's boot. Two gateways cannot share it.

    If the kernel does not say these, it is random, so it equals no other site.
    """
    try:
        kernel = f"{_BOOT_ID.read_text()} {_NETWORK.stat().st_ino}"
    except OSError:
        kernel = secrets.token_hex()
    return sha256(f"{kernel} {settings.gateway_host} {settings.gateway_port}".encode()).hexdigest()[:8]
