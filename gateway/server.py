"""uvicorn's HTTP/1.1 protocol, with what ASGI does not show: the target on the wire, and bounded reads.

A subclass through uvicorn's public `http` setting; nothing of the relay belongs here. Used by __main__ alone.
"""

import asyncio

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

# One read holds at most this much, so that a stalled upload stays within 256 KiB (contract 3.3).
_READ_BYTES = 65_536
_read_buffer = memoryview(bytearray(_READ_BYTES))


class GatewayHttpProtocol(HttpToolsProtocol, asyncio.BufferedProtocol):
    """One client connection. `scope["extensions"]["gateway"]["target"]` is the request target as it came."""

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002
        return _read_buffer

    def buffer_updated(self, nbytes: int) -> None:
        self.data_received(bytes(_read_buffer[:nbytes]))

    def on_headers_complete(self) -> None:
        self.scope["extensions"] = {"gateway": {"target": self.url}}
        super().on_headers_complete()
