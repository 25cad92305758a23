"""One connection to Ollama: its state, its flow control, and whether another exchange may follow.

Carries one exchange at a time. It knows nothing of tasks or clients; `response` reads the messages. It turns errors of
the system into `UpstreamFailure`.
"""

import asyncio
import select
import socket
from enum import StrEnum
from typing import Protocol, cast

from gateway.errors import UpstreamBroken, UpstreamFailure, UpstreamTimeout
from gateway.net.deadline import Deadline
from gateway.net.vanished import PeerWatch, keep_alive
from gateway.upstream.response import Body, Head

# uvloop reads up to 256,000 bytes at once. Together with what waits here before reading pauses, and with the limit of
# the client's write buffer, a stream holds 256 KiB at most (docs/behaviour.md, "Relay: responses").
_HIGH_WATER_BYTES = 2048
# A lost connection: the size of one read from its socket, and the limit of what is held of it.
_REST_BYTES = 131_072


class ConnectionState(StrEnum):
    """Where a connection stands."""

    IDLE = "idle"  # no exchange: the connection is new, or waits in the pool
    HEAD = "head"  # an exchange has begun; the head of its answer is not whole
    BODY = "body"  # the head is whole; the listener pulls the body
    FLOWING = "flowing"  # the listener is given each piece of the body as it comes
    COMPLETE = "complete"  # the answer is whole
    BROKEN = "broken"  # closed; `failure` says why


# Python 3.11 takes 60 ns to find `ConnectionState.BODY`, and 5 to find a name of a module. A request uses sixty.
IDLE, HEAD, BODY, FLOWING, COMPLETE, BROKEN = ConnectionState

MOVES: dict[ConnectionState, frozenset[ConnectionState]] = {
    IDLE: frozenset({HEAD, BROKEN}),
    HEAD: frozenset({BODY, BROKEN}),
    BODY: frozenset({FLOWING, COMPLETE, BROKEN}),
    FLOWING: frozenset({COMPLETE, BROKEN}),
    COMPLETE: frozenset({IDLE, BROKEN}),
    BROKEN: frozenset(),
}
_UNDER_WAY = frozenset({HEAD, BODY, FLOWING})
_IN_BODY = frozenset({BODY, FLOWING})


class Listener(Protocol):
    """The other end of an exchange. No call may raise."""

    def on_answer(self) -> None:
        """More of the answer is here, or the answer is complete, or it broke off."""

    def on_taken(self) -> None:
        """The upstream takes more of the request again."""

    def on_piece(self, piece: bytes, /) -> bool:
        """Takes a piece of the body that is FLOWING. False if the piece has to wait: then it is pulled."""


