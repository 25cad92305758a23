"""The store's password comes from its file: read for each connection, and never waited for without an end."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING

import pytest
from redis.exceptions import ConnectionError as RedisConnectionError

from gateway.store import credentials
from gateway.store.credentials import PasswordFile
from tests.support.waiting import until, within

if TYPE_CHECKING:
    from pathlib import Path


async def test_each_connection_gets_what_the_file_holds_then(tmp_path: Path) -> None:
    """The file is read for each request; without a user the store's default user logs in."""
    path = tmp_path / "password"
    source, named = PasswordFile(path, ""), PasswordFile(path, "me")
    for password in ("first", "second"):
        path.write_text(password + "\n")
        assert await source.get_credentials_async() == (password,)
        assert await named.get_credentials_async() == ("me", password)


async def test_a_file_that_cannot_be_used_is_no_connection(tmp_path: Path) -> None:
    """The store treats the error like a server that is away; the reason comes before the path."""
    path = tmp_path / "password"
    with pytest.raises(RedisConnectionError) as caught:
        await PasswordFile(path, "").get_credentials_async()
    assert str(caught.value) == f"REDIS_PASSWORD_FILE cannot be used: No such file or directory ({path})"


async def test_a_file_system_that_hangs_holds_one_thread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each caller gets an error in time; only one read is under way, and its result then serves later callers."""
    reads: list[Path] = []
    going_on = threading.Event()

    def slow(path: Path) -> str:
        reads.append(path)
        assert going_on.wait(30)
        return "late"

    monkeypatch.setattr(credentials, "read_password", slow)
    monkeypatch.setattr(credentials, "_READ_SECONDS", 0.05)
    source = PasswordFile(tmp_path, "")
    for _ in range(5):
        with pytest.raises(RedisConnectionError, match="it cannot be read in time"):
            await within(10, source.get_credentials_async())
    assert len(reads) == 1
    monkeypatch.setattr(credentials, "_READ_SECONDS", 30)
    answer = asyncio.ensure_future(source.get_credentials_async())
    going_on.set()
    await until(answer.done, 10)
    assert await answer == ("late",)
