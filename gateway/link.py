"""What the server and the application tell the relay of a client beyond ASGI.

Filled in by server (the wire) and app (who it is), read by proxy and the routes.
"""

from collections.abc import Callable
from typing import Protocol


class FlowControl(Protocol):
    """The server's view of one client's socket."""

    write_paused: bool


class ClientLink:
    """What the server tells of a request beyond ASGI: `scope["extensions"]["gateway"]`.

    `target` is the request target on the wire; `on_lost` is called when the connection is lost before the answer
    is complete, so that no task needs to wait for that; `flow` knows whether the client reads; `reader` is whose tasks
    the client may see, None for all.
    """

    __slots__ = ("_flow", "credential", "on_lost", "owner", "sees_all", "target")

    def __init__(self, target: bytes, flow: FlowControl) -> None:
        self.target = target
        # Set where API keys are on: the key's name, whether it may see what is not its own, and the request fields
        # that carried it.
        self.owner = ""
        self.sees_all = True
        self.credential: tuple[bytes, ...] = ()
        self.on_lost: Callable[[], object] | None = None
        self._flow = flow

    @property
    def is_writable(self) -> bool:
        """Whether `send` would write at once: less than the high-water mark waits for the client."""
        return not self._flow.write_paused

    @property
    def reader(self) -> str | None:
        return None if self.sees_all else self.owner

    def lose(self) -> None:
        if self.on_lost is not None:
            self.on_lost()
