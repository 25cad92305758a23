"""What a setting's text has to be: one function for each kind of value, from its text to what the code uses.

Each raises a ValueError for a text that is not allowed; where that has a message (of access, or of secret_files) it
holds nothing secret. Reads files, and neither the environment nor the network. Called by settings.
"""

import ipaddress
import re
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

from gateway.access.secret_files import read_keys, read_password


class Refused(ValueError):
    """A text that is not allowed."""


def whole(least: int, most: int) -> Callable[[str], int]:
    """A whole number in plain digits."""

    def parse(text: str) -> int:
        number = int(text) if re.fullmatch(r"[0-9]{1,15}", text) else -1
        if not least <= number <= most:
            raise Refused
        return number

    return parse


def seconds(least: float, most: float) -> Callable[[str], float]:
    """A duration, with up to six decimals."""

    def parse(text: str) -> float:
        number = float(text) if re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,6})?", text) else -1.0
        if not least <= number <= most:
            raise Refused
        return number

    return parse


def one_of(*words: str) -> Callable[[str], str]:
    """One of a few words, in any case."""

    def parse(text: str) -> str:
        if text.lower() not in words:
            raise Refused
        return text.lower()

    return parse


def matching(pattern: str) -> Callable[[str], str]:
    """A text that is all of `pattern`."""

    def parse(text: str) -> str:
        if not re.fullmatch(pattern, text):
            raise Refused
        return text

    return parse


def http_base(text: str) -> tuple[str, int]:
    """Host and port of an `http://` address without anything behind them."""
    parts = urlsplit(text)
    name = parts.hostname or ""
    if parts.scheme != "http" or parts.path not in ("", "/") or parts.port == 0 or not _is_host(name, text):
        raise Refused
    if parts.query or parts.fragment or parts.username is not None or parts.password is not None:
        raise Refused
    return name, 80 if parts.port is None else parts.port


def redis_url(text: str) -> str:
    """The address of a store."""
    parts = urlsplit(text)
    if parts.scheme not in ("redis", "rediss") or parts.port == 0 or not _is_host(parts.hostname, text):
        raise Refused
    if not re.fullmatch(r"/?|/[0-9]{1,4}", parts.path) or parts.query or parts.fragment:
        raise Refused
    return text


def host(text: str) -> str:
    """A host name or an address, IPv6 with or without brackets."""
    name = text[1:-1] if text.startswith("[") and text.endswith("]") else text
    if not _is_host(name):
        raise Refused
    return name


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


def password_file(text: str) -> Path:
    """The path of a file that holds a password now; it is read again for each connection."""
    path = Path(text)
    read_password(path)
    return path


def keys_file(text: str) -> Path:
    """The path of a file that holds keys now; it is read again when it changes."""
    path = Path(text)
    read_keys(path)
    return path
