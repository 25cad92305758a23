"""Kept answers in Redis: appended, read and deleted in atomic steps."""

from __future__ import annotations

import json
import logging
import os
import random
import signal
from typing import TYPE_CHECKING

import pytest

from gateway.store.address import Access
from gateway.store.answers import READ_BYTES, Part, Saved, StoredAnswer
from gateway.store.interface import StoreError, Written
from gateway.store.redis import RedisStore
from gateway.store.redis_answers import RedisAnswers
from gateway.tasks.document import complete_document, document_head, fields_of
from gateway.tasks.stages import Stage
from gateway.tasks.task import Task
from tests.support.answers import (
    ANSWER_BYTES,
    ANSWERS,
    EVENT_ID,
    HEAD,
    MOST,
    PREFIX,
    TTL_SECONDS,
    client_of,
    counted,
    part,
    save,
    sizes,
    total,
)
from tests.support.forged import KINDS, forge_key
from tests.support.records import BOOT, put, record, stage_and_attempt, text_of
from tests.support.store import DOCUMENTS
from tests.support.tap import tapped
from tests.support.waiting import until, within

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping
    from pathlib import Path

    from gateway.store.interface import Record
    from tests.conftest import NewStore
    from tests.support.store import Store as Server


@pytest.fixture
async def answers(server: Server, patience: None) -> AsyncIterator[RedisAnswers]:
    """The kept answers, on the empty server."""
    await server.client.flushall()
    answers = client_of(server)
    yield answers
    await answers.close()


@pytest.fixture
async def statuses(server: Server, answers: RedisAnswers) -> AsyncIterator[RedisStore]:
    """The statuses on the same server."""
    store = RedisStore(server.url, boot=BOOT, longest_ttl_seconds=3600)
    yield store
    await store.close()


# -- writing --


async def test_what_is_saved_is_read(answers: RedisAnswers) -> None:
    """Head and body come back as they were, byte for byte, while the answer grows and after its end."""
    every_byte = bytes(range(256)) + b"\r\n \xff\x00"
    assert await save(answers, part(head=HEAD + "é")) == [Saved.SAVED]
    assert await answers.read("t", 0) == StoredAnswer(None, "1-a", HEAD + "é", 0, b"")
    assert await save(answers, part(every_byte), part(b"more", len(every_byte), is_end=True)) == [Saved.SAVED] * 2
    whole = every_byte + b"more"
    assert await answers.read("t", 0) == StoredAnswer(None, "1-a", HEAD + "é", len(whole), whole)
    assert (await answers.read("t", 250)).piece == whole[250:]
    assert (await answers.read("t", len(whole))).piece == b""
    assert await answers.read("t", len(whole) + 9) == StoredAnswer(None, "1-a", HEAD + "é", len(whole), b"")


async def test_nothing_is_read_of_an_unknown_task(answers: RedisAnswers) -> None:
    """A task without an answer has no generation, no head and no bytes."""
    assert await answers.read("unknown", 0) == StoredAnswer(None, "", "", 0, b"")


async def test_nothing_to_save_is_saved(answers: RedisAnswers) -> None:
    """An empty call is answered with no results, and asks the server nothing."""
    assert await save(answers) == []
    assert answers._pipeline.connections == 0


async def test_a_read_is_bounded(server: Server, answers: RedisAnswers) -> None:
    """A read returns at most READ_BYTES of the body, from any offset, and the length of all."""
    body = os.urandom(3 * READ_BYTES)
    wide = client_of(server, 10 * READ_BYTES)
    await save(wide, part(body, head=HEAD))
    found = await wide.read("t", READ_BYTES + 5)
    assert (found.length, found.piece) == (len(body), body[READ_BYTES + 5 : 2 * READ_BYTES + 5])
    await wide.close()


async def test_a_batch_is_one_command(server: Server, answers: RedisAnswers) -> None:
    """A save costs one script call, whatever it holds, and a read costs one."""
    await server.client.config_resetstat()
    batch = [part(b"x" * n, task_id=f"t{n}", head=HEAD, is_end=bool(n % 2)) for n in range(50)]
    assert await save(answers, *batch) == [Saved.SAVED] * 50
    assert (await server.client.info("commandstats"))["cmdstat_evalsha"]["calls"] == 1
    await answers.read("t1", 0)  # the connection is open, the script is loaded
    await server.client.config_resetstat()
    await answers.read("t1", 0)
    assert (await server.client.info("commandstats"))["cmdstat_evalsha"]["calls"] == 1


