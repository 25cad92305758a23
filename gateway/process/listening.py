"""The sockets on which the gateway listens: all addresses of a host name, at one port.

Owns how they are bound, and the words for why they cannot be. Accepts nothing: that is the server's.
"""

import errno
import logging
import socket
from ipaddress import ip_address

from gateway.net.vanished import keep_alive

log = logging.getLogger("gateway")

_LOCALHOST = ("127.0.0.1", "::1")  # whatever the machine's own files say; RFC 6761, section 6.3
_NOT_HERE = frozenset({errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT, errno.EPROTONOSUPPORT})

_Place = tuple[int, int, int, str, tuple[object, ...]]


class CannotListen(Exception):
    """The message says why; `is_in_use` that another program listens there."""

    def __init__(self, why: str, *, is_in_use: bool = False) -> None:
        super().__init__(why)
        self.is_in_use = is_in_use


def listen(host: str, port: int) -> list[socket.socket]:
    """One bound socket for each address of `host`. Raises CannotListen.

    What this machine has not (often IPv6) is left out as long as there is another address.
    """
    listeners: list[socket.socket] = []
    missing: list[str] = []
    try:
        for place in _places(host, port):
            try:
                listeners.append(_bound(*place))
            except OSError as error:
                if error.errno not in _NOT_HERE:
                    raise
                missing.append(str(place[-1][0]))
    except OSError as error:
        for listener in listeners:
            listener.close()
        raise CannotListen(error.strerror or str(error), is_in_use=error.errno == errno.EADDRINUSE) from error
    if not listeners:
        raise CannotListen("GATEWAY_HOST is no address of this machine")
    if missing:
        log.info("%s is no address of this machine: not listened on", " and ".join(missing))
    return listeners


def _places(host: str, port: int) -> list[_Place]:
    """What getaddrinfo says, each once."""
    names = _LOCALHOST if host.lower() == "localhost" else (host,)
    found: dict[_Place, None] = {}
    for name in names:
        found |= dict.fromkeys(socket.getaddrinfo(name, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE))
    return list(found)


def _bound(family: int, kind: int, proto: int, _: str, address: tuple[object, ...]) -> socket.socket:
    listener = socket.socket(family, kind, proto)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        keep_alive(listener)  # what is accepted has that, too
        listener.bind(address)
    except OSError:
        listener.close()
        raise
    return listener


def url_of(listener: socket.socket) -> str:
    """Where it listens."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def is_loopback(listener: socket.socket) -> bool:
    """Whether only this machine reaches it."""
    return ip_address(listener.getsockname()[0].partition("%")[0]).is_loopback
