"""What each program gets, and what is wrong with it, before any of them starts.

Owns the addresses of Ollama, each program's part of the environment, and the checks of both. The gateway itself checks
its settings, in a process that ends after that. Starts nothing that stays.
"""

from __future__ import annotations

import math
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from collections.abc import Mapping

ROOT = Path(__file__).resolve().parents[1]
OLLAMA_PORT = 11434
LOOPBACK = ("127.0.0.1", "localhost", "::1")
SERVICE_LINKS = ("tcp://", "udp://", "sctp://")  # set by Kubernetes: these values count as unset
STOP_MARGIN_SECONDS = 5  # the gateway writes its last states after the drain
TRACES_SECONDS = 3  # and then sends its last traces
TRACES = "OTEL_EXPORTER_OTLP_ENDPOINT"
IN_IMAGE = "LAUNCHER_IN_IMAGE"  # set by the Containerfile
WRONG_SETTINGS = 2  # the exit code
# Variables that can contain a password or a key, or make no sense without one: only the gateway gets them.
GATEWAYS = ("REDIS_", "GATEWAY_API_KEYS", "OTEL_")
TERMINALS = "OLLAMA_GATEWAY_KEY"  # for the commands of the terminal, which none of these programs runs


def setting(environment: Mapping[str, str], name: str) -> str:
    """The variable's value; "" if it counts as unset."""
    value = environment.get(name, "")
    return "" if value.startswith(SERVICE_LINKS) else value


def starts_ollama(environment: Mapping[str, str]) -> bool:
    """Whether to start an Ollama. Outside the image, UPSTREAM_BASE names one that already runs."""
    return environment.get(IN_IMAGE) == "true" or not setting(environment, "UPSTREAM_BASE")


def addresses(environment: Mapping[str, str]) -> dict[str, str]:
    """OLLAMA_HOST and UPSTREAM_BASE, so that the gateway can reach Ollama and other machines cannot.

    Only the port of OLLAMA_HOST counts; without it, the port of an UPSTREAM_BASE on this machine.
    If UPSTREAM_BASE is set, it stays; else it follows the port. Check both before.
    """
    _, port = peer_of(environment.get("OLLAMA_HOST", ""))
    base = setting(environment, "UPSTREAM_BASE")
    if base and not environment.get("OLLAMA_HOST"):
        host, base_port = peer_of(base)
        port = base_port if host in LOOPBACK else None
    port = port or OLLAMA_PORT
    return {"OLLAMA_HOST": f"127.0.0.1:{port}", "UPSTREAM_BASE": base or f"http://127.0.0.1:{port}"}


def peer_of(value: str) -> tuple[str | None, int | None]:
    """Host and port of `host`, `host:port`, `:port` or a URL. Raises ValueError for anything else."""
    parts = urlsplit(value if "://" in value else f"//{value}")
    return parts.hostname, parts.port


def wrong_settings(environment: Mapping[str, str]) -> tuple[int, list[tuple[str, str]]]:
    """The exit code (0 if all settings are right) and a (program, line) for each problem."""
    check = subprocess.run(
        [sys.executable, "-m", "gateway", "--check"],
        cwd=ROOT,
        env=dict(environment),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="backslashreplace",
        check=False,
    )
    code = check.returncode
    lines = [("gateway", line) for line in check.stdout.splitlines()] if code else []
    if problem := wrong_ollama_host(environment):
        code, lines = code or WRONG_SETTINGS, [*lines, ("launcher", problem)]
    return code, lines


def wrong_ollama_host(environment: Mapping[str, str]) -> str | None:
    """What is wrong with OLLAMA_HOST, if an Ollama will be started with it."""
    value = environment.get("OLLAMA_HOST", "")
    try:
        peer_of(value)
    except ValueError:
        shown = "***" if "@" in value else value  # it may contain a password
        return f"OLLAMA_HOST={shown} is not valid; allowed: host:port" if starts_ollama(environment) else None
    return None


def unwritable(environment: Mapping[str, str]) -> str | None:
    """One line if Ollama cannot store models or its own key, with the owner that the place needs."""
    home = Path(environment.get("HOME") or "/")
    models = Path(environment.get("OLLAMA_MODELS") or home / ".ollama" / "models")
    for place in dict.fromkeys((models, home / ".ollama")):
        # Not Path.exists, which raises an error below a directory that cannot be entered.
        nearest = next(path for path in (place, *place.parents) if os.path.exists(path))
        if not nearest.is_dir():
            return f"{nearest} is no directory: Ollama can store nothing in {place}"
        if os.access(nearest, os.W_OK | os.X_OK):
            continue
        if os.statvfs(nearest).f_flag & os.ST_RDONLY:
            return f"{nearest} is read-only: Ollama can store nothing in {place}"
        return f"{nearest} cannot be written: it must belong to uid {os.geteuid()}, or Ollama can store nothing"
    return None


def given_to(program: str, environment: Mapping[str, str]) -> dict[str, str]:
    """The part of `environment` for this program, without the secrets of others."""
    kept = () if program == "gateway" else GATEWAYS
    return {name: text for name, text in environment.items() if name != TERMINALS and not name.startswith(kept)}


def gateway_stop_seconds(environment: Mapping[str, str]) -> int:
    """How long the gateway can take to stop: notice, drain and its own end."""
    waits = (seconds_of(environment, "DRAIN_NOTICE_SEC", 0), seconds_of(environment, "DRAIN_SEC", 30))
    return math.ceil(sum(waits)) + STOP_MARGIN_SECONDS + (TRACES_SECONDS if setting(environment, TRACES) else 0)


def seconds_of(environment: Mapping[str, str], name: str, default: float) -> float:
    """A duration, or its default if it is unset. The gateway reports a wrong one."""
    try:
        seconds = float(environment.get(name) or default)
    except ValueError:
        return default
    return max(0, seconds) if math.isfinite(seconds) else default


def wants_models(environment: Mapping[str, str]) -> bool:
    """Whether there is work for the pull program. The gateway reports wrong names."""
    return bool(setting(environment, "OLLAMA_PULL_MODELS").strip(" \t\r\n,"))


def wants_json(environment: Mapping[str, str]) -> bool:
    """Whether each line must be a JSON object."""
    return environment.get("LOG_FORMAT", "").lower() == "json"
