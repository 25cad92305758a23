"""Owns HTTP/1.1 as bytes: heads, bodies with their framing, and a client that hides nothing.

It normalises nothing: a test sees the bytes, the order of fields and whether a message really ended.
The scripted upstream and the tests call it.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import socket
import struct
from dataclasses import dataclass, field
from typing import Any

KEEP_BYTES = 4 * 1024 * 1024
LIMIT = 256 * 1024

Field = tuple[bytes, bytes]


@dataclass
class Head:
    """A message head: its first line, its fields in order, and its exact bytes."""

    line: bytes
    fields: list[Field]
    raw: bytes

    def all(self, name: str) -> list[bytes]:
        """The values of every field called `name`, in order."""
        return [value for key, value in self.fields if key.lower() == name.lower().encode()]

    def get(self, name: str) -> bytes | None:
        """The first value of `name`, or None."""
        return next(iter(self.all(name)), None)

    @property
    def lowered(self) -> list[Field]:
        """The fields with lower-case names, for comparison."""
        return [(key.lower(), value) for key, value in self.fields]

    @property
    def method(self) -> str:
        """The method of a request head."""
        return self.line.split(b" ")[0].decode()

    @property
    def target(self) -> bytes:
        """The target of a request head, as it came."""
        return self.line.split(b" ")[1]

    @property
    def status(self) -> int:
        """The status code of a response head."""
        return int(self.line.split(b" ")[1])

    @property
    def task_id(self) -> str:
        """The one task id the response names."""
        (value,) = self.all("x-task-id")
        return value.decode()


@dataclass
class Body:
    """A message body as it came: decoded from its framing, hashed, kept up to 4 MiB."""

    data: bytearray = field(default_factory=bytearray)
    size: int = 0
    framing: str = "none"
    complete: bool = False
    reset: bool = False
    _hash: Any = field(default_factory=hashlib.sha256)

    def add(self, piece: bytes) -> None:
        """Count one piece."""
        self.size += len(piece)
        self._hash.update(piece)
        if len(self.data) < KEEP_BYTES:
            self.data += piece

    @property
    def sha256(self) -> str:
        """The hash of everything that came."""
        return str(self._hash.hexdigest())


@dataclass
class Response:
    """A whole answer; `body.complete` says whether the message really ended."""

    head: Head
    body: Body

    @property
    def status(self) -> int:
        """The status code."""
        return self.head.status

    @property
    def data(self) -> bytes:
        """The body's bytes."""
        return bytes(self.body.data)

    def json(self) -> Any:
        """The body as JSON."""
        return json.loads(self.data)


def parse_head(raw: bytes) -> Head:
    """Split a head into line and fields without touching names or values (outer blanks aside)."""
    line, *rest = raw[:-4].split(b"\r\n")
    pairs = [part.partition(b":") for part in rest]
    return Head(line, [(name, value.strip(b" \t")) for name, _, value in pairs], raw)


async def read_head(reader: asyncio.StreamReader) -> Head | None:
    """The next message head, or None when the peer is gone before one began."""
    try:
        return parse_head(await reader.readuntil(b"\r\n\r\n"))
    except asyncio.IncompleteReadError as gone:
        if gone.partial:
            raise AssertionError(f"a head was broken off: {gone.partial[:200]!r}") from None
        return None
    except ConnectionError:
        return None


async def read_body(reader: asyncio.StreamReader, head: Head, body: Body, until_eof: bool = False) -> None:
    """Read the body that `head` announces into `body`; without framing none, or all up to the end."""
    length, coding = head.get("content-length"), head.get("transfer-encoding")
    try:
        if coding is not None:
            body.framing = "chunked"
            body.complete = await _read_chunks(reader, body)
        elif length is not None:
            body.framing = "length"
            body.complete = await _read_length(reader, int(length), body)
        elif until_eof:
            body.framing = "close"
            body.complete = await _read_to_end(reader, body)
        else:
            body.complete = True
    except ConnectionError:
        body.reset = True


async def _read_length(reader: asyncio.StreamReader, left: int, body: Body) -> bool:
    while left:
        piece = await reader.read(min(left, LIMIT))
        if not piece:
            return False
        body.add(piece)
        left -= len(piece)
    return True


async def _read_to_end(reader: asyncio.StreamReader, body: Body) -> bool:
    while piece := await reader.read(LIMIT):
        body.add(piece)
    return True


