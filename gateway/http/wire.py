"""What stands on both sides of a request: the connection that it came on, and what answers it.

Protocols alone, and the connection of a request whose client has left.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from gateway.http.request import Request


class Answerer(Protocol):
    """What answers one request. Each call only says that something is new. None may raise."""

    def on_request(self) -> None:
        """More of the request's body has come, or the request is complete."""

    def on_writable(self) -> None:
        """The client reads again, after it did not."""

    def on_left(self) -> None:
        """The client has left before its answer was complete."""


class Wire(Protocol):
    """What a request needs of its connection.

    `send` sends bytes, or drops them if the connection is closing. It is the transport's own method, and so costs no
    Python call: a piece of a stream costs five of them (tests/integration/test_cost.py), and would cost six.
    """

    is_writable: bool  # the client reads: less than the high-water mark waits to be sent
    is_read_paused: bool  # too much waits in memory
    send: Callable[[bytes], None]

    def hold_reading(self) -> None:
        """Pauses or resumes reading, by what waits in memory."""

    def give_time(self) -> None:
        """The client may send on only now, so its time for that begins."""

    def finish(self, request: "Request") -> None:
        """The answer is complete."""

    def look_for_client(self) -> None:
        """Looks whether the client has left, and tells the answerers if it has."""

    def break_off(self, *, is_reset: bool) -> None:
        """The answer will not be completed. `is_reset`: a plain close would look like its end."""


def _drop(data: bytes) -> None:
    """Sends nothing."""


class _Nowhere:
    """The wire of a request whose client has left."""

    def __init__(self) -> None:
        self.is_writable = True
        self.is_read_paused = False
        self.send: Callable[[bytes], None] = _drop

    def hold_reading(self) -> None:
        """Nothing is read."""

    def give_time(self) -> None:
        """Nothing is waited for."""

    def finish(self, request: "Request") -> None:
        """Nothing follows."""

    def look_for_client(self) -> None:
        """It has left."""

    def break_off(self, *, is_reset: bool) -> None:
        """Nothing is open."""


NOWHERE: Wire = _Nowhere()
