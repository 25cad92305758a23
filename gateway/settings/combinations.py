"""Checks settings that are valid alone, but may not be together."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gateway.access.secret_files import UnusableFile
from gateway.access.tls_files import check_pair

MASK = "***"  # in the place of a value that may be secret
_PAIR = ("REDIS_CERT_FILE", "REDIS_KEY_FILE")
_TLS_FILES = ("REDIS_CA_FILE", *_PAIR)
_TLS_URL = "a REDIS_URL of rediss:// or rediss+sentinel://"


def problems_between(values: Mapping[str, Any]) -> list[str]:
    """The errors of values that are valid alone, but not together."""
    ttl, beat = values.get("TTL_RUNNING"), values.get("HEARTBEAT_SEC")
    problems = []
    if ttl is not None and beat is not None and ttl < 5 * beat:
        problems.append(f"TTL_RUNNING={ttl} is not valid; allowed: at least five heartbeats, HEARTBEAT_SEC={beat:g}")
    ttl_response, ttl_done = values.get("TTL_RESPONSE"), values.get("TTL_DONE")
    if ttl_response is not None and ttl_done is not None and ttl_response > ttl_done:
        problems.append(f"TTL_RESPONSE={ttl_response} is not valid; allowed: at most TTL_DONE={ttl_done}")
    response, kept = values.get("MAX_RESPONSE_BYTES"), values.get("MAX_KEPT_BYTES")
    if response is not None and kept is not None and response > kept:
        problems.append(f"MAX_RESPONSE_BYTES={response} is not valid; allowed: at most MAX_KEPT_BYTES={kept}")
    problems += [
        f"{name}={MASK} is not valid; allowed: either it or {name}_FILE"
        for name in ("REDIS_PASSWORD", "REDIS_SENTINEL_PASSWORD")
        if values.get(name) and values.get(f"{name}_FILE")
    ]
    return problems + _problems_of_tls(values)


def _problems_of_tls(values: Mapping[str, Any]) -> list[str]:
    """The errors of files for TLS that are valid alone. A wrong file or URL has its own line already."""
    files = {name: values[name] for name in _TLS_FILES if values.get(name)}
    problems = []
    if "REDIS_URL" in values and not (values["REDIS_URL"] or "").lower().startswith("rediss"):
        problems += [_only(name, file, _TLS_URL) for name, file in files.items()]
    for name, other in (_PAIR, _PAIR[::-1]):
        if name in files and other in values and not values[other]:
            problems.append(_only(name, files[name], other))
    if all(name in files for name in _PAIR):
        try:
            check_pair(files[_PAIR[0]], files[_PAIR[1]])
        except UnusableFile as error:
            key = str(files[_PAIR[1]])
            problems.append(f"{_PAIR[1]}={key!r} is not valid ({error}); allowed: the key of {_PAIR[0]}")
    return problems


def _only(name: str, file: Path, condition: str) -> str:
    return f"{name}={str(file)!r} is not valid; allowed: only with {condition}"