async def _read_chunks(reader: asyncio.StreamReader, body: Body) -> bool:
    while True:
        line = await reader.readline()
        if not line.endswith(b"\r\n"):
            return False
        size = int(line.split(b";")[0], 16)
        if not size:
            break
        if not await _read_length(reader, size, body) or await reader.readline() != b"\r\n":
            return False
    while (line := await reader.readline()) not in (b"\r\n", b""):
        continue
    return line == b"\r\n"


def chunk(data: bytes) -> bytes:
    """`data` as one chunk."""
    return b"%x\r\n%s\r\n" % (len(data), data)


LAST_CHUNK = b"0\r\n\r\n"


def request(
    method: str,
    target: bytes | str,
    *fields: Field,
    body: bytes | None = None,
    chunks: list[bytes] | None = None,
    host: bytes = b"127.0.0.1",
) -> bytes:
    """A request as bytes: `body` goes with a Content-Length, `chunks` as chunks."""
    wire_target = target.encode() if isinstance(target, str) else target
    lines = [b"%s %s HTTP/1.1" % (method.encode(), wire_target), b"Host: " + host]
    lines += [b"%s: %s" % pair for pair in fields]
    if body is not None:
        lines.append(b"Content-Length: %d" % len(body))
    if chunks is not None:
        lines.append(b"Transfer-Encoding: chunked")
        body = b"".join(map(chunk, chunks)) + LAST_CHUNK
    return b"\r\n".join(lines) + b"\r\n\r\n" + (body or b"")


def set_reset_on_close(sock: Any) -> None:
    """Make the next close of the socket send RST instead of FIN."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


class Client:
    """One connection to the gateway, byte by byte."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    @classmethod
    async def connect(cls, port: int, receive_buffer: int | None = None, host: str = "127.0.0.1") -> Client:
        """Connect to `host`:`port`, with a small kernel buffer if asked."""
        sock = socket.socket()
        sock.setblocking(False)
        if receive_buffer:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        await asyncio.get_running_loop().sock_connect(sock, (host, port))
        return cls(*await asyncio.open_connection(sock=sock, limit=LIMIT))

    async def send(self, data: bytes) -> None:
        """Send bytes and wait until the socket takes them."""
        self.writer.write(data)
        await self.writer.drain()

    async def head(self) -> Head:
        """The next response head."""
        head = await read_head(self.reader)
        assert head is not None, "the gateway closed the connection without an answer"
        return head

    async def answer(self, method: str = "GET") -> Response:
        """The next whole response."""
        return await self.rest(await self.head(), method)

    async def rest(self, head: Head, method: str = "GET") -> Response:
        """The body that belongs to `head`."""
        response = Response(head, Body())
        if method == "HEAD" or head.status < 200 or head.status in (204, 304):
            response.body.complete = True
        else:
            await read_body(self.reader, head, response.body, until_eof=True)
        return response

    async def ask(self, method: str, target: bytes | str, *fields: Field, **more: Any) -> Response:
        """Send one request and read its whole answer."""
        await self.send(request(method, target, *fields, **more))
        return await self.answer(method)

    async def piece(self) -> bytes:
        """The bytes that come next."""
        return await self.reader.read(LIMIT)

    async def up_to(self, mark: bytes) -> bytes:
        """The bytes up to and including `mark`."""
        return await self.reader.readuntil(mark)

    async def at_end(self) -> bool:
        """Whether the gateway closes the connection without another byte."""
        try:
            return await self.reader.read(1) == b""
        except ConnectionError:
            return True

    def stop_reading(self) -> None:
        """Leave what comes in the kernel's buffers, until `go_on_reading`."""
        self.writer.transport.pause_reading()  # type: ignore[attr-defined]  # it is a transport for both directions

    def go_on_reading(self) -> None:
        """Take what comes again."""
        self.writer.transport.resume_reading()  # type: ignore[attr-defined]  # as above

    def half_close(self) -> None:
        """Say that nothing more will be sent, and keep reading."""
        self.writer.write_eof()

    def reset(self) -> None:
        """Leave with RST."""
        set_reset_on_close(self.writer.get_extra_info("socket"))
        self.writer.transport.abort()

    async def close(self) -> None:
        """Leave with FIN; closing twice is fine."""
        self.writer.close()
        with contextlib.suppress(ConnectionError):  # the peer was faster
            await self.writer.wait_closed()
