"""Says in the log, once each, what in the store is not as this gateway writes it. Used by store and documents."""

import logging

log = logging.getLogger("gateway.tracker")

_MOST_TOLD = 100
_NAME_CHARACTERS = 200


class Malformed:
    """The malformed records that were met. A store full of them does not fill the log."""

    def __init__(self) -> None:
        self._told: set[str] = set()

    def tell(self, name: str) -> None:
        """A record has not its shape: a key, or an entry of the list."""
        if name in self._told or len(self._told) > _MOST_TOLD:
            return
        self._told.add(name)
        if len(self._told) > _MOST_TOLD:
            log.warning("more malformed records are in the store; further ones are not told of")
            return
        shown = ascii(name[:_NAME_CHARACTERS])  # another's text must not drive a terminal
        log.warning("malformed in the store: %s; it is left out, and replaced when it is next written", shown)
