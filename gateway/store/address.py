"""How to get into a store: its address, or those of its Sentinels, the logins, the files for TLS.

Owns the forms of a store's URL. Connects to nothing and reads no file: connecting.py does.
"""

import ipaddress
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias
from urllib.parse import unquote

PORT = 6379
SENTINEL_PORT = 26379
_URL = re.compile(
    r"(?P<scheme>rediss?(?:\+sentinel)?)://(?:(?P<login>[^/?#]*)@)?(?P<hosts>[^@/?#]+)(?P<path>/[^?#]*)?", re.IGNORECASE
)
_HOST = re.compile(r"(?:\[(?P<address>[^\[\]]+)\]|(?P<name>[^:\[\]]+))(?::(?P<port>[0-9]{0,5}))?")
_DATABASE = re.compile(r"(?:/(?P<database>[0-9]{1,4})?)?")
_MASTER_AND_DATABASE = re.compile(r"/(?P<master>[A-Za-z0-9._\-]{1,128})(?:/(?P<database>[0-9]{1,4})?)?")

Host: TypeAlias = tuple[str, int]


class InvalidAddress(ValueError):
    """A text that is no store's URL. The message shows nothing of the text, which may hold a password."""


@dataclass(frozen=True, slots=True)
class Address:
    """What a URL says. With a `master`, `hosts` are Sentinels that know the primary by that name."""

    hosts: tuple[Host, ...]
    has_tls: bool = False
    master: str = ""
    database: int = 0
    user: str = ""
    password: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True)
class Access:
    """The way into a store. With a `password_file`, `url` has no login and `user` is the one to log in as.

    All files are read for each connection. Those for TLS count for the store and its Sentinels.
    """

    url: str = field(repr=False)
    user: str = ""
    password_file: Path | None = None
    ca_file: Path | None = None
    cert_file: Path | None = None
    key_file: Path | None = None
    sentinel_user: str = ""
    sentinel_password: str = field(default="", repr=False)
    sentinel_password_file: Path | None = None


def parse_address(url: str) -> Address:
    """The parts of a URL: `redis://`, `rediss://`, and both with `+sentinel`. Raises InvalidAddress."""
    parts = _URL.fullmatch(url)
    if parts is None or re.search(r"\s", url):
        raise InvalidAddress("no URL of a store")
    scheme = parts["scheme"].lower()
    has_sentinels = scheme.endswith("+sentinel")
    path = (_MASTER_AND_DATABASE if has_sentinels else _DATABASE).fullmatch(parts["path"] or "")
    hosts = parts["hosts"].split(",") if has_sentinels else [parts["hosts"]]
    if path is None:
        raise InvalidAddress("no path of a store")
    user, _, password = (parts["login"] or "").partition(":")
    return Address(
        hosts=tuple(_host(host, SENTINEL_PORT if has_sentinels else PORT) for host in hosts),
        has_tls=scheme.startswith("rediss"),
        master=path["master"] if has_sentinels else "",
        database=int(path["database"] or 0),
        user=unquote(user),
        password=unquote(password),
    )


def is_host(text: str) -> bool:
    """Whether `text` is a host name or an address, IPv6 without brackets."""
    if ":" not in text:
        return re.fullmatch(r"[A-Za-z0-9._\-]{1,253}", text) is not None
    try:
        ipaddress.IPv6Address(text)
    except ValueError:
        return False
    return True


def _host(text: str, default_port: int) -> Host:
    parts = _HOST.fullmatch(text)
    if parts is None:
        raise InvalidAddress("no host of a store")
    name, port = parts["address"] or parts["name"], int(parts["port"] or default_port)
    is_bare_name = parts["address"] is not None and ":" not in name  # only an IPv6 address has brackets
    if is_bare_name or not is_host(name) or not 1 <= port <= 65535:
        raise InvalidAddress("no host of a store")
    return name, port
