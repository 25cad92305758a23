"""The API keys in force: those of the environment, and those of a file that may change while the gateway runs.

Looks at the file at most once a second and reads it only when it has changed. A file that cannot be used leaves the
keys as they were: neither does a slip of the editor lock everybody out, nor does it let anybody in. Called by app.
"""

import logging
import time
from collections.abc import Callable
from pathlib import Path

from gateway.access import InvalidKeys, Keys, keys_of_lines

log = logging.getLogger("gateway.keys")

_LOOK_SECONDS = 1.0


class Keyring:
    """The keys of `fixed` and of the file at `path`. Where a key is in both, `fixed` names it."""

    def __init__(self, fixed: Keys, path: Path | None, clock: Callable[[], float] = time.monotonic) -> None:
        self.is_on = bool(fixed) or path is not None
        self._fixed = fixed
        self._path = path
        self._clock = clock
        self._keys = fixed
        self._seen: tuple[int, int, int] | None = None
        self._problem = ""
        self._looked_at = clock()
        self.reload()

    def current(self) -> Keys:
        """The keys as they are now."""
        if self._path is not None and (now := self._clock()) - self._looked_at >= _LOOK_SECONDS:
            self._looked_at = now
            self._look(self._path)
        return self._keys

    def reload(self) -> None:
        """Reads the file whether or not it has changed."""
        self._seen = None
        if self._path is not None:
            self._look(self._path)

    def _look(self, path: Path) -> None:
        try:
            stat = path.stat()
            seen = stat.st_mtime_ns, stat.st_size, stat.st_ino
            if seen == self._seen:
                return
            found = read_keys(path)
        except (OSError, InvalidKeys) as error:
            self._complain(error.strerror if isinstance(error, OSError) else str(error))
            return
        self._seen = seen  # not before: what could not be read may be readable later without another change
        self._keys = {**found, **self._fixed}
        self._problem = ""
        log.info("API keys in force: %d", len(self._keys))

    def _complain(self, problem: str | None) -> None:
        """Says once what is wrong with the file."""
        if problem != self._problem:
            self._problem = problem or "unreadable"
            log.error("the API keys stay as they were, GATEWAY_API_KEYS_FILE cannot be used: %s", self._problem)


def read_keys(path: Path) -> Keys:
    """The keys of a file. Raises OSError or InvalidKeys."""
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeError:
        raise InvalidKeys("it is not UTF-8") from None  # the cause would show what stands there
    return keys_of_lines(text)
