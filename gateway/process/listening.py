"""The sockets on which the gateway listens: all addresses of a host name, at one port.

Owns how they are bound, and the texts of the errors. Accepts no connection; the server does.
"""

import errno
import logging
import socket
from ipaddress import ip_address

from gateway.net.vanished import keep_alive

log = logging.getLogger("gateway")

_LOCALHOST = ("127.0.0.1", "::1")  # whatever the machine's own files say; RFC 6761, section 6.3
_NOT_HERE = frozenset({errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT, errno.EPROTONOSUPPORT})

_Address = tuple[int, int, int, str, tuple[object, ...]]


class CannotListen(Exception):
    """No socket can listen there; the message says why. `is_in_use`: another program has the port."""

    def __init__(self, why: str, *, is_in_use: bool = False) -> None:
        super().__init__(why)
        self.is_in_use = is_in_use


def listen(host: str, port: int) -> list[socket.socket]:
    """One bound socket for each address of `host`. Raises CannotListen.

    An address that this machine does not have (often IPv6) is left out if there is another one.
    """
    listeners: list[socket.socket] = []
    missing: list[str] = []
    try:
        for found in _addresses(host, port):
            try:
                listeners.append(_bound(*found))
            except OSError as error:
                if error.errno not in _NOT_HERE:
                    raise
                missing.append(str(found[-1][0]))
    except OSError as error:
        for listener in listeners:
            listener.close()
        raise CannotListen(error.strerror or str(error), is_in_use=error.errno == errno.EADDRINUSE) from error
    if not listeners:
        raise CannotListen("GATEWAY_HOST is no address of this machine")
    if missing:
        log.info("%s is no address of this machine: not listened on", " and ".join(missing))
    return listeners


def _addresses(host: str, port: int) -> list[_Address]:
    """The addresses that getaddrinfo returns, each once."""
    names = _LOCALHOST if host.lower() == "localhost" else (host,)
    found: dict[_Address, None] = {}
    for name in names:
        found |= dict.fromkeys(socket.getaddrinfo(name, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE))
    return list(found)


def _bound(family: int, kind: int, proto: int, _: str, address: tuple[object, ...]) -> socket.socket:
    listener = socket.socket(family, kind, proto)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        keep_alive(listener)  # accepted connections inherit that
        listener.bind(address)
    except OSError:
        listener.close()
        raise
    return listener


def url_of(listener: socket.socket) -> str:
    """The URL of the socket's address."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def is_loopback(listener: socket.socket) -> bool:
    """Whether only this machine can connect to the socket."""
    return ip_address(listener.getsockname()[0].partition("%")[0]).is_loopback
