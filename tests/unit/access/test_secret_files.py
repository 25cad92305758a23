"""Files of secrets are read safely: only regular files of a bounded size; no path can block the process."""

from __future__ import annotations

import os
import pty
import socket
import subprocess
import sys
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from gateway.access import secret_files
from gateway.access.secret_files import LONGEST_BYTES, UnusableFile, is_mounted_alone, read_password, read_secret_file
from tests.support.process import ROOT

if TYPE_CHECKING:
    from pathlib import Path

SECRET = "key-of-alice"
IS_MOUNTED = """
import sys
from pathlib import Path
from gateway.access.secret_files import is_mounted_alone
print(*map(is_mounted_alone, map(Path, sys.argv[1:])))
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A path for a test's file."""
    return tmp_path / "secret"


def reason(path: Path) -> str:
    """The reason why the file cannot be used."""
    with pytest.raises(UnusableFile) as caught:
        read_secret_file(path)
    assert caught.value.__cause__ is None
    assert SECRET not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_a_byte_order_mark_does_not_count(path: Path, mark: bytes) -> None:
    """Windows editors write a byte order mark first; it is no part of a key or password."""
    path.write_bytes(mark + SECRET.encode() + b"\r\n")
    assert read_secret_file(path) == SECRET + "\r\n"
    assert read_password(path) == SECRET


def test_a_file_may_be_a_link(path: Path) -> None:
    """Secret stores put a link at the path, and move it."""
    path.with_name("real").write_text(SECRET)
    path.symlink_to("real")
    assert read_password(path) == SECRET


def test_a_file_is_read_up_to_its_limit(path: Path) -> None:
    """A mebibyte is accepted, one byte more is refused."""
    path.write_bytes(b"x" * LONGEST_BYTES)
    assert len(read_secret_file(path)) == LONGEST_BYTES
    with path.open("ab") as file:
        file.write(b"x")
    assert reason(path) == "it is longer than 1048576 bytes"


def test_a_file_that_grows_for_ever_is_given_up(path: Path) -> None:
    """If the reported size is wrong, no more is read than is allowed."""
    path.touch()
    os.truncate(path, 1 << 40)
    assert reason(path) == "it is longer than 1048576 bytes"


def test_what_is_no_regular_file_is_refused_at_once(path: Path) -> None:
    """A FIFO without a writer, a socket, a terminal and devices, endless or empty, do not block."""
    os.mkfifo(path)
    assert reason(path) == "it is not a regular file"
    path.unlink()
    with closing(socket.socket(socket.AF_UNIX)) as listener:
        listener.bind(str(path))
        assert reason(path) == "it is not a regular file"
    path.unlink()
    ends = pty.openpty()
    for device in (os.ttyname(ends[1]), "/dev/zero", "/dev/null"):
        path.symlink_to(device)
        assert reason(path) == "it is not a regular file"
        path.unlink()
    for end in ends:
        os.close(end)
    assert reason(path.parent) == "Is a directory"


def test_what_takes_a_files_place_before_it_is_opened_blocks_neither(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If a file is replaced by a FIFO after the check, it is opened without waiting, and refused."""
    path.write_text(SECRET)
    seen = path.stat()
    path.unlink()
    os.mkfifo(path)
    with monkeypatch.context() as patch:
        patch.setattr(type(path), "stat", lambda _: seen)
        assert reason(path) == "it is not a regular file"


def test_the_systems_reason_is_given(path: Path) -> None:
    """A missing file, text that is not UTF-8 and an invalid path are each reported in a few words."""
    assert reason(path) == "No such file or directory"
    path.write_bytes(SECRET.encode() + b"\xff")
    assert reason(path) == "it is not UTF-8"
    assert reason(path.with_name("a\0b")) == "no file has such a path"


def test_no_descriptor_is_left_open(path: Path) -> None:
    """The file is closed, whether it is read or refused."""
    before = len(os.listdir("/proc/self/fd"))
    for data in (b"x", b"\xff", b"x" * (LONGEST_BYTES + 1)):
        path.write_bytes(data)
        for _ in range(3):
            try:
                read_secret_file(path)
            except UnusableFile:
                continue
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_file_that_is_a_mount_is_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel's mount table decides, also for a link to such a file and for a path with white space."""
    mounted, other, link = (tmp_path / name for name in ("a file\\", "other", "link"))
    for file in (mounted, other):
        file.touch()
    link.symlink_to(mounted)
    escaped = str(mounted).replace("\\", "\\134").replace(" ", "\\040")
    table = tmp_path / "mountinfo"
    table.write_text(f"1 1 0:1 / / rw - overlay overlay rw\n2 1 8:1 /x {escaped} ro,relatime - ext4 /dev/sda1 rw\n")
    monkeypatch.setattr(secret_files, "_MOUNTS", table)
    found = [is_mounted_alone(file) for file in (mounted, link, other, tmp_path / "none", tmp_path)]
    assert found == [True, True, False, False, False]
    monkeypatch.setattr(secret_files, "_MOUNTS", tmp_path / "none")
    assert not is_mounted_alone(mounted)


def test_a_real_mount_of_one_file_is_known(tmp_path: Path) -> None:
    """A file bound over another, as container engines do it, is a mount of its own; one in a mounted folder is not."""
    (tmp_path / "directory").mkdir()
    for file in (tmp_path / "directory" / "keys", tmp_path / "keys", tmp_path / "inside"):
        file.touch()
    (tmp_path / "mounted").mkdir()
    script = 'mount --bind directory mounted && mount --bind directory/keys keys && exec "$@"'
    unshared = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c"]
    if subprocess.run([*unshared, script, "sh", "true"], cwd=tmp_path, capture_output=True).returncode:
        pytest.skip("this machine does not let its users mount")
    names = [str(tmp_path / name) for name in ("keys", "inside", "mounted/keys")]
    done = subprocess.run(
        [*unshared, f"{script}", "sh", "env", f"PYTHONPATH={ROOT}", sys.executable, "-c", IS_MOUNTED, *names],
        cwd=tmp_path, capture_output=True, text=True, timeout=50,
    )  # fmt: skip
    assert (done.stdout, done.stderr) == ("True False False\n", "")
