"""API keys: which texts are keys, and which key a request carries.

Pure. Only the SHA-256 of a key is kept. A request's key is compared with all keys in constant time. No error shows a
key.
"""

import hashlib
import hmac
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

ADMIN = "admin"

# SHA-256 of a key -> its name. Several keys may have the same name, so that a key can be replaced without a gap.
Keys = Mapping[bytes, str]

_KEY = re.compile(r"[!-+\--9;-~]{8,256}")  # printable ASCII without white space, comma and colon
_LINE_END = re.compile(r"\r\n|\n|\r")  # str.splitlines has more, and could split a comment into keys
_NAME = re.compile(r"[A-Za-z0-9._\-]{1,64}")
_BEARER = re.compile(rb"[Bb][Ee][Aa][Rr][Ee][Rr] +(\S+)")
_CARRIERS = (b"authorization", b"x-api-key")


class InvalidKeys(ValueError):
    """A text is not a list of keys. The message says where it is wrong, and never shows the text."""


@dataclass(frozen=True, slots=True)
class Caller:
    """The name of a request's key, and the (lower-case) names of the header fields that carried a valid key."""

    name: str
    carriers: tuple[bytes, ...]

    @property
    def sees_all(self) -> bool:
        """Whether this caller may see the tasks of all keys."""
        return self.name == ADMIN


def keys_of_list(text: str) -> dict[bytes, str]:
    """The keys of a comma list, digest to name. Raises InvalidKeys."""
    return _keys(enumerate(text.split(","), 1), "entry")


def keys_of_lines(text: str) -> dict[bytes, str]:
    """The keys of a file's lines, digest to name. Skips empty lines and `#` comments. Raises InvalidKeys."""
    lines = enumerate(_LINE_END.split(text), 1)
    return _keys(((number, line) for number, line in lines if not line.lstrip().startswith("#")), "line")


def identify(keys: Keys, fields: Iterable[tuple[bytes, bytes]]) -> Caller | None:
    """The caller whose key the request fields (lower-case names) carry. None: no valid key, or a repeated field."""
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
    """(digest, name) of `key` or `name:key`. A key without a name gets one from its digest. Raises InvalidKeys."""
    name, mark, key = entry.rpartition(":")
    if not _KEY.fullmatch(key) or (mark and not _NAME.fullmatch(name)):
        raise InvalidKeys(f"{where} is no key")
    digest = hashlib.sha256(key.encode()).digest()
    return digest, name or f"key-{digest.hex()[:8]}"


def _key_in(name: bytes, value: bytes) -> bytes:
    """The key in a field's value, b"" if there is none."""
    if name == b"x-api-key":
        return value.strip()
    match = _BEARER.fullmatch(value.strip())
    return match[1] if match else b""


def _owner(keys: Keys, key: bytes) -> str:
    """The name of `key`, "" if it is not valid. Compares with all keys, so that the time taken reveals nothing."""
    digest = hashlib.sha256(key).digest()
    found = ""
    for known, name in keys.items():
        if hmac.compare_digest(known, digest):
            found = name
    return found
