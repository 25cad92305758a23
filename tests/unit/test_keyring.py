"""The API keys in force while their file changes: read again when it does, kept as they were when it cannot be used."""

from __future__ import annotations

import errno
import logging
import os
from hashlib import sha256
from typing import TYPE_CHECKING

import pytest

from gateway.access import InvalidKeys, keys_of_list
from gateway.keyring import Keyring, read_keys

if TYPE_CHECKING:
    from pathlib import Path


class Clock:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    """A clock that stands still until it is moved."""
    return Clock()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A file with one key."""
    path = tmp_path / "keys"
    path.write_text("alice:key-of-alice\n")
    return path


def names(ring: Keyring) -> set[str]:
    """The names of the keys in force."""
    return set(ring.current().values())


def replace(path: Path, text: str) -> None:
    """Another file in the place of this one, as editors and secret stores do it."""
    other = path.with_name("other")
    other.write_text(text)
    other.replace(path)


def test_without_keys_it_is_off(path: Path) -> None:
    """Keys are on where one of the two sources is given."""
    assert not Keyring({}, None).is_on
    assert Keyring(keys_of_list("key-of-bob"), None).is_on
    assert Keyring({}, path).is_on


def test_both_sources_count(path: Path) -> None:
    """The keys of the environment and of the file are all in force; the environment's name wins."""
    path.write_text("alice:key-of-alice\nrobert:key-of-bob\n")
    ring = Keyring(keys_of_list("bob:key-of-bob"), path)
    assert ring.current() == {sha256(b"key-of-alice").digest(): "alice", sha256(b"key-of-bob").digest(): "bob"}


def test_a_changed_file_is_read_within_a_second(path: Path, clock: Clock) -> None:
    """A new file, or one that was written to, is in force a second later, and a key that is gone no longer is."""
    ring = Keyring({}, path, clock)
    replace(path, "bob:key-of-bob\n")
    clock.now += 1
    assert names(ring) == {"bob"}
    with path.open("a") as file:
        file.write("carol:key-of-carol\n")
    clock.now += 1
    assert names(ring) == {"bob", "carol"}


def test_a_change_of_the_same_length_is_noticed(path: Path, clock: Clock) -> None:
    """The time of the change counts, too."""
    ring = Keyring({}, path, clock)
    path.write_text("aleck:key-of-aleck"[:18] + "\n")
    os.utime(path, ns=(0, path.stat().st_mtime_ns + 1))
    clock.now += 1
    assert names(ring) == {"aleck"}


def test_the_file_is_looked_at_once_a_second(path: Path, clock: Clock) -> None:
    """Within one second nothing is looked up, however often keys are asked for."""
    ring = Keyring({}, path, clock)
    replace(path, "bob:key-of-bob\n")
    clock.now += 0.99
    assert names(ring) == {"alice"}


def test_reload_does_not_wait(path: Path, clock: Clock) -> None:
    """What SIGHUP does: the file is read at once."""
    ring = Keyring({}, path, clock)
    replace(path, "bob:key-of-bob\n")
    ring.reload()
    assert names(ring) == {"bob"}


@pytest.mark.parametrize("text", ["", "# none\n", "bob:key-of-bob\nshort\n", "b\0b:key-of-bob\n"])
def test_a_file_that_cannot_be_used_changes_nothing(
    path: Path, clock: Clock, text: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The old keys stay, and one line says so, not one per look, and without what stands in the file."""
    ring = Keyring({}, path, clock)
    replace(path, text)
    with caplog.at_level(logging.INFO):
        for _ in range(3):
            clock.now += 1
            assert names(ring) == {"alice"}
    (line,) = caplog.messages
    assert "GATEWAY_API_KEYS_FILE" in line
    assert "short" not in line
    assert "key-of" not in line


def test_a_file_that_is_gone_and_comes_back(path: Path, clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    """A lost file keeps the old keys with one line; the next file is in force."""
    ring = Keyring({}, path, clock)
    path.unlink()
    for _ in range(3):
        clock.now += 1
        assert names(ring) == {"alice"}
    assert len([record for record in caplog.records if record.levelno == logging.ERROR]) == 1
    path.write_text("bob:key-of-bob\n")
    clock.now += 1
    assert names(ring) == {"bob"}


def test_a_file_that_becomes_readable_is_read(
    path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A new file that may not be read yet, as `sudo cp` leaves it, is in force once it may, unchanged as it is."""
    ring = Keyring({}, path, clock)
    replace(path, "bob:key-of-bob\n")
    with monkeypatch.context() as patch:  # root may read whatever its mode is
        patch.setattr(type(path), "read_text", forbidden)
        for _ in range(3):
            clock.now += 1
            assert names(ring) == {"alice"}
    clock.now += 1
    assert names(ring) == {"bob"}
    assert len([record for record in caplog.records if record.levelno == logging.ERROR]) == 1


def forbidden(*_: object, **__: object) -> str:
    """What reading a file of somebody else's is like."""
    raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))


def test_a_file_that_cannot_be_read_lets_nobody_in(tmp_path: Path) -> None:
    """Keys that were asked for and cannot be had mean that no key is valid, not that none is needed."""
    ring = Keyring({}, tmp_path / "none")
    assert ring.is_on
    assert ring.current() == {}


def test_what_is_no_text_is_not_shown(path: Path) -> None:
    """The error about a file that is not UTF-8 holds no byte of it, nor does its cause."""
    path.write_bytes(b"alice:key-of-alice\n\xff\xfe")
    with pytest.raises(InvalidKeys) as caught:
        read_keys(path)
    assert str(caught.value) == "it is not UTF-8"
    assert caught.value.__cause__ is None
