"""Decides what a request target means: relay it, answer it here, or refuse it.

Pure. The decision looks at the bytes as they came on the wire; a decoded copy only serves to refuse
what any later decoder could read as a way out of `/v1/`. What is relayed is never the copy.
Called by app (routing), proxy (the bytes that go upstream), guard and server (absolute-form).
"""

import re
from dataclasses import dataclass
from functools import lru_cache
from urllib.parse import unquote_to_bytes

from gateway.errors import InvalidPath

RELAYED_PREFIX = b"/v1/"

# Each pass removes one level of percent-encoding. Runs of "%25" are folded first, so honest and hostile
# targets alike settle in a few passes; what has not settled by then is refused.
_MAX_DECODE_PASSES = 16
_ENCODED_PERCENT_RUN = re.compile(rb"%(?:25)+")
_SHORT_BYTES = 256  # what is longer is not remembered
_FORBIDDEN_BYTE = re.compile(rb"[\\\x00\r\n]")
_ABSOLUTE_FORM = re.compile(rb"[A-Za-z][A-Za-z0-9+.\-]*://([^/?#]*)")


@dataclass(frozen=True, slots=True)
class Target:
    """A request target in origin form, split at its first `?`; `query` is None where there was no `?`."""

    path: bytes
    query: bytes | None

    @property
    def is_relayed(self) -> bool:
        return self.path.startswith(RELAYED_PREFIX)

    @property
    def wire(self) -> bytes:
        """Path and query, byte for byte as the client sent them."""
        return self.path if self.query is None else self.path + b"?" + self.query


def parse(raw: bytes) -> Target:
    """The meaning of `raw`, the request target on the wire (RFC 9112 section 3.2).

    An absolute-form target (`GET http://host/v1/models`) means its path.
    Raises InvalidPath where decoding could lead to another path.
    """
    return _parse_again(raw) if len(raw) <= _SHORT_BYTES else _parse(raw)


def _parse(raw: bytes) -> Target:
    _, origin_form = split_absolute(raw)
    path, mark, query = origin_form.partition(b"?")
    if has_way_out(path):
        raise InvalidPath("the path must not contain '.' or '..' segments, a backslash, NUL, CR or LF, encoded or not")
    return Target(path, query if mark else None)


_parse_again = lru_cache(maxsize=256)(_parse)  # nearly all requests have the same few targets


def split_absolute(raw: bytes) -> tuple[bytes | None, bytes]:
    """The authority of an absolute-form target, and the target in origin-form; None and `raw` for any other."""
    match = None if raw.startswith(b"/") else _ABSOLUTE_FORM.match(raw)
    if match is None:
        return None, raw
    rest = raw[match.end() :]
    return match[1], rest if rest.startswith(b"/") else b"/" + rest


def has_way_out(path: bytes) -> bool:
    """Whether some decoding of `path` holds a dot segment, a backslash, NUL, CR or LF."""
    decoded = _fully_decoded(path)
    if decoded is None or _FORBIDDEN_BYTE.search(decoded):
        return True
    return b"." in decoded and not {b".", b".."}.isdisjoint(decoded.split(b"/"))


def _fully_decoded(path: bytes) -> bytes | None:
    """`path` percent-decoded until it no longer changes; None if it does not settle."""
    for _ in range(_MAX_DECODE_PASSES):
        if b"%" not in path:
            return path
        decoded = unquote_to_bytes(_ENCODED_PERCENT_RUN.sub(b"%", path))
        if decoded == path:
            return path
        path = decoded
    return None
