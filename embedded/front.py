"""The stand-in's HTTP server in front of llama.cpp: answers like Ollama where llama.cpp differs, and relays the rest.

Owns Ollama's port. It answers `/api/ps` and refuses all models except its own. It sends each other request to
llama.cpp on another port and returns the bytes of the answer unchanged. A connection carries one request: the end of
the connection is the end of the answer, so it does not have to parse the answer. Shapes as in Ollama 0.33.
"""

import asyncio
import json
import socket
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

HEAD_BYTES = 65_536
BODY_BYTES = 268_435_456
PIECE_BYTES = 65_536
NEVER = "2318-01-01T00:00:00Z"  # Ollama reports such a time for a model that it never unloads


@dataclass(frozen=True)
class Model:
    """The one model, with the fields that Ollama reports."""

    name: str
    size: int
    digest: str
    context_length: int
    parameter_size: str
    quantization: str

    def loaded(self) -> dict[str, Any]:
        """Its row of `/api/ps` (Ollama's api.ProcessModelResponse)."""
        details = {
            "parent_model": "",
            "format": "gguf",
            "family": "llama",
            "families": ["llama"],
            "parameter_size": self.parameter_size,
            "quantization_level": self.quantization,
        }
        return {
            "name": self.name,
            "model": self.name,
            "size": self.size,
            "digest": self.digest,
            "details": details,
            "expires_at": NEVER,
            "size_vram": 0,
            "context_length": self.context_length,
        }


@dataclass
class Incoming:
    """A request, read whole."""

    method: str
    target: str
    fields: list[tuple[str, str]]
    body: bytes

    @property
    def path(self) -> str:
        return self.target.partition("?")[0]

    def model(self) -> str | None:
        """The model that the request names, if any: in its JSON, or in the path of `/v1/models/…`."""
        if self.method == "GET" and self.path.startswith("/v1/models/"):
            return self.path.removeprefix("/v1/models/")
        if self.method != "POST" or not self.path.startswith("/v1/"):
            return None
        with suppress(ValueError):
            named = json.loads(self.body).get("model") if self.body.lstrip().startswith(b"{") else None
            return named if isinstance(named, str) and named else None
        return None

    def to_send(self) -> bytes:
        """The request for llama.cpp; it asks llama.cpp to close the connection after its answer."""
        dropped = {"connection", "keep-alive", "transfer-encoding", "content-length", "expect"}
        fields = [f"{name}: {value}" for name, value in self.fields if name.lower() not in dropped]
        lines = [
            f"{self.method} {self.target} HTTP/1.1",
            *fields,
            "Connection: close",
            f"Content-Length: {len(self.body)}",
        ]
        return "\r\n".join([*lines, "", ""]).encode("latin-1") + self.body


class Front:
    """Serves Ollama's port before llama.cpp at `host` and `port`."""

    def __init__(self, model: Model, host: str, port: int) -> None:
        self._model = model
        self._host, self._port = host, port

    async def serve(self, listener: socket.socket) -> None:
        """Serves until the process ends."""
        server = await asyncio.start_server(self._on_client, sock=listener, limit=HEAD_BYTES, backlog=1024)
        await server.serve_forever()

    async def _on_client(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            request = await read_request(reader, writer)
            answer = self._own_answer(request)
            if answer is None:
                await self._relay(request, reader, writer)
            else:
                writer.write(answer)
                await writer.drain()
        except (ValueError, asyncio.LimitOverrunError) as error:
            writer.write(json_answer(400, openai_error(400, str(error))))
        except (OSError, EOFError):
            pass  # one side has left
        finally:
            writer.close()

    def _own_answer(self, request: Incoming) -> bytes | None:
        if request.path == "/api/ps" and request.method in ("GET", "HEAD"):
            return json_answer(200, {"models": [self._model.loaded()]}, has_body=request.method == "GET")
        named = request.model()
        if named is None:
            return None
        if named.lower() != self._model.name:
            return json_answer(404, not_found(request.path, named))
        if request.method == "GET":
            return json_answer(200, {"id": named, "object": "model", "created": 0, "owned_by": "library"})
        return None

    async def _relay(self, request: Incoming, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Passes on the answer as it comes. If the client leaves, closes the connection, which stops llama.cpp."""
        try:
            above, below = await asyncio.open_connection(self._host, self._port)
        except OSError:
            writer.write(json_answer(503, openai_error(503, "llama.cpp does not answer")))
            return
        try:
            below.write(request.to_send())
            answering = asyncio.create_task(pump(above, writer))
            leaving = asyncio.create_task(until_end(reader))
            _, pending = await asyncio.wait((answering, leaving), return_when=asyncio.FIRST_COMPLETED)
            for task in pending:
                task.cancel()
            await asyncio.gather(answering, leaving, return_exceptions=True)
        finally:
            below.transport.abort()


async def pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    """Passes on pieces until the source ends, no faster than the sink takes them."""
    while piece := await source.read(PIECE_BYTES):
        sink.write(piece)
        await sink.drain()


async def until_end(reader: asyncio.StreamReader) -> None:
    """Returns when the peer has left; ignores what it sends until then."""
    while await reader.read(PIECE_BYTES):
        pass


async def read_request(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> Incoming:
    """The next request. ValueError and LimitOverrunError: it is malformed; EOFError: the client left before its end."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    first, *lines = head.split("\r\n")[:-2]
    method, target, _ = first.split(" ")
    fields = [(name, value.strip()) for name, _, value in (line.partition(":") for line in lines)]
    named = {name.lower(): value for name, value in fields}
    if named.get("expect", "").lower() == "100-continue":
        writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    if named.get("transfer-encoding", "").lower() == "chunked":
        body = await read_chunks(reader)
    else:
        body = await reader.readexactly(checked_size(int(named.get("content-length") or "0")))
    return Incoming(method, target, fields, body)


async def read_chunks(reader: asyncio.StreamReader) -> bytes:
    """The chunks of a body, joined; trailers are dropped."""
    body = bytearray()
    while size := checked_size(int((await reader.readuntil(b"\r\n")).partition(b";")[0], 16), len(body)):
        body += (await reader.readexactly(size + 2))[:-2]
    while await reader.readuntil(b"\r\n") != b"\r\n":
        pass
    return bytes(body)


def checked_size(size: int, before: int = 0) -> int:
    if not 0 <= size <= BODY_BYTES - before:
        raise ValueError("the request's body is too long")
    return size


def not_found(path: str, name: str) -> dict[str, Any]:
    """Ollama's words for a model that it does not have, in the shape of the API that was called."""
    error = openai_error(404, f"model '{name}' not found")
    if path == "/v1/messages":
        return {"type": "error", "error": {key: error["error"][key] for key in ("type", "message")}}
    return error


def openai_error(status: int, message: str) -> dict[str, Any]:
    """An error of Ollama's OpenAI routes (its openai.NewError)."""
    kind = {400: "invalid_request_error", 404: "not_found_error"}.get(status, "api_error")
    return {"error": {"message": message, "type": kind, "param": None, "code": None}}


def json_answer(status: int, content: dict[str, Any], *, has_body: bool = True) -> bytes:
    """A whole answer; the connection ends after it."""
    body = json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"
    reason = {200: "OK", 400: "Bad Request", 404: "Not Found", 503: "Service Unavailable"}[status]
    head = f"HTTP/1.1 {status} {reason}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n"
    return head.encode() + b"Connection: close\r\n\r\n" + body * has_body
