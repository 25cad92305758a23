"""The files for TLS with a store: read again for each connection, so that they can be replaced while the gateway runs.

They are read in a thread, because their file system may be slow.
"""

import asyncio
import ssl

from gateway.store.address import Access
from gateway.store.reasons import CERTIFICATE, Unreachable

_READ_SECONDS = 1.0


class TlsFiles:
    """The contexts for TLS: loaded again when one of the files is another one."""

    def __init__(self, access: Access) -> None:
        self._ca_file, self._cert_file, self._key_file = access.ca_file, access.cert_file, access.key_file
        self._seen: list[tuple[int, int, int]] | None = None
        self._context: ssl.SSLContext | None = None
        self._reading: asyncio.Future[ssl.SSLContext | Unreachable] | None = None

    async def context(self) -> ssl.SSLContext:
        """A context with the present files. A thread reads them: a file system may hang. Raises Unreachable."""
        if self._reading is None or self._reading.done():
            self._reading = asyncio.ensure_future(asyncio.to_thread(self._read))
        try:
            async with asyncio.timeout(_READ_SECONDS):
                found = await asyncio.shield(self._reading)
        except TimeoutError:
            raise Unreachable("the files for TLS cannot be read in time", CERTIFICATE) from None
        if isinstance(found, Unreachable):
            raise found
        return found

    def _read(self) -> ssl.SSLContext | Unreachable:
        """Returns an error instead of raising it: after a timeout asyncio would log it as an unseen exception."""
        try:
            found = [file.stat() for file in (self._ca_file, self._cert_file, self._key_file) if file is not None]
            seen = [(stat.st_ino, stat.st_mtime_ns, stat.st_size) for stat in found]
            if self._context is None or seen != self._seen:
                self._context, self._seen = self._loaded(), seen
        except OSError as error:  # ssl.SSLError is one
            return Unreachable(f"the files for TLS cannot be used: {error.strerror or error}", CERTIFICATE)
        return self._context

    def _loaded(self) -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=self._ca_file)  # without a file: the system's authorities
        if self._cert_file is not None:
            # An encrypted key is an error. Without a password here OpenSSL would ask at the terminal.
            context.load_cert_chain(self._cert_file, self._key_file, password="")
        return context
