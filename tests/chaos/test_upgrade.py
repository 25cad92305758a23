"""A rolling upgrade from the last version whose lists had another layout: both versions run beside each other."""

from __future__ import annotations

import subprocess
import tarfile
from io import BytesIO
from typing import TYPE_CHECKING

import pytest

from tests.chaos.mortal import Mortal
from tests.conftest import started_store
from tests.support.process import ROOT
from tests.support.scripted import Gated
from tests.support.waiting import until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from tests.support.scripted import Upstream
    from tests.support.store import Store

pytestmark = pytest.mark.timeout(180)

BEFORE = "d9a0ba301b234492dd45cb0daf60525cc88b07aa"  # lists under tsx:ollama:{index}:, two scripts for a status


@pytest.fixture(scope="module")
def version_before(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the package as it was."""
    found = subprocess.run(["git", "archive", BEFORE, "gateway"], cwd=ROOT, capture_output=True, check=False)
    if found.returncode:
        pytest.skip(f"no commit {BEFORE} here: this is no whole clone")
    directory = tmp_path_factory.mktemp("before")
    with tarfile.open(fileobj=BytesIO(found.stdout)) as archive:
        archive.extractall(directory, filter="data")
    return directory


@pytest.fixture
async def store(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Store]:
    """A store of its own."""
    store = await started_store(tmp_path_factory)
    yield store
    await store.close()


async def listed(gateway: Mortal, query: str = "") -> dict[str, str]:
    """Every task of the list, with its state."""
    answer = await gateway.http.get(f"/tasks/status?limit=1000{query}")
    assert answer.status_code == 200, answer.text
    return {task["task_id"]: task["state"] for task in answer.json()["items"]}


async def test_both_versions_run_beside_each_other(
    version_before: Path, store: Store, scripted: Upstream, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """The new one adopts what is there, ids are held across both, and the old one goes on as it was."""
    settings = {"REDIS_URL": store.url, "HEARTBEAT_SEC": "1"}
    old = Mortal(tmp_path_factory, scripted, GATEWAY_INSTANCE="old", **settings)
    new = Mortal(tmp_path_factory, scripted, GATEWAY_INSTANCE="new", **settings)
    old.directory = version_before
    try:
        await old.start()
        assert "tsx:ollama:2:" not in str(await store.keys())
        for n in range(50):
            assert (await old.ask("GET", "/v1/models", (b"X-Task-Id", b"old-%d" % n))).status == 200
        held = Gated()
        scripted.scripts.append(held)
        running = await old.send("POST", "/v1/chat/completions", (b"X-Task-Id", b"running"), body=b"{}")
        held.head()
        assert (await running.head()).status == 200
        await new.start()

        async def is_adopted() -> bool:
            return (await new.http.get("/tasks/status?limit=1000")).status_code == 200

        await until(is_adopted, what="the lists are built")
        expected = {f"old-{n}": "SUCCESS" for n in range(50)} | {"running": "RUNNING"}
        assert await listed(new) == await listed(old) == expected
        refused = await new.ask("POST", "/v1/chat/completions", (b"X-Task-Id", b"running"), body=b"{}")
        assert refused.status == 409
        for gateway, attempt in ((new, 2), (old, 3), (new, 4)):
            assert (await gateway.ask("GET", "/v1/models", (b"X-Task-Id", b"old-1"))).status == 200
            assert (await new.http.get("/tasks/status/old-1")).json()["extensions"]["attempt"] == attempt
        assert (await new.ask("GET", "/v1/models", (b"X-Task-Id", b"new-1"))).status == 200
        assert (await old.http.get("/tasks/status/new-1")).json()["state"] == "SUCCESS"
        held.piece(b"data: [DONE]\n\n")
        held.end()
        await until(lambda: ended(new), what="the end of the old one's stream is read at the new one")
        assert (await listed(new)).get("running") != "RUNNING"
        assert "running" not in await listed(new, "&state=RUNNING")
        old.check_log()
        new.check_log()
    finally:
        await old.put_down()
        await new.put_down()


async def ended(gateway: Mortal) -> bool:
    """Whether the stream's task has ended, as this gateway tells it."""
    return (await gateway.http.get("/tasks/status/running")).json()["state"] in ("SUCCESS", "FAILED")
