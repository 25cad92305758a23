"""The GPU's devices in `/dev`: which there were at the start, and which of them are missing now.

Owns what counts as a GPU's device, and as missing. It never opens a device that it may open: opening one of NVIDIA's
wakes a sleeping GPU, and can take seconds.
"""

import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path

# A GPU, and what its driver needs beside it. Render nodes alone are no GPU for Ollama: screens have them, too.
_KINDS = (
    ("nvidia[0-9]*", ("nvidiactl", "nvidia-uvm")),
    ("nvmap", ()),  # Jetson
    ("dxg", ()),  # WSL
    ("kfd", ("dri/renderD*",)),  # AMD
)
# What open() says of a device that is not usable. Others, such as EACCES and EMFILE, say something about the gateway.
_LOST = {
    errno.ENOENT: "gone",
    errno.ENOTDIR: "gone",
    errno.EPERM: "not permitted",  # the device's cgroup no longer has it
    errno.ENXIO: "without its driver",
    errno.ENODEV: "without its driver",
}


class Devices:
    """The devices under `root`, which is `/dev`. `drivers` is `/proc/devices`: the drivers by their major numbers."""

    def __init__(self, root: Path, drivers: Path) -> None:
        self._root = root
        self._drivers = drivers
        self.at_start = tuple(sorted(_found(root)))
        listed = _listed_majors(drivers)
        self._majors = {name: major for name in self.at_start if (major := _major(root / name)) in listed}

    def missing(self) -> dict[str, str]:
        """Which of the devices of the start are missing now, and why."""
        listed = _listed_majors(self._drivers) if self._majors else frozenset()
        reasons = ((name, self._reason(name, listed)) for name in self.at_start)
        return {name: reason for name, reason in reasons if reason is not None}

    def _reason(self, name: str, listed: frozenset[int]) -> str | None:
        path = self._root / name
        if _major(path) is None:
            return "gone"
        if (refusal := _refusal(path)) is not None:
            return _LOST.get(refusal)
        # A node in a container outlives the driver. A device without a listed driver at the start has none to lose.
        is_driven = not listed or name not in self._majors or self._majors[name] in listed
        return None if is_driven else "without its driver"


def _found(root: Path) -> Iterator[str]:
    for primary, beside in _KINDS:
        names = list(_matching(root, primary))
        yield from names
        for pattern in beside if names else ():
            yield from _matching(root, pattern)


def _matching(root: Path, pattern: str) -> Iterator[str]:
    for path in root.glob(pattern):
        if _major(path) is not None:
            yield str(path.relative_to(root))


def _major(path: Path) -> int | None:
    """The major number of a character device; None if there is none at `path`, as where a mount made a directory."""
    try:
        found = path.stat()
    except OSError:
        return None
    return os.major(found.st_rdev) if stat.S_ISCHR(found.st_mode) else None


def _refusal(path: Path) -> int | None:
    """The error with which the kernel refuses to open `path`; None if it does not.

    access() checks the rights and the cgroup, and does not reach the driver. But Python's says only yes or no. So after
    a no, open() is called for the error. The same check refuses it, so it does not reach the driver, either.
    """
    if os.access(path, os.R_OK | os.W_OK):
        return None
    try:
        os.close(os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC))
    except OSError as error:
        return error.errno
    return None


def _listed_majors(drivers: Path) -> frozenset[int]:
    """The major numbers of the character devices that have a driver; none if the system does not say."""
    try:
        lines = drivers.read_text().partition("Block devices:")[0].splitlines()
    except OSError:
        return frozenset()
    return frozenset(int(number) for line in lines if (number := line.strip().partition(" ")[0]).isdecimal())
