"""The API keys in force: those of the environment, and those of a file that may change while the gateway runs.

Checks the file once a second, in a thread, and reads it only if it has changed. If the file cannot be used, the keys
stay as they were. So an editing mistake neither locks out all clients nor lets in clients without a key.
"""

import asyncio
import logging
from contextlib import suppress
from pathlib import Path

from gateway.access.keys import InvalidKeys, Keys
from gateway.access.secret_files import UnusableFile, read_keys

log = logging.getLogger("gateway.keys")

_LOOK_SECONDS = 1.0


class Keyring:
    """The keys of `fixed` and of the file at `path`. If a key is in both, it has its name from `fixed`."""

    def __init__(self, fixed: Keys, path: Path | None) -> None:
        self.is_on = bool(fixed) or path is not None
        self._fixed = fixed
        self._path = path
        self._keys = fixed
        self._seen: tuple[int, int, int] | None = None
        self._problem = ""
        self._reload = asyncio.Event()
        self.look()

    def current(self) -> Keys:
        """The keys as of the last check."""
        return self._keys

    def reload(self) -> None:
        """Makes `run` read the file at once, whether or not it has changed."""
        self._reload.set()

    async def run(self) -> None:
        """Checks the file as long as the gateway serves. A slow file system delays the next check, but no request."""
        while self._path is not None:
            with suppress(TimeoutError):
                async with asyncio.timeout(_LOOK_SECONDS):
                    await self._reload.wait()
            if self._reload.is_set():
                self._reload.clear()
                self._seen = None
            try:
                await asyncio.to_thread(self.look)
            except RuntimeError as error:  # no thread can be started; the next check may succeed
                self._complain(str(error))

    def look(self) -> None:
        """Reads the file's keys if the file has changed since the last good read. Logs errors, raises none."""
        if self._path is None:
            return
        try:
            found = self._path.stat()
            seen = found.st_mtime_ns, found.st_size, found.st_ino
            if seen == self._seen:
                return
            keys = read_keys(self._path)
        except OSError as error:
            self._complain(error.strerror or type(error).__name__)
        except (InvalidKeys, UnusableFile) as error:
            self._complain(str(error))
        else:
            self._seen = seen  # only now: a file that failed may become readable without another change
            self._keys = {**keys, **self._fixed}
            self._problem = ""
            log.info("API keys in force: %d", len(self._keys))

    def _complain(self, problem: str) -> None:
        """Logs a new problem with the file, and each problem once. A removed file is a problem, too."""
        if problem != self._problem:
            self._problem = problem
            log.error(
                "the API keys stay as they were, GATEWAY_API_KEYS_FILE cannot be used: %s"
                " (to revoke a key, put a file without it there)",
                problem,
            )
