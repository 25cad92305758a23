"""Decides whether a request target is relayed, answered here, or refused.

Pure. The bytes on the wire decide. A decoded copy is only used to refuse a path that some later decoder could read as
a path outside `/v1/`; the copy is never relayed.
"""

import re
from dataclasses import dataclass
from functools import lru_cache
from urllib.parse import unquote_to_bytes

from gateway.errors import InvalidPath

RELAYED_PREFIX = b"/v1/"

# Each pass removes one level of percent-encoding. Runs of "%25" are folded first, so few passes are enough for any
# target; one that still changes after the last pass is refused.
_MAX_DECODE_PASSES = 16
_ENCODED_PERCENT_RUN = re.compile(rb"%(?:25)+")
_CACHED_BYTES = 256  # longer targets are not cached
_FORBIDDEN_BYTE = re.compile(rb"[\\\x00\r\n]")
_ABSOLUTE_FORM = re.compile(rb"[A-Za-z][A-Za-z0-9+.\-]*://([^/?#]*)")


@dataclass(frozen=True, slots=True)
class Target:
    """A request target in origin form, split at its first `?`. `query` is None if there is no `?`."""

    path: bytes
    query: bytes | None

    @property
    def is_relayed(self) -> bool:
        return self.path.startswith(RELAYED_PREFIX)

    @property
    def wire(self) -> bytes:
        """Path and query, the bytes that the client sent."""
        return self.path if self.query is None else self.path + b"?" + self.query


def parse(raw: bytes) -> Target:
    """The parts of `raw`, the request target on the wire (RFC 9112 section 3.2).

    Of an absolute-form target (`GET http://host/v1/models`) only path and query count.
    Raises InvalidPath if decoding could lead to another path.
    """
    return _parse_cached(raw) if len(raw) <= _CACHED_BYTES else _parse(raw)


def _parse(raw: bytes) -> Target:
    _, origin_form = split_absolute(raw)
    path, mark, query = origin_form.partition(b"?")
    if has_way_out(path):
        raise InvalidPath("the path must not contain '.' or '..' segments, a backslash, NUL, CR or LF, encoded or not")
    return Target(path, query if mark else None)


# Nearly all requests have the same few targets: 0.3 us instead of 3.7.
_parse_cached = lru_cache(maxsize=256)(_parse)


def split_absolute(raw: bytes) -> tuple[bytes | None, bytes]:
    """The authority of an absolute-form target, and the target in origin-form. For any other target: None and `raw`."""
    match = None if raw.startswith(b"/") else _ABSOLUTE_FORM.match(raw)
    if match is None:
        return None, raw
    rest = raw[match.end() :]
    return match[1], rest if rest.startswith(b"/") else b"/" + rest


def has_way_out(path: bytes) -> bool:
    """Whether `path`, decoded any number of times, has a dot segment, a backslash, NUL, CR or LF."""
    decoded = _fully_decoded(path)
    if decoded is None or _FORBIDDEN_BYTE.search(decoded):
        return True
    return b"." in decoded and not {b".", b".."}.isdisjoint(decoded.split(b"/"))


def _fully_decoded(path: bytes) -> bytes | None:
    """`path` percent-decoded until it no longer changes; None if it still changes after the last pass."""
    for _ in range(_MAX_DECODE_PASSES):
        if b"%" not in path:
            return path
        decoded = unquote_to_bytes(_ENCODED_PERCENT_RUN.sub(b"%", path))
        if decoded == path:
            return path
        path = decoded
    return None
