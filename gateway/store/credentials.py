"""How the store's password gets from its file into each new connection. Part of store.

The file is read again each time, so that a password can be replaced while the gateway runs, and in a thread, since its
file system may be slow.
"""

import asyncio
from pathlib import Path

from redis.credentials import CredentialProvider
from redis.exceptions import ConnectionError as RedisConnectionError

from gateway.access.secret_files import UnusableFile, read_password

_READ_SECONDS = 1.0


class PasswordFile(CredentialProvider):
    """`user` ("": the store's default one) and the password that stands at `path` now, as redis-py asks for them."""

    def __init__(self, path: Path, user: str) -> None:
        self._path = path
        self._user = user
        self._reading: asyncio.Future[str | UnusableFile] | None = None

    async def get_credentials_async(self) -> tuple[str] | tuple[str, str]:
        """What to log in with. Raises redis-py's ConnectionError, as for a store that cannot be reached."""
        if self._reading is None or self._reading.done():  # a file system that hangs holds one thread, not many
            self._reading = asyncio.ensure_future(asyncio.to_thread(self._read))
        try:
            async with asyncio.timeout(_READ_SECONDS):
                password = await asyncio.shield(self._reading)
        except TimeoutError:
            raise _unusable("it cannot be read in time", self._path) from None
        if isinstance(password, UnusableFile):
            raise _unusable(str(password), self._path)
        return (self._user, password) if self._user else (password,)

    def _read(self) -> str | UnusableFile:
        """An error is a result here: perhaps nobody waits any more to hear of it."""
        try:
            return read_password(self._path)
        except UnusableFile as error:
            return error


def _unusable(reason: str, path: Path) -> RedisConnectionError:
    """The reason comes first: the log line may end before a long path does."""
    return RedisConnectionError(f"REDIS_PASSWORD_FILE cannot be used: {reason} ({path})")
