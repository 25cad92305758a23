"""The fast upstream behind every proxy: `python -m bench.upstream PORT`.

It answers a request without a body with the list of its models, and any other with a small JSON completion, unless the
plan `[...]` in the message asks for something else:

- `pieces=N&rate=R`: an event stream of N chunks at R a second, then `data: [DONE]`
- `hold`: the head and one chunk of an event stream, then nothing until the client leaves
- `hold=N`: the same until another request has the plan `release=N`; then the second chunk and the end
- `bytes=N`: a body of N bytes, as fast as the reader takes it

Each chunk carries the clocks at which the request arrived and the chunk was sent. The plan is in the message, because
every peer passes that on, even a peer that writes the request anew. It does nothing else, so that it never becomes the
bottleneck.
"""

import asyncio
import gc
import random
import re
import sys
import time
from typing import cast
from urllib.parse import parse_qs

import httptools
import uvloop

COMPLETION = (
    b'{"id":"chatcmpl-214","object":"chat.completion","created":1767225600,"model":"smollm2:135m",'
    b'"system_fingerprint":"fp_ollama","choices":[{"index":0,"message":{"role":"assistant","content":'
    b'"Hello! How can I help you today?"},"finish_reason":"stop"}],"usage":{"prompt_tokens":31,'
    b'"completion_tokens":10,"total_tokens":41}}\n'
)
# For peers that ask which models there are, as OpenAI and as Ollama tells it.
MODELS = (
    b'{"object":"list","data":[{"id":"smollm2:135m","object":"model","created":1767225600,"owned_by":"library"}],'
    b'"models":[{"name":"smollm2:135m","model":"smollm2:135m","size":270898672,"digest":"9077fe9d2ae1"}]}\n'
)
_JSON = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s"
JSON_ANSWER = _JSON % (len(COMPLETION), COMPLETION)
MODELS_ANSWER = _JSON % (len(MODELS), MODELS)
_STREAM_HEAD = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nCache-Control: no-cache\r\n"
    b"Transfer-Encoding: chunked\r\n\r\n"
)
_PIECE = (
    b'data: {"id":"chatcmpl-214","object":"chat.completion.chunk","created":1767225600,"model":"smollm2:135m",'
    b'"system_fingerprint":"fp_ollama","choices":[{"index":0,"delta":{"role":"assistant","content":'
    b'"sent=%020d asked=%020d "},"finish_reason":null}]}\n\n'
)
_STREAM_END = b"e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n"
_BULK_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/octet-stream\r\nContent-Length: %d\r\n\r\n"
_BULK_PIECE = bytes(65_536)
_PLAN = re.compile(rb"\[([a-z][a-z0-9.=&]*)\]")
_PLAN_WITHIN_BYTES = 1_000
_held: dict[int, "Upstream"] = {}  # the streams of `hold=N`


class Upstream(asyncio.Protocol):
    """One connection: answers its requests one after another, each as its plan says."""

    def __init__(self) -> None:
        self._parser = httptools.HttpRequestParser(self)
        self._body = b""  # its first piece
        self._asked_ns = 0
        self._timer: asyncio.TimerHandle | None = None
        self._pieces_left = 0
        self._interval_seconds = 0.0
        self._next_at = 0.0
        self._bytes_left = 0
        self._is_paused = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is none by inheritance

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's signature
        self._bytes_left = 0
        if self._timer is not None:
            self._timer.cancel()

    def pause_writing(self) -> None:
        self._is_paused = True

    def resume_writing(self) -> None:
        self._is_paused = False
        self._send_bulk()

    # httptools calls these three by name.
    def on_message_begin(self) -> None:
        self._body = b""

    def on_body(self, piece: bytes) -> None:
        self._body = self._body or piece

    def on_message_complete(self) -> None:
        self._asked_ns = time.monotonic_ns()
        plan = _PLAN.search(self._body, 0, _PLAN_WITHIN_BYTES)
        if plan is None:
            self._transport.write(JSON_ANSWER if self._body else MODELS_ANSWER)
        else:
            self._follow(plan[1].decode())

    def _follow(self, plan: str) -> None:
        values = {key: float(found[0]) for key, found in parse_qs(plan).items()}
        if plan == "hold":
            self._hold()
        elif "hold" in values:
            _held[int(values["hold"])] = self
            self._hold()
        elif "release" in values:
            self._transport.write(JSON_ANSWER)
            _held.pop(int(values["release"]))._send_piece()
        elif "bytes" in values:
            self._bytes_left = int(values["bytes"])
            self._transport.write(_BULK_HEAD % self._bytes_left)
            self._send_bulk()
        else:
            self._start_stream(int(values["pieces"]), values["rate"])

    def _hold(self) -> None:
        self._pieces_left, self._interval_seconds = 2, 0.0
        self._send_piece(_STREAM_HEAD)

    def _start_stream(self, pieces: int, rate: float) -> None:
        self._pieces_left, self._interval_seconds = pieces, 1 / rate
        # A random phase, so that streams opened together do not beat together.
        loop = asyncio.get_running_loop()
        self._next_at = loop.time() + random.random() * self._interval_seconds
        self._timer = loop.call_at(self._next_at, self._send_piece, _STREAM_HEAD)

    def _send_piece(self, head: bytes = b"") -> None:
        """Sends one piece; the head goes with the first one, as in Ollama."""
        piece = _PIECE % (time.monotonic_ns(), self._asked_ns)
        self._transport.write(b"%s%x\r\n%s\r\n" % (head, len(piece), piece))
        self._pieces_left -= 1
        if self._pieces_left == 0:
            self._transport.write(_STREAM_END)
        elif self._interval_seconds:
            self._next_at += self._interval_seconds
            self._timer = asyncio.get_running_loop().call_at(self._next_at, self._send_piece)

    def _send_bulk(self) -> None:
        while self._bytes_left and not self._is_paused:
            piece = _BULK_PIECE if self._bytes_left >= len(_BULK_PIECE) else _BULK_PIECE[: self._bytes_left]
            self._bytes_left -= len(piece)
            self._transport.write(piece)


async def _serve(port: int) -> None:
    server = await asyncio.get_running_loop().create_server(Upstream, "127.0.0.1", port, backlog=4096)
    gc.freeze()
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(_serve(int(sys.argv[1])))
