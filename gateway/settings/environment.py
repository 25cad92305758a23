"""Decides which environment variables are the gateway's settings, before their values are parsed.

Pure. Ignores values that Kubernetes sets for Services, and finds misspelled names. No text from here shows a value.
"""

import re
from collections.abc import Iterable, Mapping
from difflib import SequenceMatcher

# The kubelet sets GATEWAY_PORT=tcp://10.0.0.1:11535 for a Service named `gateway`. No setting has such a value.
_LINK = re.compile(r"(tcp|udp|sctp)://")
# The other names that it sets for each Service.
_KUBERNETES = re.compile(r"_SERVICE_|_PORT_[0-9]+(_|$)")
# A former setting: the number of processes that serve. 1 is what the gateway does now.
_WORKERS = "GATEWAY_WORKERS"
_MORE_THAN_ONE = re.compile(r"0*([2-9]|[1-9][0-9]+)")
# Known names that are no settings: compose.yaml and the terminal's commands read them, or they are former settings.
_OTHER_NAMES = frozenset({
    "GATEWAY_BIND", "GATEWAY_IMAGE", "GATEWAY_PUBLISH_PORT", "OLLAMA_GATEWAY_KEY", "OLLAMA_GATEWAY_URL", "REDIS_IMAGE",
    "REDIS_MAXMEMORY", _WORKERS,
})  # fmt: skip
# Variables of OpenTelemetry's SDK, whose names are close to the two that are settings.
_TELEMETRY = re.compile(r"OTEL_EXPORTER_(OTLP_(TRACES|METRICS|LOGS)|ZIPKIN)_(ENDPOINT|PROTOCOL)")
_CLOSE = 0.82  # REDIS_USERNAME is close (0.83); REDIS_TLS_URL, which some hosts set beside REDIS_URL, is not (0.818)
_CLOSE_FIRST_WORD = 0.6  # otherwise every program's XYZ_LOG_LEVEL would be close to LOG_LEVEL
_CLOSE_OLLAMA = 0.92  # Ollama has variables of its own, of which OLLAMA_MODELS is close to OLLAMA_PULL_MODELS (0.84)


def values_of(environ: Mapping[str, str], names: Iterable[str]) -> dict[str, str]:
    """The variables among `names` that are set. Empty values and links to Services count as unset."""
    return {name: text for name in names if (text := environ.get(name)) and not is_service_link(text)}


def is_service_link(text: str) -> bool:
    """Whether a value has the form that Kubernetes sets for a Service."""
    return _LINK.match(text) is not None


def warnings_of(environ: Mapping[str, str], names: Iterable[str]) -> list[str]:
    """One line for each variable that has no effect although its name looks like a setting."""
    ours = sorted(names)
    links = [name for name in ours if is_service_link(environ.get(name, ""))]
    misspelled = {name: resembled(name, ours) for name in sorted(environ) if _may_be_misspelled(name, environ[name])}
    lines = [
        f"{name} counts as unset: it holds the address of a Kubernetes Service"
        " (set enableServiceLinks: false, or name the Service otherwise)"
        for name in links
    ]
    lines += [
        f"{name} is no setting and has no effect: is {meant} meant?"
        for name, meant in misspelled.items()
        if meant is not None
    ]
    if _MORE_THAN_ONE.fullmatch(environ.get(_WORKERS, "")):
        lines.append(f"{_WORKERS} is no longer a setting and has no effect: one process serves")
    return lines


def resembled(name: str, names: Iterable[str]) -> str | None:
    """The one of `names` that `name` probably means. None if it is one of them, or not close to any."""
    likeness = {known: _likeness(name.upper(), known) for known in names}
    best = max(likeness, key=lambda known: likeness[known])
    return best if likeness[best] and name not in likeness else None


def _may_be_misspelled(name: str, text: str) -> bool:
    """Whether the variable is set, is no known name, and does not come from Kubernetes."""
    if name in _OTHER_NAMES or _TELEMETRY.fullmatch(name):
        return False
    return bool(text) and not is_service_link(text) and not _KUBERNETES.search(name)


def _likeness(name: str, known: str) -> float:
    """How close `name` is to `known`: 0 (not close) to 1 (equal)."""
    first, known_first = name.partition("_")[0], known.partition("_")[0]
    if SequenceMatcher(None, first, known_first).ratio() < _CLOSE_FIRST_WORD:
        return 0
    likeness = SequenceMatcher(None, name, known).ratio()
    return likeness if likeness >= (_CLOSE_OLLAMA if first == "OLLAMA" else _CLOSE) else 0
