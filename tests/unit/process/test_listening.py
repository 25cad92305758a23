"""Which sockets a host name means, and what is said where the gateway cannot listen."""

from __future__ import annotations

import errno
import os
import socket
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from gateway.process.listening import CannotListen, is_loopback, listen, url_of
from tests.support.ports import free_port

if TYPE_CHECKING:
    from collections.abc import Iterator

NOWHERE = "192.0.2.1"  # RFC 5737: no machine has it


@contextmanager
def listening_at(host: str, port: int) -> Iterator[list[socket.socket]]:
    """The sockets, closed afterwards."""
    sockets = listen(host, port)
    try:
        yield sockets
    finally:
        for sock in sockets:
            sock.close()


def names(monkeypatch: pytest.MonkeyPatch, *addresses: str) -> None:
    """Has every name mean these addresses."""
    ask = socket.getaddrinfo

    def answer(_: str, port: int, **more: int) -> list[object]:
        return [found for address in addresses for found in ask(address, port, **more)]

    monkeypatch.setattr(socket, "getaddrinfo", answer)


def without(monkeypatch: pytest.MonkeyPatch, family: int, number: int) -> None:
    """Has this machine lack a family of addresses; `number` is the error."""

    class Lacking(socket.socket):
        def __init__(self, wanted: int = socket.AF_INET, *more: int) -> None:
            if wanted == family:
                raise OSError(number, os.strerror(number))
            super().__init__(wanted, *more)

    monkeypatch.setattr(socket, "socket", Lacking)


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST"])
def test_localhost_is_both_of_its_addresses(host: str) -> None:
    """Whatever the machine's files say: 127.0.0.1 and ::1, at the same port."""
    port = free_port()
    with listening_at(host, port) as sockets:
        assert [url_of(sock) for sock in sockets] == [f"http://127.0.0.1:{port}", f"http://[::1]:{port}"]
        assert all(map(is_loopback, sockets))


def test_a_name_is_all_of_its_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of them once, also where the resolver repeats one."""
    names(monkeypatch, "127.0.0.1", "127.0.0.2", "::1", "127.0.0.1")
    port = free_port()
    with listening_at("gateway.internal", port) as sockets:
        assert [sock.getsockname()[:2] for sock in sockets] == [(a, port) for a in ("127.0.0.1", "127.0.0.2", "::1")]


@pytest.mark.parametrize("number", [errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL])
def test_a_family_that_is_missing_is_left_out(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """A machine without IPv6 listens on the rest."""
    without(monkeypatch, socket.AF_INET6, number)
    with listening_at("localhost", free_port()) as sockets:
        assert [sock.getsockname()[0] for sock in sockets] == ["127.0.0.1"]


def test_an_address_of_another_machine_is_called_so() -> None:
    """No other port would help; the message says which setting is meant."""
    with pytest.raises(CannotListen, match=r"^GATEWAY_HOST is no address of this machine$") as refused:
        listen(NOWHERE, free_port())
    assert not refused.value.is_in_use


def test_one_address_in_use_is_a_refusal(monkeypatch: pytest.MonkeyPatch) -> None:
    """All that were bound by then are closed: clients of one of the addresses would reach another program."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.2", 0))
        taken.listen()
        port = taken.getsockname()[1]
        names(monkeypatch, "127.0.0.1", "127.0.0.2")
        with pytest.raises(CannotListen, match="Address already in use") as refused:
            listen("gateway.internal", port)
        assert refused.value.is_in_use
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", port))


def test_a_name_that_nobody_knows_is_called_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """In the resolver's words."""

    def unknown(*_: object, **__: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    with pytest.raises(CannotListen, match="Name or service not known"):
        listen("nowhere.invalid", free_port())


@pytest.mark.parametrize(
    ("host", "expected"), [("127.0.0.1", True), ("127.9.9.9", True), ("::1", True), ("0.0.0.0", False), ("::", False)]
)
def test_only_loopback_is_safe_from_strangers(host: str, expected: bool) -> None:
    """Judged by the address that was bound, not by the name that was given."""
    with listening_at(host, free_port()) as [sock]:
        assert is_loopback(sock) is expected
