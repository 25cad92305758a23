"""Owns pages of other sites: a server of its own, whose pages try to use the gateway. The browser tests call it.

Under `127.0.0.1` with another port they are of the gateway's own site, under `evil.localhost` of another one.
"""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

# Each way in which a page can ask without an Origin; `@` is the address that it asks for.
MARKUP = {
    "img": '<img src="@">',
    "srcset": '<img srcset="@ 2x, @ 1x">',
    "script": '<script src="@"></script>',
    "style": '<link rel="stylesheet" href="@">',
    "icon": '<link rel="preload" as="image" href="@">',
    "background": '<style>body { background: url("@") }</style>',
    "video": '<video src="@" preload="auto"></video>',
    "iframe": '<iframe src="@"></iframe>',
    "object": '<object data="@"></object>',
    "embed": '<embed src="@">',
    "no-cors": '<script>fetch("@", {mode: "no-cors"}).catch(() => {})</script>',
    "no-cors head": '<script>fetch("@", {mode: "no-cors", method: "HEAD"}).catch(() => {})</script>',
    "frame navigated": '<iframe name="f"></iframe><script>frames.f.location = "@"</script>',
    "frame form": '<iframe name="g"></iframe><form action="@" target="g" id="h"></form><script>h.submit()</script>',
}
# Those that take the whole tab, or a new one, there.
LEAVING = {
    "link": '<a href="@">x</a><script>document.links[0].click()</script>',
    "form": '<form action="@"><input name="q"></form><script>document.forms[0].submit()</script>',
    "location": '<script>location = "@"</script>',
    "refresh": '<meta http-equiv="refresh" content="0; url=@">',
    "window": '<script>window.open("@")</script>',
    "new tab": '<a href="@" target="_blank" rel="noopener">x</a><script>document.links[0].click()</script>',
}


class ForeignSite:
    """A server that answers each path with the page that was put there."""

    def __init__(self, port: int, pages: dict[str, str]) -> None:
        self.port = port
        self._pages = pages

    def put(self, path: str, body: str) -> None:
        """A page, from now on."""
        self._pages[path] = f"<!doctype html><title>elsewhere</title><body>{body}"

    def address(self, host: str, path: str) -> str:
        """Where the page is."""
        return f"http://{host}:{self.port}{path}"


@asynccontextmanager
async def foreign_site() -> AsyncIterator[ForeignSite]:
    """The server, as long as it is needed."""
    pages: dict[str, str] = {}

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            page = pages.get(head.split(b" ")[1].decode().partition("?")[0], "").encode()
            fields = b"Content-Type: text/html\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % len(page)
            writer.write(b"HTTP/1.1 200 OK\r\n" + fields + page)
            await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass  # a connection that the browser opened ahead and did not use
        finally:
            writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        yield ForeignSite(server.sockets[0].getsockname()[1], pages)
