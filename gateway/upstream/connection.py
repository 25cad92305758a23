"""One connection to Ollama: an exchange at a time, its flow control, and whether another may follow it.

Knows nothing of tasks or clients, and of messages what response tells. Errors of the system become
errors.UpstreamFailure here. Made by upstream, whose pool it goes back to; used by proxy.
"""

import asyncio
import select
import socket
from collections.abc import Callable
from typing import Protocol, cast

from gateway.errors import UpstreamBroken, UpstreamFailure, UpstreamTimeout
from gateway.http.headers import Fields
from gateway.net.deadline import Deadline
from gateway.net.vanished import PeerWatch, keep_alive
from gateway.upstream.response import Body, Head

# uvloop reads up to 256,000 bytes at once. With what may wait here before reading pauses, and in the client's write
# buffer (server has that limit), a stream holds 256 KiB at the most (contract 3.3).
_HIGH_WATER_BYTES = 2048
# What is read at once, and held, of a connection that is lost.
_REST_BYTES = 131_072


class Listener(Protocol):
    """Who is told of an exchange. Each call only says that there is something new; none may raise."""

    def on_answer(self) -> None:
        """More of the answer is here, or it is complete, or it has broken off."""

    def on_taken(self) -> None:
        """The upstream takes again what it could not take before."""


