"""The table of gateways in Redis (or Valkey). nodes.lua says what Redis holds; each call is one atomic step."""

from gateway.store.layout import NODES, SHARED_KEYS, Script
from gateway.store.malformed import Malformed
from gateway.store.nodes import StoredNode, Told
from gateway.store.reader import Reader

_NODES = Script("nodes")


class RedisNodes:
    """Implements `NodeStore` for the process `boot` of the gateway `instance`, on the connections of `reader`."""

    def __init__(self, reader: Reader, malformed: Malformed, *, instance: str, boot: str) -> None:
        self._reader = reader
        self._malformed = malformed
        self._instance = instance
        self._boot = boot

    async def tell(self, record: str, kept_ms: int) -> Told:
        """Writes this gateway's record, and returns all. Raises StoreError."""
        before, nodes = await self._run("tell", record, kept_ms)
        return Told(before not in ("", self._boot), nodes)

    async def look(self) -> list[StoredNode]:
        """All records. Raises StoreError."""
        _, nodes = await self._run("look")
        return nodes

    async def leave(self) -> None:
        """Removes this gateway's record, unless another process with the same instance wrote it. Raises StoreError."""
        await self._run("leave")

    def report(self, instance: str) -> None:
        """Logs, once, that the record of this instance is malformed."""
        self._malformed.report(f"{NODES} {instance}")

    async def _run(self, mode: str, *arguments: str | int) -> tuple[str, list[StoredNode]]:
        """(the boot in the record that this instance had before, all records)."""
        asked = self._reader.evaluate(_NODES, SHARED_KEYS, [mode, self._instance, self._boot, *arguments])
        before, found, malformed = await self._reader.asked(asked)
        for name in malformed:
            self._malformed.report(name)
        return before, [StoredNode(*node) for node in found]
