"""The fast upstream behind every proxy: `python -m bench.upstream PORT`.

Any request is answered with a small JSON completion. With `?pieces=N&rate=R` in the query the answer is a
server-sent event stream instead: N chunks at R a second, each carrying the clock at which it was sent, then
`data: [DONE]`. It does no more than that, so that it never becomes the bottleneck. Started by `peers`.
"""

import asyncio
import gc
import random
import sys
import time
from typing import cast
from urllib.parse import parse_qs

import httptools
import uvloop

_COMPLETION = (
    b'{"id":"chatcmpl-214","object":"chat.completion","created":1767225600,"model":"smollm2:135m",'
    b'"system_fingerprint":"fp_ollama","choices":[{"index":0,"message":{"role":"assistant","content":'
    b'"Hello! How can I help you today?"},"finish_reason":"stop"}],"usage":{"prompt_tokens":31,'
    b'"completion_tokens":10,"total_tokens":41}}\n'
)
JSON_ANSWER = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s" % (
    len(_COMPLETION),
    _COMPLETION,
)
_STREAM_HEAD = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nCache-Control: no-cache\r\n"
    b"Transfer-Encoding: chunked\r\n\r\n"
)
_PIECE = (
    b'data: {"sent_ns":%020d,"id":"chatcmpl-214","object":"chat.completion.chunk","created":1767225600,'
    b'"model":"smollm2:135m","system_fingerprint":"fp_ollama","choices":[{"index":0,"delta":{"role":'
    b'"assistant","content":" hello"},"finish_reason":null}]}\n\n'
)
SENT_NS = slice(len(b'data: {"sent_ns":'), len(b'data: {"sent_ns":') + 20)
END_EVENT = b"data: [DONE]"
_STREAM_END = b"e\r\n%s\n\n\r\n0\r\n\r\n" % END_EVENT
COMPLETION_BYTES = len(_COMPLETION)


class Upstream(asyncio.Protocol):
    """One connection: requests one after another, each answered as its target asks."""

    def __init__(self) -> None:
        self._parser = httptools.HttpRequestParser(self)
        self._target = b""
        self._timer: asyncio.TimerHandle | None = None
        self._pieces_left = 0
        self._interval_seconds = 0.0
        self._next_at = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is none by inheritance

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's signature
        if self._timer is not None:
            self._timer.cancel()

    # httptools calls these two by name.
    def on_url(self, target: bytes) -> None:
        self._target = target

    def on_message_complete(self) -> None:
        if b"pieces=" in self._target:
            self._start_stream()
        else:
            self._transport.write(JSON_ANSWER)

    def _start_stream(self) -> None:
        query = parse_qs(self._target.partition(b"?")[2].decode())
        self._pieces_left = int(query["pieces"][0])
        self._interval_seconds = 1 / float(query["rate"][0])
        # A random phase, so that streams opened together do not beat together.
        phase = random.random() * self._interval_seconds
        loop = asyncio.get_running_loop()
        self._next_at = loop.time() + phase
        self._timer = loop.call_at(self._next_at, self._send_piece, _STREAM_HEAD)

    def _send_piece(self, head: bytes = b"") -> None:
        """One piece; the head goes with the first one, as Ollama does it."""
        piece = _PIECE % time.monotonic_ns()
        self._transport.write(b"%s%x\r\n%s\r\n" % (head, len(piece), piece))
        self._pieces_left -= 1
        if self._pieces_left == 0:
            self._transport.write(_STREAM_END)
            return
        self._next_at += self._interval_seconds
        self._timer = asyncio.get_running_loop().call_at(self._next_at, self._send_piece)


async def _serve(port: int) -> None:
    server = await asyncio.get_running_loop().create_server(Upstream, "127.0.0.1", port, backlog=4096)
    gc.freeze()
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(_serve(int(sys.argv[1])))
