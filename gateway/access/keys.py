"""API keys: which texts are keys, and whose key a request carries.

Pure. A key is kept as its SHA-256 alone, is compared with all of them in constant time, and shows up in no error.
Called by settings (the environment), keyring (the file) and app (each request, where keys are on).
"""

import hashlib
import hmac
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

ADMIN = "admin"

# SHA-256 of a key to its name. Several keys may have one name: that is how a key is replaced without a gap.
Keys = Mapping[bytes, str]

_KEY = re.compile(r"[!-+\--9;-~]{8,256}")  # printable ASCII without white space, comma and colon
_LINE_END = re.compile(r"\r\n|\n|\r")  # str.splitlines takes others, too, so that a comment could hold a key
_NAME = re.compile(r"[A-Za-z0-9._\-]{1,64}")
_BEARER = re.compile(rb"[Bb][Ee][Aa][Rr][Ee][Rr] +(\S+)")
_CARRIERS = (b"authorization", b"x-api-key")


class InvalidKeys(ValueError):
    """A text does not hold keys. The message tells where it is wrong, never what stands there."""


@dataclass(frozen=True, slots=True)
class Caller:
    """Whose request it is, and the (lower-case) names of the fields that carried a key of ours."""

    name: str
    carriers: tuple[bytes, ...]

    @property
    def sees_all(self) -> bool:
        """Whether the tasks of all keys are this caller's to see."""
        return self.name == ADMIN


def keys_of_list(text: str) -> dict[bytes, str]:
    """The keys of a comma list. Raises InvalidKeys."""
    return _keys(enumerate(text.split(","), 1), "entry")


def keys_of_lines(text: str) -> dict[bytes, str]:
    """The keys of a file's lines; empty ones and those that begin with `#` are none. Raises InvalidKeys."""
    lines = enumerate(_LINE_END.split(text), 1)
    return _keys(((number, line) for number, line in lines if not line.lstrip().startswith("#")), "line")


def identify(keys: Keys, fields: Iterable[tuple[bytes, bytes]]) -> Caller | None:
    """Whose key the request fields (lower-case names) carry. None: nobody's, or more than one field of a kind."""
    values: dict[bytes, bytes] = {}
    for name, value in fields:
        if name in _CARRIERS:
            if name in values:
                return None
            values[name] = value
    owners = {name: owner for name in _CARRIERS if (owner := _owner(keys, _key_in(name, values.get(name, b""))))}
    return Caller(next(iter(owners.values())), tuple(owners)) if owners else None


def _keys(entries: Iterable[tuple[int, str]], what: str) -> dict[bytes, str]:
    found: dict[bytes, str] = {}
    for number, entry in entries:
        if not entry.strip():
            continue
        digest, name = _parsed(entry.strip(), f"{what} {number}")
        if found.setdefault(digest, name) != name:
            raise InvalidKeys(f"{what} {number} gives a second name to a key")
    if not found:
        raise InvalidKeys("there is no key")
    return found


def _parsed(entry: str, where: str) -> tuple[bytes, str]:
    """Digest and name of `key` or `name:key`; the name of a key without one comes from its digest."""
    name, mark, key = entry.rpartition(":")
    if not _KEY.fullmatch(key) or (mark and not _NAME.fullmatch(name)):
        raise InvalidKeys(f"{where} is no key")
    digest = hashlib.sha256(key.encode()).digest()
    return digest, name or f"key-{digest.hex()[:8]}"


def _key_in(name: bytes, value: bytes) -> bytes:
    """What the field's value offers as a key."""
    if name == b"x-api-key":
        return value.strip()
    match = _BEARER.fullmatch(value.strip())
    return match[1] if match else b""


def _owner(keys: Keys, key: bytes) -> str:
    """The name of `key`, "" if it is none. Looks at all keys, so that the time taken tells nothing."""
    digest = hashlib.sha256(key).digest()
    found = ""
    for known, name in keys.items():
        if hmac.compare_digest(known, digest):
            found = name
    return found
