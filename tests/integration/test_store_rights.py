"""An account at the store that lacks rights, and a store that has to be trusted: what that costs, and what is said."""

from __future__ import annotations

import ssl
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.certificates import Authority
from tests.support.kept import KEEP
from tests.support.scripted import answering
from tests.support.streams import BODY, CHAT
from tests.support.tap import tapped
from tests.support.waiting import until

if TYPE_CHECKING:
    from tests.conftest import Launch, NewStore
    from tests.support.gateway import Gateway
    from tests.support.scripted import Upstream
    from tests.support.store import Store

[ACCOUNT] = [
    line.replace(">PASSWORD", ">secret").split()
    for line in Path(__file__).parents[2].joinpath("docs", "redis.md").read_text().splitlines()
    if line.startswith("ACL SETUSER ")
]


async def store_is(state: str, gateway: Gateway) -> None:
    """Wait until the gateway says this of its store."""

    async def is_so() -> bool:
        return bool((await gateway.http.get("/readyz")).json()["store"] == state)

    await until(is_so, what=f"the store is {state}")


ALONE = pytest.mark.alone  # an answer of the store that comes after 250 ms would be a warning
NO_TABLE = "WARNING gateway.nodes: the store does not keep the table of gateways"


@ALONE
@pytest.mark.parametrize("rights", ["-append", "-copy", "-hget -hmget -hset -hdel"])
async def test_without_rights_for_kept_answers_statuses_go_on(
    rights: str, launch: Launch, new_store: NewStore, upstream: Upstream, fresh_id: str
) -> None:
    """No answer is kept, as the status says; each end is in the store within seconds; the log says it once."""
    store = await new_store()
    await store.client.execute_command(*ACCOUNT, *rights.split())
    gateway = await launch(REDIS_URL=f"redis://gateway:secret@127.0.0.1:{store.port}/0")
    for number in range(3):
        upstream.then(answering(200, body=b"{}"), answering(200, body=b"{}"))
        task_id = f"{fresh_id}-{number}"
        answer = await gateway.ask("POST", CHAT, (b"X-Task-Id", task_id.encode()), KEEP, body=BODY)
        assert (answer.status, answer.data) == (200, b"{}")
        await until(partial(_is_success, store, task_id), 3, "its end is there")
        document = await store.document(task_id)
        assert document["extensions"]["response"] == "no_room"
        await gateway.ask("POST", CHAT, (b"X-Task-Id", f"{task_id}-plain".encode()), body=BODY)
        assert (await store.ended(f"{task_id}-plain"))["state"] == "SUCCESS"
    assert gateway.log.count("the store takes no kept answers: ") == 1, gateway.log
    told = gateway.log.replace("WARNING gateway.kept: the store takes no kept answers", "")
    if "-hget" in rights:  # the table of gateways needs it, too
        assert told.count(NO_TABLE) == 1
        told = told.replace(NO_TABLE, "")
    assert "WARNING" not in told
    await store_is("up", gateway)


async def _is_success(store: Store, task_id: str) -> bool:
    return '"SUCCESS"' in (await store.raw(task_id) or "")


async def test_a_store_has_to_be_trusted(
    launch: Launch, store: Store, upstream: Upstream, tmp_path: Path, fresh_id: str
) -> None:
    """With another authority it is away, and one line says why; once the right one is in the file, it is back."""
    right, wrong = Authority(tmp_path / "right", "right"), Authority(tmp_path / "wrong", "wrong")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(*right.issue("server"))
    file = tmp_path / "ca.pem"
    file.write_bytes(wrong.certificate.read_bytes())
    async with tapped(store.port, context) as tap:
        gateway = await launch(REDIS_URL=f"rediss://localhost:{tap.port}/0", REDIS_CA_FILE=str(file))
        upstream.then(answering(200, body=b"{}"))
        assert (await gateway.ask("POST", CHAT, (b"X-Task-Id", fresh_id.encode()), body=BODY)).status == 200
        await store_is("down", gateway)
        (tmp_path / "new.pem").write_bytes(right.certificate.read_bytes())
        (tmp_path / "new.pem").replace(file)
        await store_is("up", gateway)
        await until(lambda: _is_success(store, fresh_id), what="what ended meanwhile is written")
        said = "the store is away (its certificate is not trusted: unable to get local issuer certificate)"
        assert gateway.log.count(said) == gateway.log.count("the store is away") == 1, gateway.log
        await gateway.stop()
