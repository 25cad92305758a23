"""Reads files that hold secrets (API keys, a password) safely, whatever is at their path.

Reads only regular files of a bounded size, and opens them without blocking: a FIFO, a device or an endless file would
freeze the process. No error shows any of a file's text. A file system can still be slow, so code that serves requests
calls this in a thread.
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
    """A file cannot be used. The message is the reason: the operating system's, or ours."""


def read_secret_file(path: Path) -> str:
    """The text of a file, without a byte order mark. Raises UnusableFile."""
    try:
        data = _read(path)
    except OSError as error:
        raise UnusableFile(error.strerror or type(error).__name__) from None
    except ValueError:  # the path has a NUL, which system calls do not take
        raise UnusableFile("no file has such a path") from None
    if len(data) > LONGEST_BYTES:
        raise UnusableFile(f"it is longer than {LONGEST_BYTES} bytes")
    try:
        return data.decode("utf-8-sig")
    except UnicodeError:
        raise UnusableFile("it is not UTF-8") from None  # the cause would show the file's text


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

    Such a mount keeps the same file: if another file is renamed over it outside, nothing changes here. Device numbers
    would not show this: on overlayfs those of files and directories differ anyway.
    """
    try:
        real = str(path.resolve(strict=True))
        mounts = _MOUNTS.read_text(encoding="utf-8", errors="surrogateescape")
    except (OSError, RuntimeError, ValueError):  # the file is missing, links form a circle, or there is no /proc
        return False
    return real in {_unescaped(line.split(" ")[4]) for line in mounts.split("\n") if line}


def _read(path: Path) -> bytes:
    """The file's bytes, at most one more than is allowed. Raises OSError or ValueError."""
    _check_is_regular(path.stat())  # before opening it: opening some devices has an effect
    with os.fdopen(os.open(path, _OPENING), "rb") as file:
        _check_is_regular(os.fstat(file.fileno()))
        return file.read(LONGEST_BYTES + 1) or b""


def _check_is_regular(found: os.stat_result) -> None:
    if stat.S_ISDIR(found.st_mode):
        raise OSError(errno.EISDIR, os.strerror(errno.EISDIR))
    if not stat.S_ISREG(found.st_mode):
        raise OSError(errno.EINVAL, "it is not a regular file")


def _unescaped(mount_point: str) -> str:
    """A path from mountinfo, where the kernel writes white space and backslashes in octal."""
    for code in (" ", "\t", "\n", "\\"):
        mount_point = mount_point.replace(f"\\{ord(code):03o}", code)
    return mount_point
