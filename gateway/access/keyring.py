"""The API keys in force: those of the environment, and those of a file that may change while the gateway runs.

Looks at the file once a second, in a thread, and reads it only when it has changed. A file that cannot be used leaves
the keys as they were: neither does a slip of the editor lock everybody out, nor does it let anybody in. Called by app.
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
    """The keys of `fixed` and of the file at `path`. Where a key is in both, `fixed` names it."""

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
        """The keys as they were at the last look."""
        return self._keys

    def reload(self) -> None:
        """Has the file read at once, whether or not it has changed."""
        self._reload.set()

    async def run(self) -> None:
        """Looks at the file as long as the gateway serves. A slow file system delays the next look, no request."""
        while self._path is not None:
            with suppress(TimeoutError):
                async with asyncio.timeout(_LOOK_SECONDS):
                    await self._reload.wait()
            if self._reload.is_set():
                self._reload.clear()
                self._seen = None
            try:
                await asyncio.to_thread(self.look)
            except RuntimeError as error:  # no thread can be started: the next look may have one
                self._complain(str(error))

    def look(self) -> None:
        """Takes the keys of the file, if it has changed since."""
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
            self._seen = seen  # not before: what could not be read may be readable later without another change
            self._keys = {**keys, **self._fixed}
            self._problem = ""
            log.info("API keys in force: %d", len(self._keys))

    def _complain(self, problem: str) -> None:
        """Says once what is wrong with the file. One that was removed is such a problem, too."""
        if problem != self._problem:
            self._problem = problem
            log.error(
                "the API keys stay as they were, GATEWAY_API_KEYS_FILE cannot be used: %s"
                " (to revoke a key, put a file without it there)",
                problem,
            )
