"""The interface of the table of gateways: what each writes there, and what it reads. Owns no connection and no key.

A record is a JSON text that `nodes.node` makes and checks.
"""

from typing import NamedTuple, Protocol


class StoredNode(NamedTuple):
    """The record of one gateway. `age_ms` is the time since it was written, by the store's clock."""

    instance: str
    age_ms: int
    record: str


class Told(NamedTuple):
    """What the table holds after a gateway wrote its record, and whose record was there before."""

    is_taken: bool  # another process with the same instance wrote the record that was there before
    nodes: list[StoredNode]  # of all gateways


class NodeStore(Protocol):
    """The records of all gateways that share a store, as one gateway process uses them. Each method raises StoreError.

    A record that is not written again is removed after `kept_ms`.
    """

    async def tell(self, record: str, kept_ms: int) -> Told:
        """Writes this gateway's record, and returns all."""
        ...

    async def look(self) -> list[StoredNode]:
        """All records."""
        ...

    async def leave(self) -> None:
        """Removes this gateway's record, unless another process with the same instance wrote it."""

    def report(self, instance: str) -> None:
        """Logs, once, that the record of this instance is malformed."""