async def test_results_come_in_the_order_of_the_parts(answers: RedisAnswers) -> None:
    """Each part has a result of its own, and parts of one answer may follow each other in one call."""
    batch = [part(b"ab", head=HEAD), part(b"cd", 2), part(b"x", 9), part(task_id="other"), part(b"e", 4)]
    assert await save(answers, *batch) == [Saved.SAVED, Saved.SAVED, Saved.MISSING, Saved.MISSING, Saved.SAVED]
    assert (await answers.read("t", 0)).piece == b"abcde"


async def test_a_repeated_part_changes_nothing(server: Server, answers: RedisAnswers) -> None:
    """A part whose bytes are stored already is SAVED, and only what is missing of it is appended."""
    await save(answers, part(b"abcd", head=HEAD))
    for _ in range(2):
        assert await save(answers, part(b"abcd", head=HEAD), part(b"b", 1), part(b"cdef", 2)) == [Saved.SAVED] * 3
    assert (await answers.read("t", 0)).piece == b"abcdef"
    assert (await counted(server))["t 1-a"] == f"{len('1-a 1000 ' + HEAD) + 6} "


async def test_a_part_without_what_comes_before_is_missing(server: Server, answers: RedisAnswers) -> None:
    """Without a head, or with a gap before the piece, nothing is written; with all of it the answer is whole again."""
    assert await save(answers, part(b"x")) == [Saved.MISSING]
    assert await save(answers, part(b"x", 3, head=HEAD)) == [Saved.MISSING]
    assert await server.keys() == []
    await save(answers, part(b"abc", head=HEAD))
    assert await save(answers, part(b"x", 4)) == [Saved.MISSING]
    assert (await answers.read("t", 0)).piece == b"abc"


@pytest.mark.parametrize("evicted", ["answer:t", "body:t 1-a"])
async def test_an_evicted_half_is_missing_until_all_is_written_anew(
    server: Server, answers: RedisAnswers, evicted: str
) -> None:
    """If Redis evicts the head or the body, the next part is MISSING, and the whole answer can be written again."""
    await save(answers, part(b"abc", head=HEAD))
    await server.client.delete(PREFIX + evicted)
    found = await answers.read("t", 0)
    assert (found.head, found.length) == (("", 0) if evicted == "answer:t" else (HEAD, 0))
    assert await save(answers, part(b"d", 3)) == [Saved.MISSING]
    assert await save(answers, part(b"abcd", head=HEAD)) == [Saved.SAVED]
    assert (await answers.read("t", 0)).piece == b"abcd"
    assert await total(server) == sum((await sizes(server)).values())


async def test_a_head_may_be_replaced(server: Server, answers: RedisAnswers) -> None:
    """A part with another head of the same answer replaces the head and keeps the body."""
    await save(answers, part(b"abc", head=HEAD))
    assert await save(answers, part(b"", 3, head='{"status":200,"end":"whole"}', is_end=True)) == [Saved.SAVED]
    assert await answers.read("t", 0) == StoredAnswer(None, "1-a", '{"status":200,"end":"whole"}', 3, b"abc")
    assert await total(server) == sum((await sizes(server)).values())


async def test_the_answer_of_a_newer_request_replaces_the_older(server: Server, answers: RedisAnswers) -> None:
    """A newer generation takes the place of an older one, whose body goes; parts of the older one are SUPERSEDED."""
    await save(answers, part(b"old", head=HEAD, owner="alice"))
    newer = {"generation": "2-b", "created_ms": 2_000}
    assert await save(answers, part(b"x", **newer)) == [Saved.MISSING]  # type: ignore[arg-type]
    assert (await answers.read("t", 0)).piece == b"old"
    assert await save(answers, part(b"new", head=HEAD, **newer)) == [Saved.SAVED]  # type: ignore[arg-type]
    assert await save(answers, part(b"more", 3), part(b"old", head=HEAD)) == [Saved.SUPERSEDED] * 2
    assert await answers.read("t", 0) == StoredAnswer(None, "2-b", HEAD, 3, b"new")
    assert not await server.client.exists(PREFIX + "body:t 1-a")
    assert set(await counted(server)) == {"t 2-b", "@"}


