"""Parses and checks the text of a setting: one function for each kind of value.

Each raises ValueError for a text that is not allowed. A message of that error (from access.keys or access.secret_files)
contains nothing secret. Reads files, but neither the environment nor the network.
"""

import re
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

from gateway.access.secret_files import read_keys, read_password
from gateway.access.tls_files import check_certificates, check_key
from gateway.store.address import is_host, parse_address


class Refused(ValueError):
    """The text of a setting is not allowed."""


def whole(least: int, most: int) -> Callable[[str], int]:
    """Parses a whole number in plain digits, from `least` to `most`."""

    def parse(text: str) -> int:
        number = int(text) if re.fullmatch(r"[0-9]{1,15}", text) else -1
        if not least <= number <= most:
            raise Refused
        return number

    return parse


def seconds(least: float, most: float) -> Callable[[str], float]:
    """Parses a duration in seconds, from `least` to `most`, with up to six decimals."""

    def parse(text: str) -> float:
        number = float(text) if re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,6})?", text) else -1.0
        if not least <= number <= most:
            raise Refused
        return number

    return parse


def one_of(*words: str) -> Callable[[str], str]:
    """Parses one of `words`, in any case, to lower case."""

    def parse(text: str) -> str:
        if text.lower() not in words:
            raise Refused
        return text.lower()

    return parse


def matching(pattern: str) -> Callable[[str], str]:
    """Checks that the whole text matches the regular expression `pattern`."""

    def parse(text: str) -> str:
        if not re.fullmatch(pattern, text):
            raise Refused
        return text

    return parse


def http_base(text: str) -> tuple[str, int]:
    """(host, port) of an `http://` address that has no path, query or user."""
    parts = urlsplit(text)
    name = parts.hostname or ""
    if (
        parts.scheme != "http"
        or parts.path not in ("", "/")
        or parts.port == 0
        or not is_host(name)
        or re.search(r"\s", text)
    ):
        raise Refused
    if parts.query or parts.fragment or parts.username is not None or parts.password is not None:
        raise Refused
    return name, 80 if parts.port is None else parts.port


def otlp_endpoint(text: str) -> str:
    """Checks the base URL of an OpenTelemetry collector."""
    parts = urlsplit(text)
    is_plain = not (parts.query or parts.fragment or re.search(r"\s", text))
    if parts.scheme not in ("http", "https") or parts.port == 0 or not is_host(parts.hostname or "") or not is_plain:
        raise Refused
    return text


def redis_url(text: str) -> str:
    """Checks the URL of a Redis, or of its Sentinels."""
    parse_address(text)
    return text


def host(text: str) -> str:
    """A host name or an address, IPv6 with or without brackets."""
    name = text[1:-1] if text.startswith("[") and text.endswith("]") else text
    if not is_host(name):
        raise Refused
    return name


def password_file(text: str) -> Path:
    """The path of a file that has a valid password now. The store reads it for each connection."""
    path = Path(text)
    read_password(path)
    return path


def keys_file(text: str) -> Path:
    """The path of a file that has valid keys now. The keyring reads it when it changes."""
    path = Path(text)
    read_keys(path)
    return path


def certificates_file(text: str) -> Path:
    """The path of a file that has valid certificates now. The store reads it for each connection."""
    path = Path(text)
    check_certificates(path)
    return path


def private_key_file(text: str) -> Path:
    """The path of a file that has a private key now. The store reads it for each connection."""
    path = Path(text)
    check_key(path)
    return path
