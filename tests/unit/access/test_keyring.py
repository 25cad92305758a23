"""The API keys in force while their file changes: read again when it does, kept as they were when it cannot be used."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import threading
from contextlib import asynccontextmanager
from hashlib import sha256
from typing import TYPE_CHECKING

import pytest

from gateway.access import keyring
from gateway.access.keyring import Keyring
from gateway.access.keys import keys_of_list
from tests.support.waiting import until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from gateway.access.keys import Keys


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A file with one key."""
    path = tmp_path / "keys"
    path.write_text("alice:key-of-alice\n")
    return path


def names(ring: Keyring) -> set[str]:
    """The names of the keys in force."""
    return set(ring.current().values())


def rewrite(path: Path, text: str) -> None:
    """Other text of the same length in the same file, so that the file looks unchanged."""
    seen = path.stat()
    path.write_text(text)
    os.utime(path, ns=(seen.st_atime_ns, seen.st_mtime_ns))


def looked(ring: Keyring) -> set[str]:
    """The names of the keys in force after another check of the file."""
    ring.look()
    return names(ring)


@asynccontextmanager
async def running(ring: Keyring) -> AsyncIterator[None]:
    """The keyring as it is while the gateway serves."""
    looking = asyncio.create_task(ring.run())
    yield
    assert not looking.done()
    looking.cancel()
    await asyncio.wait([looking])


def replace(path: Path, text: str) -> None:
    """Replaces the file by another, as editors and secret stores do."""
    other = path.with_name("other")
    other.write_text(text)
    other.replace(path)


def test_without_keys_it_is_off(path: Path) -> None:
    """Keys are on if either source is given."""
    assert not Keyring({}, None).is_on
    assert Keyring(keys_of_list("key-of-bob"), None).is_on
    assert Keyring({}, path).is_on


def test_both_sources_count(path: Path) -> None:
    """The keys of the environment and of the file are all in force; the environment's name wins."""
    path.write_text("alice:key-of-alice\nrobert:key-of-bob\n")
    ring = Keyring(keys_of_list("bob:key-of-bob"), path)
    assert ring.current() == {sha256(b"key-of-alice").digest(): "alice", sha256(b"key-of-bob").digest(): "bob"}


def test_a_changed_file_is_read(path: Path) -> None:
    """A new or changed file is in force after the next check; a removed key no longer is."""
    ring = Keyring({}, path)
    replace(path, "bob:key-of-bob\n")
    assert looked(ring) == {"bob"}
    with path.open("a") as file:
        file.write("carol:key-of-carol\n")
    assert looked(ring) == {"bob", "carol"}


def test_a_change_of_the_same_length_is_noticed(path: Path) -> None:
    """A changed modification time is enough."""
    ring = Keyring({}, path)
    path.write_text("aleck:key-of-aleck"[:18] + "\n")
    os.utime(path, ns=(0, path.stat().st_mtime_ns + 1))
    assert looked(ring) == {"aleck"}