async def test_an_answer_takes_no_place_of_a_request_in_flight(answers: RedisAnswers, statuses: RedisStore) -> None:
    """While another gateway's request has the id, a newer answer is SUPERSEDED, whether or not there is one already.

    A gateway that was cut off from the store has it, and writes it before it claims the id. Its own request before that
    does not count, nor does one that has ended.
    """
    newer = part(b"x", head='{"name":"elsewhere:2000:t"}', generation="1-b", created_ms=2_000, is_end=True)
    await put(statuses, [record("t", Stage.STREAMING)])
    assert await save(answers, newer) == [Saved.SUPERSEDED]
    assert await save(answers, part(b"old", head=f'{{"name":"{BOOT}:1000:t"}}')) == [Saved.SAVED]
    assert await save(answers, newer) == [Saved.SUPERSEDED]
    assert (await answers.read("t", 0)).piece == b"old"
    own = newer._replace(generation="1-c", head=f'{{"name":"{BOOT}:2000:t"}}')
    assert await save(answers, own) == [Saved.SAVED]
    await put(statuses, [record("t", Stage.DONE)])
    assert await save(answers, newer._replace(created_ms=3_000)) == [Saved.SAVED]


async def test_of_two_requests_of_one_moment_the_later_writer_stays(answers: RedisAnswers) -> None:
    """With the same creation time, a part with a head replaces the other generation, and one without is MISSING."""
    await save(answers, part(b"a", head=HEAD))
    assert await save(answers, part(b"b", generation="1-b")) == [Saved.MISSING]
    assert await save(answers, part(b"b", generation="1-b", head=HEAD)) == [Saved.SAVED]
    assert (await answers.read("t", 0)).piece == b"b"


# -- TTLs --


async def test_every_key_has_a_ttl_and_is_ours(server: Server, answers: RedisAnswers) -> None:
    """All keys are under our prefix and expire: those of an answer when it says, the counts no earlier."""
    await save(answers, part(b"abc", head=HEAD, owner="alice", is_end=True), part(b"x", task_id="u", head=HEAD))
    await answers.drop("u", "1-a", EVENT_ID)
    keys = set(await server.keys())
    assert keys == {PREFIX + name for name in ("answer:t", "body:t 1-a", "answer:u", "answers", "answer-bytes")}
    for key in keys:
        longest = TTL_SECONDS + (60 if key in (ANSWERS, ANSWER_BYTES) else 0)
        assert TTL_SECONDS - 5 <= await server.client.ttl(key) <= longest


async def test_each_part_renews_the_ttl(server: Server, answers: RedisAnswers) -> None:
    """A part without anything new renews the TTLs of head, body and counts, up or down; the end keeps them."""
    await save(answers, part(b"abc", head=HEAD))
    for ttl_seconds in (6_000, 60, 6_000):
        for is_end in (False, True):
            assert await save(answers, part(b"", 3, ttl_seconds=ttl_seconds, is_end=is_end)) == [Saved.SAVED]
            for key in ("answer:t", "body:t 1-a"):
                assert ttl_seconds - 5 <= await server.client.ttl(PREFIX + key) <= ttl_seconds
            left = (await server.client.zscore(ANSWERS, "t 1-a") or 0) - (await server.client.time())[0]
            assert ttl_seconds - 5 <= left <= ttl_seconds
    assert await server.client.ttl(ANSWERS) >= 5_990
    assert (await answers.read("t", 0)).piece == b"abc"


async def test_a_whole_body_takes_no_more_memory_than_its_bytes(server: Server, answers: RedisAnswers) -> None:
    """After the last part the body is stored anew, in a quarter more than its bytes at most, and as it was."""
    for size in (65_537, 300_001, 1_048_577):
        body = random.Random(size).randbytes(size)
        wide = client_of(server, 10 * size)
        pieces = [part(body[at : at + 16_384], at, head="" if at else HEAD) for at in range(0, size, 16_384)]
        await save(wide, *pieces[:-1], pieces[-1]._replace(is_end=True))
        used = [await server.client.memory_usage(PREFIX + key) or 0 for key in ("body:t 1-a", "answer:t")]
        assert size < sum(used) <= 1.253 * size
        assert await server.client.getrange(PREFIX + "copy", 0, -1) == ""
        raw = b"".join([(await wide.read("t", at)).piece for at in range(0, size, READ_BYTES)])
        assert raw == body
        await answers.drop("t", "1-a", EVENT_ID)
        await server.client.flushall()
        await wide.close()


