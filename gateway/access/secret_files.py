"""Files that hold secrets (API keys, a password): reads them safely, whatever stands at their path.

Takes regular files of a bounded size alone, and opens them without blocking: a FIFO, a device or an endless file would
freeze the process. No error holds anything of a file's text. A file system can still be slow, so what serves requests
calls this in a thread. Called by validators (at start), keyring and credentials.
"""

import errno
import os
import stat
from pathlib import Path

from gateway.access.keys import Keys, keys_of_lines

LONGEST_BYTES = 1024 * 1024
_OPENING = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_MOUNTS = Path("/proc/self/mountinfo")


class UnusableFile(ValueError):
    """Why a file cannot be used: the operating system's reason, or ours."""


def read_secret_file(path: Path) -> str:
    """The text of a file, without a byte order mark. Raises UnusableFile."""
    try:
        data = _read(path)
    except OSError as error:
        raise UnusableFile(error.strerror or type(error).__name__) from None
    except ValueError:  # the system's functions take no NUL
        raise UnusableFile("no file has such a path") from None
    if len(data) > LONGEST_BYTES:
        raise UnusableFile(f"it is longer than {LONGEST_BYTES} bytes")
    try:
        return data.decode("utf-8-sig")
    except UnicodeError:
        raise UnusableFile("it is not UTF-8") from None  # the cause would show what stands there


def read_password(path: Path) -> str:
    """The password in a file, without the white space around it. Raises UnusableFile."""
    password = read_secret_file(path).strip()
    if not password:
        raise UnusableFile("it is empty")
    return password


def read_keys(path: Path) -> Keys:
    """The API keys in a file. Raises UnusableFile or InvalidKeys."""
    return keys_of_lines(read_secret_file(path))


def is_mounted_alone(path: Path) -> bool:
    """Whether the file is a mount of its own, as a bind mount of a single file is.

    Such a file stays the one that it was when it was mounted: if another file is renamed over it outside, nothing
    changes here. Device numbers would not tell: on overlayfs those of files and directories differ anyway.
    """
    try:
        real = str(path.resolve(strict=True))
        mounts = _MOUNTS.read_text(encoding="utf-8", errors="surrogateescape")
    except (OSError, RuntimeError, ValueError):  # it is not there, links in a circle, no file system for processes
        return False
    return real in {_unescaped(line.split(" ")[4]) for line in mounts.split("\n") if line}


def _read(path: Path) -> bytes:
    """At most one byte more than is allowed."""
    _check_is_regular(path.stat())  # before it is opened: for some devices that alone has an effect
    with os.fdopen(os.open(path, _OPENING), "rb") as file:
        _check_is_regular(os.fstat(file.fileno()))
        return file.read(LONGEST_BYTES + 1) or b""


def _check_is_regular(found: os.stat_result) -> None:
    if stat.S_ISDIR(found.st_mode):
        raise OSError(errno.EISDIR, os.strerror(errno.EISDIR))
    if not stat.S_ISREG(found.st_mode):
        raise OSError(errno.EINVAL, "it is not a regular file")


def _unescaped(mount_point: str) -> str:
    """The kernel writes white space and backslashes in octal."""
    for code in (" ", "\t", "\n", "\\"):
        mount_point = mount_point.replace(f"\\{ord(code):03o}", code)
    return mount_point
