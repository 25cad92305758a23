"""Owns machines: network namespaces on one switch, and cuts between two of them.

A namespace here has no name. It lives as long as this process holds its descriptor or a process runs in it, and every
process started in it dies with this one. So nothing is left behind, even if the tests are killed.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import subprocess
from typing import TYPE_CHECKING

from tests.support.process import spawn

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

CLONE_NEWNET = 0x40000000
# The kernel sends the signal when the thread that started the program ends.
DIES_WITH_US = ["setpriv", "--pdeathsig", "KILL", "--"]
NO_MACHINE = "02:00:00:00:00:00"  # frames to this address reach no machine
_libc = ctypes.CDLL(None, use_errno=True)


def why_not() -> str | None:
    """Why there can be no machines here, or None if there can."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    missing = [name for name in ("ip", "setpriv") if shutil.which(name) is None]
    if missing:
        return f"not installed: {', '.join(missing)}"
    try:
        os.close(_new_namespace())
    except OSError as error:
        return f"the kernel gives no network namespace: {error.strerror}"
    return None


class Machine:
    """One namespace with one address on the switch."""

    def __init__(self, name: str, number: int) -> None:
        self.name = name
        self.address = f"10.77.0.{number}"
        self.hardware_address = f"02:00:0a:4d:00:{number:02x}"
        self.namespace = _new_namespace()

    def __repr__(self) -> str:
        return f"<{self.name} {self.address}>"

    @contextlib.contextmanager
    def inside(self) -> Iterator[None]:
        """Sockets and processes that the block makes belong to this machine. The block must not await."""
        with _inside(self.namespace):
            yield

    def spawn(self, command: list[str], log: Path, settings: dict[str, str]) -> subprocess.Popen[bytes]:
        """Start a program on this machine; all it writes is appended to `log`."""
        with self.inside():
            return spawn(DIES_WITH_US + command, log, settings)

    def ip(self, *lines: str) -> None:
        """Run lines of `ip` on this machine."""
        _ip(self.namespace, *lines)


class Network:
    """A switch and the machines that are plugged into it."""

    def __init__(self) -> None:
        self.machines: list[Machine] = []
        self._switch = _new_namespace()
        _ip(self._switch, "link add switch type bridge", "link set switch up")

    def add(self, name: str) -> Machine:
        """A new machine, plugged in."""
        number = len(self.machines) + 1
        machine = Machine(name, number)
        self.machines.append(machine)
        plug = f"port{number}"
        here = f"/proc/{os.getpid()}/fd/{machine.namespace}"
        _ip(
            self._switch,
            f"link add {plug} type veth peer name eth0 address {machine.hardware_address} netns {here}",
            f"link set {plug} master switch up",
        )
        machine.ip("link set lo up", "link set eth0 up", f"address add {machine.address}/24 dev eth0")
        return machine

    def cut(self, machine: Machine, *others: Machine) -> None:
        """Lose every packet between `machine` and each of `others` (all, if none is named), both ways, without a word.

        Connections stay open on both sides. They time out, or go on after `heal`.
        """
        self._wire(machine, others, NO_MACHINE)

    def heal(self, machine: Machine, *others: Machine) -> None:
        """End the cuts between `machine` and each of `others` (all, if none is named)."""
        self._wire(machine, others, None)

    def _wire(self, machine: Machine, others: tuple[Machine, ...], hardware_address: str | None) -> None:
        for other in others or [peer for peer in self.machines if peer is not machine]:
            for near, far in ((machine, other), (other, machine)):
                told = hardware_address or far.hardware_address
                near.ip(f"neighbour replace {far.address} lladdr {told} nud permanent dev eth0")

    def close(self) -> None:
        """Let the namespaces go. The kernel removes them when the last process in them has ended."""
        for machine in self.machines:
            os.close(machine.namespace)
        os.close(self._switch)


def _new_namespace() -> int:
    """The descriptor of a network namespace that no other has."""
    with _namespace_kept():
        _check(_libc.unshare(CLONE_NEWNET))
        return _current_namespace()


@contextlib.contextmanager
def _inside(namespace: int) -> Iterator[None]:
    with _namespace_kept():
        _check(_libc.setns(namespace, CLONE_NEWNET))
        yield


@contextlib.contextmanager
def _namespace_kept() -> Iterator[None]:
    """Whatever the block does, this thread is back in its namespace afterwards."""
    before = _current_namespace()
    try:
        yield
    finally:
        _check(_libc.setns(before, CLONE_NEWNET))
        os.close(before)


def _current_namespace() -> int:
    return os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)


def _check(result: int) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def _ip(namespace: int, *lines: str) -> None:
    with _inside(namespace):
        done = subprocess.run(
            ["ip", "-batch", "-"], input="\n".join(lines), capture_output=True, text=True, timeout=20, check=False
        )
    assert done.returncode == 0, f"{lines}: {done.stderr}"