# -- deleting --


def kept_record(
    stage: Stage = Stage.DONE,
    *,
    created_ms: int = 1_000,
    attempt: int = 1,
    response: str | None = "kept",
    texts: Mapping[str, str] | None = None,
) -> Record:
    """The status of a kept task. `texts` are values of the task by their names."""
    task = Task("t", "POST", "/v1/x", "", created_ms, stage=stage)
    for name, value in {"response": response, **(texts or {})}.items():
        setattr(task, name, value)
    head = document_head(task, algorithm_id="a", instance="i", boot=BOOT, now=created_ms / 1000)
    return record("t", stage, created_ms=created_ms, attempt=attempt)._replace(head=head, ttl_seconds=TTL_SECONDS)


async def test_a_dropped_answer_is_gone_for_good(server: Server, answers: RedisAnswers) -> None:
    """After a drop there is no head, no body and no count; its parts are DROPPED, and the tombstone keeps the TTL."""
    await save(answers, part(b"abc", head=HEAD, ttl_seconds=100))
    assert not await answers.drop("t", "1-b", EVENT_ID), "another generation"
    assert not await answers.drop("u", "1-a", EVENT_ID), "another task"
    assert await answers.drop("t", "1-a", EVENT_ID)
    assert await answers.read("t", 0) == StoredAnswer(None, "1-a", "", 0, b"")
    assert await server.keys() == [PREFIX + "answer:t"]
    assert 90 <= await server.client.ttl(PREFIX + "answer:t") <= 100
    assert not await answers.drop("t", "1-a", EVENT_ID)
    assert await save(answers, part(b"d", 3), part(b"abcd", head=HEAD)) == [Saved.DROPPED] * 2
    assert await save(answers, part(b"n", head=HEAD, generation="2-a", created_ms=2_000)) == [Saved.SAVED]


async def test_the_status_says_that_the_answer_was_deleted(
    server: Server, answers: RedisAnswers, statuses: RedisStore
) -> None:
    """The document of an ended task says `deleted`, with the new event_id and the same TTL; all else is unchanged."""
    await put(statuses, [kept_record()])
    await server.client.expire(DOCUMENTS + "t", 50)
    before = await server.document("t")
    await save(answers, part(b"abc", head=HEAD))
    assert (await answers.read("t", 0)).document == await server.raw("t")
    assert await answers.drop("t", "1-a", EVENT_ID)
    text = await server.raw("t")
    assert fields_of(text or "", "t") == before | {
        "event_id": EVENT_ID, "extensions": before["extensions"] | {"response": "deleted"},
    }  # fmt: skip
    assert 45 <= await server.ttl("t") <= 50
    assert (await answers.read("t", 0)).document == text


NASTY = '","response":"kept","event_id":"x'


@pytest.mark.parametrize("name", ["path", "query", "message", "label", "method"])
async def test_what_a_client_sends_is_never_taken_for_the_field(
    server: Server, answers: RedisAnswers, statuses: RedisStore, name: str
) -> None:
    """A text of the client that looks like the field stays as it is, whether the answer is kept or not."""
    for response in ("kept", None):
        await server.client.flushall()
        one = kept_record(response=response, texts={name: NASTY})
        await put(statuses, [one])
        before = await server.document("t")
        await save(answers, part(b"abc", head=HEAD))
        assert await answers.drop("t", "1-a", EVENT_ID)
        after = fields_of(await server.raw("t") or "", "t")
        changed = {"event_id": EVENT_ID, "extensions": before["extensions"] | {"response": "deleted"}}
        assert after == before | (changed if response else {})


OTHER_DOCUMENTS = {
    "still running": kept_record(Stage.STREAMING),
    "not kept": kept_record(response=None),
    "too large": kept_record(response="too_large"),
    "a newer attempt": kept_record(created_ms=2_000, attempt=2),
}


@pytest.mark.parametrize("one", OTHER_DOCUMENTS.values(), ids=OTHER_DOCUMENTS)
async def test_another_status_stays_as_it_is(
    server: Server, answers: RedisAnswers, statuses: RedisStore, one: Record
) -> None:
    """A drop changes no document of a task in flight, of another request, or one that does not say `kept`."""
    await put(statuses, [one])
    before = await server.raw("t")
    await save(answers, part(b"abc", head=HEAD))
    assert await answers.drop("t", "1-a", EVENT_ID)
    assert await server.raw("t") == before


