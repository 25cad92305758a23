"""Logs each record in the store that is not as a gateway writes it, once."""

import logging

log = logging.getLogger("gateway.tracker")

_MOST_REPORTED = 100
_NAME_CHARACTERS = 200


class Malformed:
    """Remembers which malformed records it has logged. After 100 it stops, so that a bad store cannot fill the log."""

    def __init__(self) -> None:
        self._reported: set[str] = set()

    def report(self, name: str) -> None:
        """Logs a malformed record. `name` is its key, or its list and member."""
        if name in self._reported or len(self._reported) > _MOST_REPORTED:
            return
        self._reported.add(name)
        if len(self._reported) > _MOST_REPORTED:
            log.warning("more malformed records are in the store; further ones are not told of")
            return
        shown = ascii(name[:_NAME_CHARACTERS])  # foreign text must not control a terminal
        log.warning("malformed in the store: %s; it is left out, and replaced when it is next written", shown)