def test_who_asks_for_the_keys_touches_no_file(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A request uses the keys as of the last check: it never waits for a file system."""
    ring = Keyring({}, path)
    replace(path, "bob:key-of-bob\n")
    monkeypatch.setattr(keyring, "read_keys", forbidden)
    monkeypatch.setattr(type(path), "stat", forbidden)
    assert names(ring) == {"alice"}


async def test_the_file_is_looked_at_while_nobody_asks(path: Path) -> None:
    """A removed key is soon out of force, whether or not there are requests."""
    ring = Keyring({}, path)
    async with running(ring):
        for name in ("bob", "carol"):
            replace(path, f"{name}:key-of-{name}\n")
            await until(lambda name=name: names(ring) == {name}, 10, "the new file is in force")  # type: ignore[misc]


async def test_reload_reads_what_seems_unchanged(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SIGHUP reads the file at once, whether or not it looks changed."""
    ring = Keyring({}, path)
    monkeypatch.setattr(keyring, "_LOOK_SECONDS", 3600)
    rewrite(path, "aleck:key-of-aleck"[:18] + "\n")
    assert looked(ring) == {"alice"}
    async with running(ring):
        ring.reload()
        await until(lambda: names(ring) == {"aleck"}, 10, "it is read")


async def test_a_slow_file_system_delays_nothing_else(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While a read hangs, the loop runs and the keys stay; when it ends, the new keys are in force."""
    ring, began, going_on = Keyring({}, path), threading.Event(), threading.Event()

    def slow(_: Path) -> Keys:
        began.set()
        assert going_on.wait(30)
        return keys_of_list("bob:key-of-bob")

    monkeypatch.setattr(keyring, "read_keys", slow)
    async with running(ring):
        ring.reload()
        await until(began.is_set, 10, "it is being read")
        assert names(ring) == {"alice"}
        going_on.set()
        await until(lambda: names(ring) == {"bob"}, 10, "it has been read")


async def test_a_look_without_a_thread_is_made_later(
    path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """If the system has no thread left for a check, that is logged, and the next check still runs."""
    ring = Keyring({}, path)
    with monkeypatch.context() as patch:
        patch.setattr(asyncio, "to_thread", no_thread)
        async with running(ring):
            ring.reload()
            await until(lambda: "can't start new thread" in caplog.text, 10, "it is told")
            patch.undo()
            replace(path, "bob:key-of-bob\n")
            ring.reload()
            await until(lambda: names(ring) == {"bob"}, 10, "the next look is made")


async def no_thread(*_: object) -> None:
    """Behaves as a system without threads left."""
    raise RuntimeError("can't start new thread")


@pytest.mark.parametrize(
    "text", ["", "# none\n", "bob:key-of-bob\nshort\n", "b\0b:key-of-bob\n", "bob:key-of-bob\n" + "#" * (1 << 20)]
)
def test_a_file_that_cannot_be_used_changes_nothing(path: Path, text: str, caplog: pytest.LogCaptureFixture) -> None:
    """The old keys stay; one log line says so, not one per check, and it does not show the file's text."""
    ring = Keyring({}, path)
    replace(path, text)
    with caplog.at_level(logging.INFO):
        for _ in range(3):
            assert looked(ring) == {"alice"}
    (line,) = caplog.messages
    assert "GATEWAY_API_KEYS_FILE" in line
    assert "short" not in line
    assert "key-of" not in line


def test_a_file_that_is_gone_and_comes_back(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """If the file is removed, the old keys stay; one line says so and how to revoke a key. A new file is in force."""
    ring = Keyring({}, path)
    path.unlink()
    for _ in range(3):
        assert looked(ring) == {"alice"}
    (line,) = [record.message for record in caplog.records if record.levelno == logging.ERROR]
    assert "the API keys stay as they were" in line
    assert "No such file or directory" in line
    assert "to revoke a key, put a file without it there" in line
    path.write_text("bob:key-of-bob\n")
    assert looked(ring) == {"bob"}


def test_a_file_that_becomes_readable_is_read(
    path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A file that becomes readable without another change, as after `sudo cp` and `chown`, is then in force."""
    ring = Keyring({}, path)
    replace(path, "bob:key-of-bob\n")
    with monkeypatch.context() as patch:  # root may read whatever its mode is
        patch.setattr(os, "open", forbidden)
        for _ in range(3):
            assert looked(ring) == {"alice"}
    assert looked(ring) == {"bob"}
    assert len([record for record in caplog.records if record.levelno == logging.ERROR]) == 1


def forbidden(*_: object, **__: object) -> str:
    """Reading fails, as for a file of another user."""
    raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))


def test_a_file_that_cannot_be_read_lets_nobody_in(tmp_path: Path) -> None:
    """If keys are configured and cannot be read, no key is valid; it does not mean that no key is needed."""
    ring = Keyring({}, tmp_path / "none")
    assert ring.is_on
    assert ring.current() == {}


def test_a_fifo_in_the_files_place_changes_nothing(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A file that never ends is not waited for: the keys stay, one line says why, and its replacement is read."""
    ring = Keyring({}, path)
    path.unlink()
    os.mkfifo(path)
    for _ in range(3):
        assert looked(ring) == {"alice"}
    (line,) = [record.message for record in caplog.records if record.levelno == logging.ERROR]
    assert "it is not a regular file" in line
    replace(path, "bob:key-of-bob\n")
    assert looked(ring) == {"bob"}


def test_a_byte_order_mark_is_no_part_of_a_key(path: Path) -> None:
    """A file from a Windows editor has the keys that the editor shows."""
    path.write_bytes(b"\xef\xbb\xbfalice:key-of-alice\r\nbob:key-of-bob\r\n")
    ring = Keyring({}, path)
    assert ring.current() == {sha256(b"key-of-alice").digest(): "alice", sha256(b"key-of-bob").digest(): "bob"}