async def test_the_old_end_does_not_come_back(answers: RedisAnswers, statuses: RedisStore) -> None:
    """The end that its gateway remembers, written again, does not replace the one that says `deleted`."""
    end = kept_record()
    assert await put(statuses, [end]) == [Written(True, 1)]
    await save(answers, part(b"abc", head=HEAD))
    await answers.drop("t", "1-a", EVENT_ID)
    text = await text_of(statuses, "t")
    assert await put(statuses, [end, end._replace(attempt=0)]) == [Written(False, 1)] * 2
    assert await text_of(statuses, "t") == text
    assert '"response":"deleted"' in (text or "")
    again = kept_record(created_ms=2_000, attempt=0)
    assert await put(statuses, [again]) == [Written(True, 2)], "a new attempt begins as ever"


# -- what others write there --


WRONG_KEYS = ["answers", "answer-bytes", "answer:t", "body:t 1-a"]


@pytest.mark.parametrize("key", WRONG_KEYS)
@pytest.mark.parametrize("kind", KINDS)
async def test_a_key_of_another_type_is_replaced(
    server: Server, answers: RedisAnswers, caplog: pytest.LogCaptureFixture, key: str, kind: str
) -> None:
    """Whatever has another type is deleted and logged once; saves, reads and drops go on."""
    expected = {"answers": "zset", "answer-bytes": "hash"}.get(key, "string")
    if kind == expected:
        return
    for _ in range(2):
        await save(answers, part(b"abc", head=HEAD))
        await forge_key(server.client, PREFIX + key, kind)
        assert await save(answers, part(b"abcd", head=HEAD), part(b"x", task_id="u", head=HEAD)) == [Saved.SAVED] * 2
        assert (await answers.read("t", 0)).piece == b"abcd"
        await forge_key(server.client, PREFIX + key, kind)
        found = await answers.read("t", 0)
        assert found.piece == {"answer:t": b"", "body:t 1-a": b""}.get(key, b"abcd")
        if key in ("answers", "answer-bytes"):
            assert await answers.drop("t", "1-a", EVENT_ID)
            assert not await answers.drop("t", "1-a", EVENT_ID)
        await server.client.flushall()
    reports = [line for line in caplog.messages if "malformed" in line and key in line]
    assert len(reports) == 1


async def test_a_body_of_another_type_without_a_head_is_replaced(server: Server, answers: RedisAnswers) -> None:
    """The body is deleted also if the head does not name it, and the part is written."""
    await forge_key(server.client, PREFIX + "body:t 1-a", "list")
    assert await save(answers, part(b"abc", head=HEAD)) == [Saved.SAVED]
    assert (await answers.read("t", 0)).piece == b"abc"


@pytest.mark.parametrize(
    "text", ["x", "", "1-a", "1-a x {}", "1-a  {}", " 1 {}", "1-a 99999999999999 {}", b"\xff\xfe 1", b"\xff 1 {}"]
)
async def test_a_text_that_is_no_head_counts_as_none(server: Server, answers: RedisAnswers, text: str | bytes) -> None:
    """A malformed head is no answer for a reader, and the next part with a head replaces it."""
    await server.client.set(PREFIX + "answer:t", text)
    found = await answers.read("t", 0)
    assert (found.generation, found.head, found.length, found.piece) == ("", "", 0, b"")
    assert not await answers.drop("t", "1-a", EVENT_ID)
    assert await save(answers, part(b"abc")) == [Saved.MISSING]
    assert await save(answers, part(b"abc", head=HEAD)) == [Saved.SAVED]
    assert (await answers.read("t", 0)).piece == b"abc"


async def test_a_head_that_is_no_text_is_no_answer(server: Server, answers: RedisAnswers) -> None:
    """Bytes that are not UTF-8 do not fail a read."""
    await server.client.set(PREFIX + "answer:t", b"1-a 1 \xff\xfe")
    assert await answers.read("t", 0) == StoredAnswer(None, "", "", 0, b"")