class Connection(asyncio.Protocol):
    """One connection to the upstream; carries one exchange at a time.

    `send` writes the request. The answer is pulled as it comes: `status` and `fields` once there is a status, `take`
    for the body, `is_complete` at its end, `failure` where it broke off. `abort` ends it from any place. While `relay`
    is set it is given each piece as it comes; what it does not accept waits as usual, and what comes behind that.
    """

    def __init__(self, idle_timeout_seconds: float, peers: PeerWatch | None = None) -> None:
        self._loop = asyncio.get_running_loop()
        self._idle_timeout_seconds = idle_timeout_seconds
        # connection
        self._transport: asyncio.Transport | None = None
        self.is_write_paused = False
        self._is_read_paused = False
        self._socket = select.poll()
        self._peers = peers or PeerWatch()
        self._silence = Deadline(self._loop, self._check_silence)
        self.is_reused = False
        # exchange
        self._listener: Listener | None = None
        self._method = ""
        self.begin("", None)

    def begin(self, method: str, listener: Listener | None) -> None:
        """Makes ready for the exchange that begins with a request of `method`."""
        self._method = method
        self._listener = listener
        self.relay: Callable[[bytes], bool] | None = None
        self.failure: UpstreamFailure | None = None
        self.has_received = False
        self.is_request_sent = False
        self._silent_since = 0.0
        self._pieces: list[bytes] = []
        self.waiting_bytes = 0
        self._head: Head | None = None  # once a byte of it has come
        self._body: Body | None = None  # once the head is whole
        self._is_keep_alive = False
        self.fields: Fields = []  # lower-case names
        self.status = 0  # 0 until the response head is complete
        self.is_complete = False

    def __repr__(self) -> str:
        phase = "complete" if self.is_complete else f"HTTP {self.status}" if self.status else "before the head"
        return f"<Connection {phase}, {self.waiting_bytes} bytes waiting>"

    # -- what an exchange does --

    @property
    def is_open(self) -> bool:
        return self._transport is not None and not self._transport.is_closing()

    @property
    def is_reusable(self) -> bool:
        """Whether the exchange ended so that another may follow; what was not taken is not left to the next one."""
        is_done = self.is_complete and self.is_request_sent and not self.waiting_bytes
        return is_done and self._is_keep_alive and self.is_open

    @property
    def is_quiet(self) -> bool:
        """Whether nothing lies in the socket, no byte and no end: what does would be taken for the next answer."""
        return not self._socket.poll(0)

    def send(self, data: bytes, *, is_last: bool) -> None:
        """Writes a part of the request; `is_last` says that nothing follows."""
        self.is_request_sent = is_last
        if self._idle_timeout_seconds:
            self._hear()
        if data and self._transport is not None and not self._transport.is_closing():
            self._transport.write(data)

    def take(self) -> bytes:
        """What waits of the body, b"" for nothing."""
        if not self.waiting_bytes:
            return b""
        if len(self._pieces) == 1:
            piece = self._pieces.pop()
        else:
            piece = b"".join(self._pieces)
            self._pieces.clear()
        self.waiting_bytes = 0
        if self._is_read_paused:
            self._read_on()
        return piece

    def _read_on(self) -> None:
        self._is_read_paused = False
        if self._idle_timeout_seconds:
            self._hear()  # while we did not read, the upstream could not be heard
        if self.is_open:
            cast("asyncio.Transport", self._transport).resume_reading()

    def abort(self, failure: UpstreamFailure) -> None:
        """Closes at once: that is what makes Ollama stop. What waits is dropped, and nobody is told."""
        self._listener = self.relay = None
        self._pieces.clear()
        self.waiting_bytes = 0
        self.is_complete = False
        self._fail(failure)

    def leave(self) -> None:
        """The exchange is over; what comes now is an answer that was not asked for."""
        self._listener = self.relay = None
        self.fields, self._head, self._body = [], None, None
        self._silence.off()

    # -- in time --

    def _hear(self) -> None:
        self._silent_since = self._loop.time()
        self._silence.move(self._idle_timeout_seconds)

    def _check_silence(self) -> None:
        """Silence is the upstream's only where it has the whole request or takes no more of it, and we read."""
        is_upstreams = (self.is_request_sent or self.is_write_paused) and not (self._is_read_paused or self._pieces)
        if self._listener is None or self.is_complete:
            return
        if is_upstreams and self._loop.time() - self._silent_since >= self._idle_timeout_seconds:
            self._fail(UpstreamTimeout(f"Ollama was silent for {self._idle_timeout_seconds:g} seconds"))
        else:
            self._hear()

    # -- what the transport tells --

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        sock = transport.get_extra_info("socket")
        keep_alive(sock)
        self._socket.register(sock, select.POLLIN)
        self._peers.add(self._loop, self._transport, self._vanish)

    def data_received(self, data: bytes) -> None:
        if self._listener is None:
            self.abort(UpstreamBroken("Ollama sent what was not asked for"))
            return
        if self._idle_timeout_seconds:
            self._hear()
        if (body := self._body) is None:
            data = self._read_head(data)
            if (body := self._body) is None:
                return
        piece = body.feed(data)
        if piece and (self.relay is None or self.waiting_bytes or not self.relay(piece)):
            self._pieces.append(piece)
            self.waiting_bytes += len(piece)
        if body.is_over:
            self._end_body(body)
        if self.waiting_bytes or self.is_complete or self.relay is None:
            self._tell()
            self._hold_reading()

    def _read_head(self, data: bytes) -> bytes:
        """Gives what stands behind the head."""
        self.has_received = True
        if self._head is None:
            self._head = Head()
        try:
            data = self._head.feed(data)
            if self._head.status:
                self._body = self._head.body(self._method)
                self._is_keep_alive = self._head.leaves_usable
                self.fields, self.status = self._head.fields, self._head.status
        except UpstreamBroken as failure:
            self._fail(failure)
        return data

    def _end_body(self, body: Body) -> None:
        """What stands behind the end of a message breaks only the connection."""
        if body.has_excess:
            self._is_keep_alive = False
        if body.broken:
            self._fail(UpstreamBroken(body.broken))
        else:
            self.is_complete = True

    def _hold_reading(self) -> None:
        if self.waiting_bytes > _HIGH_WATER_BYTES and not self._is_read_paused and self.is_open:
            self._is_read_paused = True
            cast("asyncio.Transport", self._transport).pause_reading()

    def eof_received(self) -> None:
        """A clean end completes a body that is delimited by it; any other message is cut off."""
        if self._body is not None and self._body.is_whole_at_end() and not self.is_complete:
            self.is_complete = True
            self._tell()

    def connection_lost(self, exc: Exception | None) -> None:
        if exc is not None:
            self._read_rest()
        self._is_keep_alive = False
        self._silence.end()
        self._peers.discard(cast("asyncio.Transport", self._transport))
        if self._head is not None:
            self._head.close()
        self._fail(UpstreamBroken("Ollama reset the connection" if exc else "Ollama closed the connection"))

    def _read_rest(self) -> None:
        """Reads what lies in the socket of a connection that broke while it was written to.

        An upstream may answer early and close, with the rest of the request unread: then TCP resets, and a write may
        fail before the answer was read (RFC 9112 section 9.6). How the connection ended is not told, so no end counts.
        """
        of_transport = cast("asyncio.Transport", self._transport).get_extra_info("socket")
        rest = socket.socket(of_transport.family, of_transport.type, of_transport.proto, of_transport.fileno())
        try:
            while self._listener is not None and not self.is_complete and self.waiting_bytes < _REST_BYTES:
                if not (data := rest.recv(_REST_BYTES, socket.MSG_DONTWAIT)):
                    break
                self.data_received(data)
        except OSError:
            pass  # that was all
        finally:
            rest.detach()  # the transport closes it

    def _vanish(self) -> None:
        self._fail(UpstreamBroken("Ollama's machine no longer answers"))

    def pause_writing(self) -> None:
        self.is_write_paused = True

    def resume_writing(self) -> None:
        self.is_write_paused = False
        if self._listener is not None:
            self._listener.on_taken()

    def _fail(self, failure: UpstreamFailure) -> None:
        """The answer breaks off, unless it is complete; what has come of it can still be taken."""
        if self._transport is not None:
            self._transport.abort()
        if self.failure is None and not self.is_complete:
            self.failure = failure
            self._tell()

    def _tell(self) -> None:
        if self._listener is not None:
            self._listener.on_answer()