class Connection(asyncio.Protocol):
    """One connection to the upstream.

    `begin` starts an exchange and `send` writes its request. The listener pulls the answer: `head` once it has a
    status, the body by `take`, until the state is COMPLETE or BROKEN. After `flow` it is given each piece instead; a
    piece that it does not accept waits for `take`, and so does all that follows. `abort` may be called in any state.
    """

    __slots__ = (
        "_idle_timeout_seconds", "_is_read_paused", "_listener", "_peers", "_silence", "_socket", "_transport",
        "failure", "head", "is_request_sent", "is_reused", "is_write_paused", "state", "waiting",
    )  # fmt: skip

    def __init__(self, idle_timeout_seconds: float, peers: PeerWatch | None = None) -> None:
        # connection
        self.state = IDLE
        self.failure: UpstreamFailure | None = None
        self.is_reused = False
        self._transport: asyncio.Transport | None = None
        self._socket = select.poll()
        self._peers = peers or PeerWatch()
        self._silence = Deadline(asyncio.get_running_loop(), self._check_silence)
        self._idle_timeout_seconds = idle_timeout_seconds
        # request
        self.is_request_sent = False
        self.is_write_paused = False
        # answer
        self._listener: Listener | None = None
        self.head: Head | None = None
        self.waiting = b""  # of the body
        self._is_read_paused = False

    def __repr__(self) -> str:
        return f"<Connection {self.state}, {len(self.waiting)} bytes waiting>"

    def _move(self, state: ConnectionState) -> None:
        if state not in MOVES[self.state]:
            raise RuntimeError(f"a connection that is {self.state} cannot become {state}")
        self.state = state

    @property
    def is_open(self) -> bool:
        return self._transport is not None and not self._transport.is_closing()

    @property
    def is_quiet(self) -> bool:
        """Whether it is open, and its socket holds no byte and no end: those would be taken for the next answer."""
        return self._transport is not None and not self._transport.is_closing() and not self._socket.poll(0)

    @property
    def has_received(self) -> bool:
        """Whether a byte of the answer has come."""
        return self.head is not None and self.head.has_begun

    @property
    def is_reusable(self) -> bool:
        """Whether another exchange may follow: this one ended well, and nothing of it is left."""
        head, transport = self.head, self._transport
        if self.state is not COMPLETE or self.waiting or not self.is_request_sent:
            return False
        return head is not None and head.leaves_usable and transport is not None and not transport.is_closing()

    # -- an exchange begins, and its request goes out --

    def begin(self, method: str, listener: Listener) -> None:
        """Starts an exchange with a request of `method`."""
        self._move(HEAD)
        self.is_request_sent = False
        self._listener = listener
        self.head = Head(method)

    def send(self, data: bytes, *, is_last: bool) -> None:
        """Writes a part of the request; `is_last` says that nothing follows."""
        self.is_request_sent = is_last
        if self._idle_timeout_seconds:
            self._hear()
        if data and self._transport is not None and not self._transport.is_closing():
            self._transport.write(data)

    def pause_writing(self) -> None:
        self.is_write_paused = True

    def resume_writing(self) -> None:
        self.is_write_paused = False
        if self._listener is not None:
            self._listener.on_taken()

    # -- its answer comes in --

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        sock = transport.get_extra_info("socket")
        keep_alive(sock)
        self._socket.register(sock, select.POLLIN)
        self._peers.add(asyncio.get_running_loop(), self._transport, self._vanish)

    def data_received(self, data: bytes) -> None:
        head, listener = self.head, self._listener
        if head is None or listener is None:
            self.abort(UpstreamBroken("Ollama sent what was not asked for"))
            return
        if self._idle_timeout_seconds:
            self._hear()
        if (body := head.body) is None:
            data = self._read_head(head, data)
            if (body := head.body) is None:
                return
        piece = body.feed(data)
        if piece and (self.state is not FLOWING or self.waiting or not listener.on_piece(piece)):
            self.waiting += piece
        if body.is_over:
            self._end_body(head, body)
        if self.waiting or self.state is not FLOWING:
            if self._listener is not None:
                self._listener.on_answer()
            if len(self.waiting) > _HIGH_WATER_BYTES:
                self._pause_reading()

    def _read_head(self, head: Head, data: bytes) -> bytes:
        """Returns what follows the head."""
        try:
            data = head.feed(data)
            if head.body is not None:
                self._move(BODY)
        except UpstreamBroken as failure:
            self._fail(failure)
        return data

    def _end_body(self, head: Head, body: Body) -> None:
        """Bytes behind the end of a message do not harm that message; the connection is not used again."""
        if body.has_excess:
            head.leaves_usable = False
        if body.broken:
            self._fail(UpstreamBroken(body.broken))
        elif self.state in _IN_BODY:
            self._move(COMPLETE)

    def _pause_reading(self) -> None:
        if not self._is_read_paused and self.is_open:
            self._is_read_paused = True
            cast("asyncio.Transport", self._transport).pause_reading()

    def flow(self) -> None:
        """From now on the listener is given each piece as it comes."""
        if self.state is BODY:
            self._move(FLOWING)

    def take(self) -> bytes:
        """What waits of the body, b"" for nothing."""
        piece, self.waiting = self.waiting, b""
        if piece and self._is_read_paused:
            self._read_on()
        return piece

    def _read_on(self) -> None:
        self._is_read_paused = False
        if self._idle_timeout_seconds:
            self._hear()  # the upstream could not be heard while reading was paused
        if self.is_open:
            cast("asyncio.Transport", self._transport).resume_reading()

    # -- it ends --

    def leave(self) -> bool:
        """Ends an exchange. False if no other one may follow: then nothing has changed."""
        if not self.is_reusable:
            return False
        self._move(IDLE)
        self.is_reused = True
        self._listener = self.head = None
        if self._idle_timeout_seconds:
            self._silence.off()
        return True

    def abort(self, failure: UpstreamFailure) -> None:
        """Closes the connection at once, which makes Ollama stop. Drops what waits, and does not tell the listener."""
        if self.head is not None:
            self.head.close()
        self._listener = self.head = None
        self.waiting = b""
        if self.state is COMPLETE:
            self._move(BROKEN)
            self.failure = failure
        self._fail(failure)

    def eof_received(self) -> None:
        """A clean end completes a body that only the end delimits. It cuts off any other message."""
        body = None if self.head is None else self.head.body
        if self.state in _IN_BODY and body is not None and body.is_whole_at_end():
            self._move(COMPLETE)
            if self._listener is not None:
                self._listener.on_answer()

    def connection_lost(self, exc: Exception | None) -> None:
        if exc is not None:
            self._read_rest()
        self._silence.end()
        self._peers.discard(cast("asyncio.Transport", self._transport))
        if self.head is not None:
            self.head.close()
        self._fail(UpstreamBroken("Ollama reset the connection" if exc else "Ollama closed the connection"))

    def _read_rest(self) -> None:
        """Reads what is left in the socket after a write has failed.

        An upstream may answer early and close, while a part of the request is unread. Then TCP resets, and a write can
        fail before the answer was read (RFC 9112 section 9.6). The kind of end is unknown, so it completes no body.
        """
        of_transport = cast("asyncio.Transport", self._transport).get_extra_info("socket")
        rest = socket.socket(of_transport.family, of_transport.type, of_transport.proto, of_transport.fileno())
        try:
            while self.state in _UNDER_WAY and len(self.waiting) < _REST_BYTES:
                if not (data := rest.recv(_REST_BYTES, socket.MSG_DONTWAIT)):
                    break
                self.data_received(data)
        except OSError:
            pass  # the socket is empty
        finally:
            rest.detach()  # the transport closes it

    def _vanish(self) -> None:
        self._fail(UpstreamBroken("Ollama's machine no longer answers"))

    def _fail(self, failure: UpstreamFailure) -> None:
        """Closes the connection. An answer under way breaks off; what has come of it can still be taken."""
        if self._transport is not None:
            self._transport.abort()
        if self.state not in (COMPLETE, BROKEN):
            self._move(BROKEN)
            self.failure = failure
            if self._listener is not None:
                self._listener.on_answer()

    # -- the limit of silence --

    def _hear(self) -> None:
        self._silence.move(self._idle_timeout_seconds)

    def _check_silence(self) -> None:
        """Silence is the upstream's fault only if it has the whole request or takes no more, and we read."""
        if self.state not in _UNDER_WAY:
            return
        if (self.is_request_sent or self.is_write_paused) and not (self._is_read_paused or self.waiting):
            self._fail(UpstreamTimeout(f"Ollama was silent for {self._idle_timeout_seconds:g} seconds"))
        else:
            self._hear()
