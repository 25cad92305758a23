"""How a client's connection closes: its phases, the reasons to close it, and what each reason does to the socket.

Owns the phase and the time after the last answer. Knows sockets and transports, but no HTTP.
"""

import asyncio
import socket
import struct
from enum import Enum

from gateway.http import limits
from gateway.net.deadline import Deadline

_RESET_AT_CLOSE = struct.pack("ii", 1, 0)  # SO_LINGER, on, for no time
_ESTABLISHED = 1  # the first byte of Linux's tcp_info


class Phase(Enum):
    """What the connection does now."""

    OPEN = "open"  # it reads requests and answers them
    STOPPING = "stopping"  # the same, but the server stops: it closes after the requests that it has read
    LINGERING = "lingering"  # our side is closed; what the client still sends is dropped
    FLUSHING = "flushing"  # it is closed once what was written is sent
    CLOSED = "closed"


# Python 3.11 takes 60 ns to find `Phase.OPEN`, and 5 to find a name of a module. A request uses sixty.
OPEN, STOPPING, LINGERING, FLUSHING, CLOSED = Phase

_MOVES: dict[Phase, tuple[Phase, ...]] = {
    OPEN: (STOPPING, LINGERING, FLUSHING, CLOSED),
    STOPPING: (FLUSHING, CLOSED),
    LINGERING: (CLOSED,),
    FLUSHING: (CLOSED,),
    CLOSED: (),
}


class Way(Enum):
    """What closing does to the socket."""

    LINGER = "linger"  # send all, then a FIN, and drop what the client sends for a while
    FINISH = "finish"  # as LINGER if the client is still sending, else as FLUSH
    FLUSH = "flush"  # send all, then close
    ABORT = "abort"  # close now
    RESET = "reset"  # close now with a RST: the client must not take the end of the connection for the answer's end


class Reason(Enum):
    """Why a connection closes."""

    ANSWERED = "the last answer is complete"
    BROKEN_OFF = "an answer cannot be completed"
    TRUNCATED = "an answer without any framing cannot be completed"
    REFUSED = "the request is malformed or too large"
    REFUSED_BEHIND = "a malformed request follows one that is being answered"
    LATE = "the request did not come in time"
    TURNED_AWAY = "too many connections are open"
    OVERCROWDED = "too many connections are open even to say so"
    STOPPED = "the server stops"
    STOPPED_WAITING = "the server stops and does not wait for this client"
    IDLE = "no request came"
    LEFT = "the client has closed its side"
    STALLED = "the client reads nothing"
    LINGERED = "the client has sent enough, or has been silent for long enough, after the last answer"


_WAYS: dict[Reason, Way] = {
    Reason.ANSWERED: Way.FINISH,
    Reason.BROKEN_OFF: Way.FINISH,
    Reason.TRUNCATED: Way.RESET,
    Reason.REFUSED: Way.LINGER,
    Reason.REFUSED_BEHIND: Way.ABORT,
    Reason.LATE: Way.FLUSH,
    Reason.TURNED_AWAY: Way.LINGER,
    Reason.OVERCROWDED: Way.ABORT,
    Reason.STOPPED: Way.FLUSH,
    Reason.STOPPED_WAITING: Way.ABORT,
    Reason.IDLE: Way.ABORT,
    Reason.LEFT: Way.ABORT,
    Reason.STALLED: Way.ABORT,
    Reason.LINGERED: Way.ABORT,
}


class Lifecycle:
    """The phase of one connection. `deadline` is the connection's; its owner calls `on_silence` while it lingers."""

    __slots__ = ("_deadline", "_dropped_bytes", "_linger_until", "_loop", "_transport", "phase")

    def __init__(self, loop: asyncio.AbstractEventLoop, transport: asyncio.Transport, deadline: Deadline) -> None:
        self.phase = OPEN
        self._loop = loop
        self._transport = transport
        self._deadline = deadline
        self._linger_until = 0.0  # by the loop's clock
        self._dropped_bytes = 0

    def __repr__(self) -> str:
        return f"<Lifecycle {self.phase.value}>"

    @property
    def is_closing(self) -> bool:
        """Whether nothing more is answered. A transport also closes by itself, at a FIN or an error of the socket."""
        return self.phase not in (OPEN, STOPPING) or self._transport.is_closing()

    def stop(self) -> None:
        """The server stops: from now on the connection closes without lingering."""
        self._move(STOPPING)

    def close(self, reason: Reason, *, is_sending: bool) -> None:
        """Closes the connection, the one way to do so. `is_sending`: more of a request is to come from the client.

        Does nothing if the connection is closing already, but an abort or a reset ends a gentle close.
        """
        if self.phase is CLOSED:
            return
        way = self._way(reason, is_sending=is_sending)
        if way is Way.RESET:
            client: socket.socket = self._transport.get_extra_info("socket")
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_AT_CLOSE)
        if way in (Way.ABORT, Way.RESET):
            self._move(CLOSED)
            self._transport.abort()
        elif not self.is_closing:
            if way is Way.LINGER:
                self._linger()
            else:
                self._flush()

    def lost(self) -> None:
        """The transport is closed."""
        self._move(CLOSED)

    def _way(self, reason: Reason, *, is_sending: bool) -> Way:
        way = _WAYS[reason]
        if way is Way.FINISH:
            way = Way.LINGER if is_sending else Way.FLUSH
        return Way.FLUSH if way is Way.LINGER and self.phase is STOPPING else way

    def _move(self, phase: Phase) -> None:
        """Changes the phase if the table allows that; a phase never goes back."""
        if phase in _MOVES[self.phase]:
            self.phase = phase

    def _flush(self) -> None:
        self._move(FLUSHING)
        self._deadline.move(limits.LINGER_SECONDS)
        self._transport.close()

    # -- lingering --
    #
    # If a socket is closed while its client sends, the kernel resets the connection, and the client loses our answer.
    # So only our direction is closed at first (RFC 9112 section 9.6).

    def _linger(self) -> None:
        self._move(LINGERING)
        self._linger_until = self._loop.time() + limits.LINGER_SECONDS
        self._transport.write_eof()
        self._transport.resume_reading()
        self._deadline.move(limits.LINGER_IDLE_SECONDS)

    def on_dropped(self, size: int) -> bool:
        """`size` bytes more came and were dropped. False if that is enough."""
        self._dropped_bytes += size
        self._deadline.move(limits.LINGER_IDLE_SECONDS)
        return self._dropped_bytes <= limits.LINGER_BYTES and not self._is_linger_over()

    def on_silence(self) -> bool:
        """The client was silent for the time allowed. False if that is enough: our answer has been sent."""
        if not self._transport.get_write_buffer_size() or self._is_linger_over():
            return False
        self._deadline.move(limits.LINGER_IDLE_SECONDS)
        return True

    def _is_linger_over(self) -> bool:
        return self._loop.time() > self._linger_until


def has_left(client: socket.socket) -> bool:
    """Whether the client has closed its side or reset the connection, even if unread bytes of it wait before that."""
    return client.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] != _ESTABLISHED