@pytest.mark.parametrize("forged", ["x", "-1", "1.5", "1e300", "9" * 400, ""])
@pytest.mark.parametrize("name", ["@", "@alice", "t 1-a"])
async def test_a_count_that_is_no_number_stops_nothing(
    server: Server, answers: RedisAnswers, name: str, forged: str
) -> None:
    """A malformed count is replaced by the next part, and the totals are right again for what is still written."""
    await save(answers, part(b"abc", head=HEAD, owner="alice"))
    await server.client.hset(ANSWER_BYTES, name, forged)
    assert await save(answers, part(b"d", 3, owner="alice")) == [Saved.SAVED]
    size = len("1-a 1000 " + HEAD) + 4
    if name != "t 1-a":
        assert await counted(server) == {"t 1-a": f"{size} alice", "@": str(size), "@alice": str(size)}
    await server.client.hset(ANSWER_BYTES, name, forged)
    assert await answers.drop("t", "1-a", EVENT_ID)
    assert await save(answers, part(b"abc", head=HEAD, task_id="u", owner="alice")) == [Saved.SAVED]


async def test_foreign_members_of_the_counts_are_swept(server: Server, answers: RedisAnswers) -> None:
    """Members that no gateway wrote leave the counts as they are, and go."""
    await save(answers, part(b"abc", head=HEAD))
    before = await counted(server)
    await server.client.zadd(ANSWERS, {"x": 1, "é \n": 2, "": 3})
    await save(answers, part(b"abc", head=HEAD))
    assert await counted(server) == before
    assert await server.client.zrange(ANSWERS, 0, -1) == ["t 1-a"]


@pytest.mark.parametrize("forged", ["x", "{}", b"\xff", json.dumps({"extensions": 1}), "list"])
async def test_a_malformed_document_is_none(
    server: Server, answers: RedisAnswers, caplog: pytest.LogCaptureFixture, forged: str | bytes
) -> None:
    """Under the task's key, what is no document is read as none and logged once; a drop leaves it alone."""
    if forged == "list":
        await server.client.rpush(DOCUMENTS + "t", "x")
    else:
        await server.client.set(DOCUMENTS + "t", forged)
    await save(answers, part(b"abc", head=HEAD))
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            assert await answers.read("t", 0) == StoredAnswer(None, "1-a", HEAD, 3, b"abc")
    assert sum("ts:ollama:t" in line for line in caplog.messages) == 1
    assert await answers.drop("t", "1-a", EVENT_ID)
    assert await server.client.exists(DOCUMENTS + "t")


# -- a server that fails --


async def test_the_password_comes_from_its_file(new_store: NewStore, tmp_path: Path) -> None:
    """Saves and reads log in with the user, and with the password that the file has when a connection is opened."""
    server = await new_store()
    path = tmp_path / "password"
    for n, password in enumerate(("first", "second")):
        await server.client.execute_command(
            "ACL", "SETUSER", "me", "on", "resetpass", f">{password}", "~*", "&*", "+@all"
        )
        answers = RedisAnswers(Access(server.url, user="me", password_file=path), max_stored_bytes=MOST)
        path.write_text("wrong\n")
        with pytest.raises(StoreError):
            await save(answers, part(b"x", n, head=HEAD))
        with pytest.raises(StoreError):
            await answers.read("t", 0)
        path.write_text(password + "\n")
        assert await save(answers, part(b"x", n, head=HEAD)) == [Saved.SAVED]
        assert (await answers.read("t", 0)).length == n + 1
        await answers.close()


async def failure_of(answers: RedisAnswers, one: Part) -> StoreError | None:
    """The error with which a part fails."""
    try:
        await save(answers, one)
    except StoreError as error:
        return error
    return None


async def test_a_frozen_server_is_a_store_error_in_time(new_store: NewStore) -> None:
    """A server that never replies is given up after about a second, by saves, reads and drops, and used again later."""
    server = await new_store()
    answers = client_of(server)
    await save(answers, part(b"abc", head=HEAD))
    await answers.read("t", 0)
    assert server.process is not None
    os.kill(server.process.pid, signal.SIGSTOP)
    try:
        for call in (save(answers, part(b"d", 3)), answers.read("t", 0), answers.drop("t", "1-a", EVENT_ID)):
            with pytest.raises(StoreError):
                await within(10, call)
    finally:
        os.kill(server.process.pid, signal.SIGCONT)

    async def is_back() -> bool:
        return await failure_of(answers, part(b"abcd", head=HEAD)) is None

    await until(is_back, 30, "it is used again")
    await answers.close()


