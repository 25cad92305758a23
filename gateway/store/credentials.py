"""Gives each new connection the store's password from its file.

The file is read for each connection, so that the password can be replaced while the gateway runs. It is read in a
thread, because its file system may be slow.
"""

import asyncio
from pathlib import Path

from redis.credentials import CredentialProvider

from gateway.access.secret_files import UnusableFile, read_password
from gateway.store.reasons import Unreachable

_READ_SECONDS = 1.0


class PasswordFile(CredentialProvider):
    """Gives redis-py `user` ("": the store's default user) and the present password in the file at `path`.

    `setting` is the name of the setting, for errors.
    """

    def __init__(self, path: Path, user: str, setting: str = "REDIS_PASSWORD_FILE") -> None:
        self._path = path
        self._user = user
        self._setting = setting
        self._reading: asyncio.Future[str | UnusableFile] | None = None

    async def get_credentials_async(self) -> tuple[str] | tuple[str, str]:
        """(password) or (user, password). Raises Unreachable, as for a store that cannot be reached."""
        if self._reading is None or self._reading.done():  # a file system that hangs blocks one thread, not many
            self._reading = asyncio.ensure_future(asyncio.to_thread(self._read))
        try:
            async with asyncio.timeout(_READ_SECONDS):
                password = await asyncio.shield(self._reading)
        except TimeoutError:
            raise self._unusable("it cannot be read in time") from None
        if isinstance(password, UnusableFile):
            raise self._unusable(str(password))
        return (self._user, password) if self._user else (password,)

    def _read(self) -> str | UnusableFile:
        """Returns an error instead of raising it: after a timeout asyncio would log it as an unseen exception."""
        try:
            return read_password(self._path)
        except UnusableFile as error:
            return error

    def _unusable(self, reason: str) -> Unreachable:
        """The reason comes before the path, because the log line cuts long texts."""
        return Unreachable(f"{self._setting} cannot be used: {reason} ({self._path})")
