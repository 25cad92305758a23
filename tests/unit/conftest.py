"""Owns what several unit tests of the store share: a server that each file has to itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.conftest import started_store

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    import pytest

    from tests.support.store import Store


@pytest.fixture(scope="module")
async def server(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Store]:
    """A server of one file's own, which may be emptied."""
    server = await started_store(tmp_path_factory)
    yield server
    await server.close()