@pytest.mark.usefixtures("patience")
async def test_a_server_that_is_gone_is_a_store_error(new_store: NewStore) -> None:
    """A server killed under an open connection fails saves, reads and drops; the next server has to get all anew."""
    server = await new_store()
    answers = client_of(server)
    await save(answers, part(b"abc", head=HEAD))
    await answers.read("t", 0)
    await server.kill()
    for _ in range(2):
        for call in (save(answers, part(b"d", 3)), answers.read("t", 0), answers.drop("t", "1-a", EVENT_ID)):
            with pytest.raises(StoreError, match=r"\w"):
                await within(30, call)
    await server.start()
    assert await save(answers, part(b"d", 3)) == [Saved.MISSING]
    assert await save(answers, part(b"abcd", head=HEAD)) == [Saved.SAVED]
    assert (await answers.read("t", 0)).piece == b"abcd"
    await answers.close()


async def test_scripts_may_be_forgotten(server: Server, answers: RedisAnswers) -> None:
    """After SCRIPT FLUSH (a restart, a failover) saves, reads and drops go on."""
    for n in range(3):
        await server.client.script_flush()
        assert await save(answers, part(b"x", n, head=HEAD)) == [Saved.SAVED]
        await server.client.script_flush()
        assert (await answers.read("t", 0)).length == n + 1
    await server.client.script_flush()
    assert await answers.drop("t", "1-a", EVENT_ID)


ODD = {
    "a number": b":1\r\n",
    "nothing": b"$-1\r\n",
    "an empty list": b"*0\r\n",
    "two for one": b"*2\r\n*2\r\n$5\r\nsaved\r\n$5\r\nsaved\r\n*0\r\n",
    "a word that is no result": b"*2\r\n*1\r\n$4\r\nlost\r\n*0\r\n",
}


@pytest.mark.parametrize("odd", ODD.values(), ids=ODD)
async def test_a_reply_that_cannot_be_understood_fails_the_save(
    server: Server, answers: RedisAnswers, odd: bytes
) -> None:
    """The caller is told once, and that connection is not used any more."""
    async with tapped(server.port) as tap:
        behind = RedisAnswers(tap.url, max_stored_bytes=MOST)
        await save(behind, part(b"a", head=HEAD))
        told: list[object] = []
        tap.open.clear()
        behind.save([part(b"b", 1)], told.append)
        tap.say(odd)
        await until(lambda: bool(told), 30, "it is told")
        assert [type(each) for each in told] == [StoreError]
        tap.open.set()
        assert await save(behind, part(b"b", 1)) == [Saved.SAVED]
        assert tap.connections == 2
        assert len(told) == 1
        await behind.close()


@pytest.mark.usefixtures("patience")
async def test_a_full_server_refuses_and_comes_back(new_store: NewStore) -> None:
    """Out of memory (noeviction) is StoreError for saves, and reads go on; with room again saves work."""
    server = await new_store()
    answers = client_of(server)
    await save(answers, part(b"abc", head=HEAD))
    await server.client.config_set("maxmemory", "1")
    with pytest.raises(StoreError):
        await save(answers, part(b"d", 3))
    assert (await answers.read("t", 0)).piece == b"abc"
    await server.client.config_set("maxmemory", "0")
    assert await save(answers, part(b"d", 3)) == [Saved.SAVED]
    assert await total(server) == sum((await sizes(server)).values())
    await answers.close()


async def test_a_stopped_client_answers_what_it_was_asked(server: Server, answers: RedisAnswers) -> None:
    """A save under way when the client closes is answered with a StoreError."""
    told: list[object] = []
    answers.save([part(b"abc", head=HEAD)], told.append)
    await answers.close()
    assert [type(each) for each in told] == [StoreError]


async def test_a_statuses_end_is_read_with_its_answer(answers: RedisAnswers, statuses: RedisStore) -> None:
    """A read has the status document and the answer of one moment."""
    await save(answers, part(b"abc", head=HEAD))
    await put(statuses, [kept_record()])
    found = await answers.read("t", 1)
    assert found == StoredAnswer(complete_document(kept_record_text(found), 1), "1-a", HEAD, 3, b"bc")
    assert await stage_and_attempt(statuses, "t") == ("done", 1)


def kept_record_text(found: StoredAnswer) -> str:
    """The head of the document that was read."""
    return (found.document or "").partition('1,"lost_after_ms"')[0]
