"""Which variables of the environment count as ours, before anybody looks at their values.

Pure: told the names, it leaves out what Kubernetes has put into one of them, and finds misspelled ones. No text from
here holds a value. Called by settings.
"""

import re
from collections.abc import Iterable, Mapping
from difflib import SequenceMatcher

# What kubelet sets for a Service named `gateway`: GATEWAY_PORT=tcp://10.0.0.1:11535. No value of ours is like that.
_LINK = re.compile(r"(tcp|udp|sctp)://")
# The rest of what it sets for each Service.
_KUBERNETES = re.compile(r"_SERVICE_|_PORT_[0-9]+(_|$)")
# A setting once: how many processes serve. 1 asked for what there is now.
_WORKERS = "GATEWAY_WORKERS"
_MORE_THAN_ONE = re.compile(r"0*([2-9]|[1-9][0-9]+)")
# Ours, but no settings: read by compose.yaml and the terminal's commands, or a setting once.
_OTHER_NAMES = frozenset({
    "GATEWAY_BIND", "GATEWAY_IMAGE", "GATEWAY_PUBLISH_PORT", "OLLAMA_GATEWAY_KEY", "OLLAMA_GATEWAY_URL", "REDIS_IMAGE",
    "REDIS_MAXMEMORY", _WORKERS,
})  # fmt: skip
_CLOSE = 0.82  # REDIS_USERNAME is (0.83), REDIS_TLS_URL is not (0.818), which some hosts set beside REDIS_URL
_CLOSE_FIRST_WORD = 0.6  # else every program's XYZ_LOG_LEVEL would be close to ours
_CLOSE_OLLAMA = 0.92  # Ollama has variables of its own, of which OLLAMA_MODELS is close to OLLAMA_PULL_MODELS (0.84)


def values_of(environ: Mapping[str, str], names: Iterable[str]) -> dict[str, str]:
    """What is set of `names`: neither an empty value nor a link to a Service counts."""
    return {name: text for name in names if (text := environ.get(name)) and not is_service_link(text)}


def is_service_link(text: str) -> bool:
    """Whether a value is what Kubernetes sets for a Service of that name."""
    return _LINK.match(text) is not None


def warnings_of(environ: Mapping[str, str], names: Iterable[str]) -> list[str]:
    """One line for each variable that does not do what its name promises."""
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
    """The one of `names` that `name` is most like, if it is like one at all and none of them."""
    likeness = {known: _likeness(name.upper(), known) for known in names}
    best = max(likeness, key=lambda known: likeness[known])
    return best if likeness[best] and name not in likeness else None


def _may_be_misspelled(name: str, text: str) -> bool:
    """Not: what is unset, known by another part of ours, or made by Kubernetes."""
    return bool(text) and name not in _OTHER_NAMES and not is_service_link(text) and not _KUBERNETES.search(name)


def _likeness(name: str, known: str) -> float:
    """From 0 (not like it) to 1 (the same letters)."""
    first, known_first = name.partition("_")[0], known.partition("_")[0]
    if SequenceMatcher(None, first, known_first).ratio() < _CLOSE_FIRST_WORD:
        return 0
    likeness = SequenceMatcher(None, name, known).ratio()
    return likeness if likeness >= (_CLOSE_OLLAMA if first == "OLLAMA" else _CLOSE) else 0
