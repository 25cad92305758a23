"""Owns the promise of compose.secrets.yaml about Redis: its own start command, with real servers on this machine.

The whole stack, in containers, is in tests/container/test_secret_files.py.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import redis.asyncio
import yaml
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import AuthenticationError, RedisError

from gateway.access.secret_files import read_password
from tests.support.ports import free_port
from tests.support.process import ROOT, kill, spawn
from tests.support.servers import SERVERS
from tests.support.waiting import until

if TYPE_CHECKING:
    import subprocess
    from collections.abc import AsyncIterator

FILE = "/run/secrets/redis_password"
PASSWORDS = {
    "a line": "0123456789abcdef0123456789abcdef\n",
    "no line end": "0123456789abcdef",
    "a line of Windows": "0123456789abcdef\r\n",
    "white space around": " \t0123 456 \t\n",
    "signs of the shell and of Redis": "a\"b'c\\d$HOME `id` #%s*?[x]<>|&;\n",
    "beyond ASCII": "pässwörd-日本語\n",
}


def command_of(file: str) -> list[str]:
    """The command of the service `redis` in a compose file, as its container gets it."""
    words = yaml.safe_load((ROOT / file).read_text())["services"]["redis"]["command"]
    return [word.replace("${REDIS_MAXMEMORY:-256mb}", "256mb").replace("$$", "$") for word in words]


class Started:
    """Redis, started by the command of compose.secrets.yaml, with a file in the place of the secret."""

    def __init__(self, folder: Path, server: str, content: str | None) -> None:
        self.secret = folder / "redis_password"
        if content is not None:
            self.secret.write_text(content, newline="")
        (folder / "bin").mkdir()
        (folder / "bin" / "redis-server").symlink_to(server)
        self.port, self.log = free_port(), folder / "log"
        words = [word.replace(FILE, str(self.secret)) for word in command_of("compose.secrets.yaml")]
        words += ["--bind", "127.0.0.1", "--port", str(self.port), "--dir", str(folder)]
        self.process: subprocess.Popen[bytes] = spawn(words, self.log, {"PATH": f"{folder / 'bin'}:/usr/bin:/bin"})

    async def ask(self, *words: str, password: str | None) -> object:
        """The answer to one command on a connection of its own."""
        once = Retry(NoBackoff(), 0)
        client = redis.asyncio.Redis(port=self.port, password=password, decode_responses=True, retry=once)
        try:
            return await client.execute_command(*words)
        finally:
            await client.aclose()

    def shown(self) -> str:
        """All that others can see: the arguments and the variables of the process, and its log."""
        process = Path(f"/proc/{self.process.pid}")
        return "\n".join(file.read_text() for file in (process / "cmdline", process / "environ", self.log))

    async def _answers(self) -> bool:
        try:
            await self.ask("PING", password=None)
        except AuthenticationError:
            return True
        except (RedisError, OSError):
            return False
        raise AssertionError("it answers without a password")

    async def until_it_answers(self) -> None:
        """Wait until it demands a password."""
        await until(self._answers, 30, "Redis demands its password")


@pytest.fixture(params=sorted(SERVERS))
def server(request: pytest.FixtureRequest) -> str:
    """Each server program of this machine."""
    return SERVERS[str(request.param)]


@pytest.fixture(params=sorted(PASSWORDS))
async def started(tmp_path: Path, server: str, request: pytest.FixtureRequest) -> AsyncIterator[Started]:
    """A Redis with each content of the file."""
    started = Started(tmp_path, server, PASSWORDS[str(request.param)])
    yield started
    await kill(started.process)


async def test_gateway_and_redis_read_the_same_password(started: Started) -> None:
    """Whatever is in the file, the gateway logs in with what it reads there, and nothing else works."""
    await started.until_it_answers()
    password = read_password(started.secret)
    assert await started.ask("PING", password=password) is True
    with pytest.raises(AuthenticationError):
        await started.ask("PING", password=password + "x")
    shown = started.shown()
    assert "redis-server" in shown
    assert password not in shown


async def test_redis_is_set_up_as_without_secrets(tmp_path: Path, server: str) -> None:
    """All options of compose.yaml except the password are in force."""
    started = Started(tmp_path, server, "0123456789abcdef")
    try:
        await started.until_it_answers()
        words = command_of("compose.yaml")
        options = dict(zip(words[1::2], words[2::2], strict=True))
        assert options.pop("--requirepass") == "${REDIS_PASSWORD:-}"
        assert options.pop("--maxmemory") == "256mb"
        for name, value in options.items():
            found = await started.ask("CONFIG", "GET", name.removeprefix("--"), password="0123456789abcdef")
            assert found == {name.removeprefix("--"): value}
        found = await started.ask("CONFIG", "GET", "maxmemory", password="0123456789abcdef")
        assert found == {"maxmemory": str(256 * 2**20)}
    finally:
        await kill(started.process)


@pytest.mark.parametrize("content", ["", "\n", " \t\r\n"])
async def test_redis_does_not_start_without_a_password(tmp_path: Path, server: str, content: str) -> None:
    """An empty file stops the start with a line that names it; it never means "no password"."""
    started = Started(tmp_path, server, content)
    await until(lambda: started.process.poll() is not None, what="it ends")
    assert started.process.returncode == 1
    assert started.log.read_text() == "redis_password: the first line of the file is empty\n"


async def test_redis_does_not_start_without_the_file(tmp_path: Path, server: str) -> None:
    """A file that is not there, or that its user cannot read, stops the start too."""
    started = Started(tmp_path, server, None)
    await until(lambda: started.process.poll() is not None, what="it ends")
    assert started.process.returncode != 0
    assert "redis_password" in started.log.read_text()
