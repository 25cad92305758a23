"""A task's moves, its document and its id."""

from __future__ import annotations

import json
import re
import uuid
from dataclasses import fields
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.tasks.document import complete_document, document_head, lost_document
from gateway.tasks.stages import FINAL_RANK, Stage, State
from gateway.tasks.task import (
    CUT,
    REDACTED,
    TARGET_CHARACTERS,
    Reason,
    Task,
    failed_stage,
    is_valid_id,
    new_id,
    redact_query,
    stored_target,
)

DOCUMENT_KEYS = {
    "version", "event_type", "event_id", "algorithm_id", "task_id", "state", "stage", "message", "timestamp",
    "extensions",
}  # fmt: skip
EXTENSION_KEYS = {
    "method", "path", "query", "stream", "status_code", "reason", "created_ms", "started_ms", "first_byte_ms",
    "finished_ms", "request_bytes", "response_bytes", "attempt", "instance",
}  # fmt: skip
OWN_ADDITIONS = {
    "is_detached", "response", "is_presumed", "boot", "owner", "label", "queue_position", "queue_length",
    "lost_after_ms",
}  # fmt: skip


def new_task(path: str = "/v1/models", query: str = "") -> Task:
    """A task that has just begun."""
    return Task("t-1", "GET", path, query, created_ms=1000)


def document(task: Task, now: float = 1.5, attempt: int = 1) -> dict[str, Any]:
    """The document of `task` as a poller reads it."""
    head = document_head(task, algorithm_id="a", instance="host-1", boot="b", now=now)
    found: dict[str, Any] = json.loads(complete_document(head, attempt))
    return found


# -- ids --

GOOD_IDS = [
    "a", "Z", "0", "7f", "task-1", "a.b", "a_b", "a:b", "a@b", "a-", "a.", "a_", "a:", "a@", "0-0", "A" * 128,
    "user@host:8080", "3f2b8c9e-1c1d-4a5e-9f00-aabbccddeeff", "x" + "._:@-" * 25, "req.2026-01-01_12:00:00",
]  # fmt: skip
BAD_IDS = [
    "", " ", "-a", ".a", "_a", ":a", "@a", "..", "a b", " a", "a ", "a\n", "\na", "a\tb", "a/b", "a\\b", "a?b", "a#b",
    "a%20b", "a+b", "a=b", "a&b", "a,b", "a;b", "a'b", 'a"b', "a(b)", "a[b]", "a{b}", "a<b>", "a*", "a!", "a$", "a^",
    "a|b", "a~b", "a`b", "a\x00", "é", "aé", "\uff11", "٣", "\u0410", "\uff41", "a\u200b", "A" * 129, "*",
    "ts:ollama:\n", "😀",
]  # fmt: skip


@pytest.mark.parametrize("text", GOOD_IDS)
def test_a_good_id_is_taken(text: str) -> None:
    """A letter or digit first, then up to 127 letters, digits, dots, underscores, colons, at signs and hyphens."""
    assert is_valid_id(text)


@pytest.mark.parametrize("text", BAD_IDS)
def test_a_bad_id_is_refused(text: str) -> None:
    """Anything else is no id: other characters, letters and digits of other alphabets, too long, a final line break."""
    assert not is_valid_id(text)


@given(st.text(min_size=1, max_size=140))
def test_an_id_is_what_the_contract_says(text: str) -> None:
    """The rule, written character by character, decides the same."""
    first = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
    assert is_valid_id(text) == (text[0] in first and len(text) <= 128 and set(text) <= set(first + "._:@-"))


def test_a_new_id_is_a_uuid4() -> None:
    """Generated ids are random UUIDs of version 4, all different, and valid ids themselves."""
    ids = {new_id() for _ in range(1000)}
    assert len(ids) == 1000
    for text in ids:
        parsed = uuid.UUID(text)
        assert (str(parsed), parsed.version, parsed.variant) == (text, 4, uuid.RFC_4122)
        assert is_valid_id(text)
    assert {text[19] for text in ids} == set("89ab")
    for place in {*range(36)} - {8, 13, 14, 18, 19, 23}:
        assert {text[place] for text in ids} == set("0123456789abcdef")


# -- states --

STATE_OF_STAGE = {
    "queued": "PENDING", "forwarding": "RUNNING", "streaming": "RUNNING", "done": "SUCCESS", "error": "FAILED",
    "cancelled": "FAILED", "shutdown": "FAILED", "lost": "FAILED",
}  # fmt: skip


def test_states_and_stages_are_the_contracts() -> None:
    """Four states, eight stages, and each stage belongs to one state."""
    assert {str(state) for state in State} == {"PENDING", "RUNNING", "SUCCESS", "FAILED"}
    assert {str(stage): str(stage.state) for stage in Stage} == STATE_OF_STAGE


def test_the_reasons_are_the_contracts() -> None:
    """Fourteen reasons, and each leads to a failed stage."""
    assert {str(reason) for reason in Reason} == {
        "upstream_status", "upstream_unavailable", "upstream_error", "upstream_truncated", "stream_incomplete",
        "stream_error", "client_disconnect", "cancelled", "timeout", "shutdown", "lost", "gateway_error",
        "queue_full", "response_too_large",
    }  # fmt: skip
    assert all(failed_stage(reason).state is State.FAILED for reason in Reason)


@pytest.mark.parametrize(
    ("reason", "stage"),
    [("client_disconnect", "cancelled"), ("cancelled", "cancelled"), ("shutdown", "shutdown"), ("lost", "lost"),
     ("upstream_status", "error"), ("timeout", "error"), ("stream_incomplete", "error"), ("gateway_error", "error")],
)  # fmt: skip
def test_a_reason_decides_the_stage(reason: str, stage: str) -> None:
    """Leaving and cancelling are `cancelled`, a stop is `shutdown`, a lost gateway `lost`, the rest `error`."""
    assert failed_stage(Reason(reason)) == stage


@pytest.mark.parametrize("now", Stage)
@pytest.mark.parametrize("then", Stage)
def test_only_forward_and_never_from_the_end(now: Stage, then: Stage) -> None:
    """A stage follows another exactly when it is later in life; nothing follows a final one."""
    order = ["queued", "forwarding", "streaming"]
    is_later = then not in order or (now in order and order.index(then) > order.index(now))
    task = Task("t", "GET", "/v1/x", "", 1, stage=now)
    assert (task._advance(then, "", 0) is not None) == (now in order and is_later)
    assert task.stage is (then if now in order and is_later else now)


steps = st.one_of(
    st.just(("forward",)),
    st.tuples(st.just("answer"), st.integers(100, 599), st.booleans()),
    st.tuples(st.just("finish"), st.none() | st.sampled_from(Reason)),
)


def take(task: Task, step: tuple[Any, ...], now_ms: int) -> bool:
    """One step of a task's life."""
    if step[0] == "forward":
        return task.forward(now_ms)
    if step[0] == "answer":
        return task.answer(step[1], step[2], now_ms)
    return task.finish(step[1], f"ended at {now_ms}", now_ms)


def snapshot(task: Task) -> list[Any]:
    """All fields of a task."""
    return [getattr(task, field.name) for field in fields(task)]


@given(st.lists(steps, max_size=12))
def test_no_order_of_steps_goes_back(taken: list[tuple[Any, ...]]) -> None:
    """Steps in any order never lower the rank; a refused step changes nothing; an ended task never changes."""
    task = new_task()
    for now_ms, step in enumerate(taken, start=2000):
        before, rank, has_ended = snapshot(task), task.stage.rank, task.is_final
        is_taken = take(task, step, now_ms)
        assert task.stage.rank > rank if is_taken else snapshot(task) == before
        assert not (has_ended and is_taken)
        assert task.is_final == (task.stage.rank == FINAL_RANK) == (task.finished_ms is not None)
        assert (task.state is State.FAILED) == (task.reason is not None)


@given(st.lists(steps, max_size=8))
def test_the_first_end_is_the_end(taken: list[tuple[Any, ...]]) -> None:
    """Of several ends the first one counts: its reason, its message, its time."""
    task = new_task()
    for now_ms, step in enumerate(taken, start=2000):
        take(task, step, now_ms)
    ends = [(at, step[1]) for at, step in enumerate(taken, start=2000) if step[0] == "finish"]
    assert (task.finished_ms, task.reason) == (ends[0] if ends else (None, None))
    assert task.message == f"ended at {ends[0][0]}" if ends else not task.is_final


def test_a_life_leaves_its_times() -> None:
    """Creation, hand-over, first byte and end are kept in Unix milliseconds, with status and stream."""
    task = new_task()
    assert (task.state, task.stage) == ("PENDING", "queued")
    assert task.forward(1001)
    assert (task.state, task.stage) == ("RUNNING", "forwarding")
    assert task.answer(200, True, 1002)
    assert (task.state, task.stage) == ("RUNNING", "streaming")
    assert task.finish(None, "complete", 1003)
    assert (task.state, task.stage) == ("SUCCESS", "done")
    assert (task.created_ms, task.started_ms, task.first_byte_ms, task.finished_ms) == (1000, 1001, 1002, 1003)
    assert (task.status_code, task.is_stream) == (200, True)


@given(st.lists(st.tuples(steps, st.integers(-(10**6), 10**6)), max_size=5))
def test_times_are_in_order_though_the_clock_steps(taken: list[tuple[tuple[Any, ...], int]]) -> None:
    """No time of a task is before an earlier one of it, even if the clock was set back."""
    task = new_task()
    for step, now_ms in taken:
        take(task, step, now_ms)
    times = [task.created_ms, task.started_ms, task.first_byte_ms, task.finished_ms]
    known = [at for at in times if at is not None]
    assert known == sorted(known)


def test_a_loss_is_not_before_what_happened() -> None:
    """A gateway with a slow clock calls a task lost no earlier than the task's last known time."""
    task = new_task()
    task.forward(5000)
    lost = json.loads(lost_document(document(task), now=1.0))
    assert (lost["extensions"]["finished_ms"], lost["timestamp"]) == (5000, 5)


# -- the document --

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=40) | st.sampled_from(["0}}", '"', "\\", '"}}0}}'])


@given(TEXTS, TEXTS, TEXTS, st.integers(1, 10**6), st.lists(steps, max_size=3))
def test_the_document_is_json_with_the_contracts_keys(
    path: str, query: str, message: str, attempt: int, taken: list[tuple[Any, ...]]
) -> None:
    """Whatever is in its texts, the document is JSON with exactly the contract's keys, and says what the task is."""
    task = new_task(path, query)
    task.message = message
    for now_ms, step in enumerate(taken):
        take(task, step, now_ms)
    found = document(task, attempt=attempt)
    assert found.keys() == DOCUMENT_KEYS
    assert found["extensions"].keys() == EXTENSION_KEYS | OWN_ADDITIONS
    assert (found["state"], found["stage"], found["message"]) == (task.state, task.stage, task.message)
    extensions = found["extensions"]
    assert (extensions["path"], extensions["query"], extensions["attempt"]) == (path, query, attempt)
    assert (extensions["reason"], extensions["status_code"]) == (task.reason, task.status_code)


def test_the_documents_values() -> None:
    """Every value of a finished task's document, one by one."""
    task = Task("t-9", "POST", "/v1/chat/completions", "a=b", created_ms=1000)
    task.forward(1001)
    task.answer(500, False, 1002)
    task.request_bytes, task.response_bytes = 12, 34
    task.finish(Reason.UPSTREAM_STATUS, "the upstream answered HTTP 500", 1003)
    found = document(task, now=1700000000.123456, attempt=3)
    uuid.UUID(found.pop("event_id"))
    assert found == {
        "version": "1.0",
        "event_type": "task.status.update",
        "algorithm_id": "a",
        "task_id": "t-9",
        "state": "FAILED",
        "stage": "error",
        "message": "the upstream answered HTTP 500",
        "timestamp": 1700000000,
        "extensions": {
            "method": "POST",
            "path": "/v1/chat/completions",
            "query": "a=b",
            "stream": False,
            "status_code": 500,
            "reason": "upstream_status",
            "created_ms": 1000,
            "started_ms": 1001,
            "first_byte_ms": 1002,
            "finished_ms": 1003,
            "request_bytes": 12,
            "response_bytes": 34,
            "is_detached": False,
            "response": None,
            "is_presumed": False,
            "attempt": 3,
            "instance": "host-1",
            "boot": "b",
            "owner": None,
            "label": None,
            "queue_position": None,
            "queue_length": None,
            "lost_after_ms": None,
        },
    }


def test_an_event_id_lasts_as_long_as_the_stage() -> None:
    """A heartbeat keeps the event id and moves the timestamp; a change of stage makes a new id."""
    task, seen = new_task(), []
    for step in (("forward",), ("answer", 200, True), ("finish", None)):
        first, beat = document(task, now=1.9), document(task, now=11.1)
        assert first["event_id"] == beat["event_id"]
        assert (first["timestamp"], beat["timestamp"]) == (1, 11)
        seen.append(first["event_id"])
        assert take(task, step, 2000)
    seen.append(document(task)["event_id"])
    assert len(set(seen)) == 4


def test_a_refused_step_keeps_the_event_id() -> None:
    """A refused step makes no new event."""
    task = new_task()
    task.finish(None, "complete", 2000)
    before = document(task)
    task.forward(3000)
    task.finish(Reason.CANCELLED, "too late", 3000)
    assert document(task) == before


# -- credentials in queries --

CREDENTIAL_KEYS = [
    "api_key", "api-key", "apikey", "APIKEY", "key", "X-Api-Key", "access_token", "token", "client_secret", "password",
    "passwd", "Authorization", "auth", "sig", "signature", "X-Amz-Signature", "X-Amz-Credential", "session",
    "sessionid", "code", "jwt", "id_jwt", "bearer", "hmac", "hmac-sha256", "sid", "connect.sid", "sk", "x-sk", "cookie",
]  # fmt: skip
PLAIN_KEYS = [
    "model", "limit", "after", "order", "q", "page", "design", "stream", "purpose", "include[]", "encode",
    "country_code", "inside", "risk", "side", "task", "sketch",
]  # fmt: skip
values = st.text(st.characters(codec="latin-1", exclude_characters="&"), min_size=1, max_size=20)


@pytest.mark.parametrize("key", CREDENTIAL_KEYS)
def test_a_credentials_value_is_redacted(key: str) -> None:
    """Keys that look like credentials lose their values, in any case, percent-encoded or not."""
    for spelled in (key, key.upper(), quote(key, safe=""), "".join(f"%{ord(letter):02x}" for letter in key)):
        assert redact_query(f"a=b&{spelled}=s3cr3t=x&c=d") == f"a=b&{spelled}={REDACTED}&c=d"


@given(st.lists(st.tuples(st.sampled_from(CREDENTIAL_KEYS + PLAIN_KEYS), values), max_size=6))
def test_redaction_takes_credentials_alone(pairs: list[tuple[str, str]]) -> None:
    """Order, keys and every other value stay as on the wire; done twice it is done once."""
    query = "&".join(f"{key}={value}" for key, value in pairs)
    expected = "&".join(f"{key}={REDACTED if key in CREDENTIAL_KEYS else value}" for key, value in pairs)
    assert redact_query(query) == expected
    assert redact_query(expected) == expected


@given(st.text(st.characters(codec="latin-1", exclude_characters="="), max_size=40))
def test_a_query_without_values_stays(query: str) -> None:
    """Without a value nothing is redacted, whatever the key is called."""
    assert redact_query(query) == query


@pytest.mark.parametrize("query", ["", "&", "=", "a", "token", "token=", "=x", "&&a=b&&", "a=%zz&%=1", "x=token&y=key"])
def test_odd_queries_stay(query: str) -> None:
    """Empty pairs, empty values and broken escapes pass unchanged, and a value never counts as a credential's key."""
    assert redact_query(query) == query


# -- long targets --

SECRET = "5ecr3t"


@given(st.binary(max_size=300), st.binary(max_size=300), st.integers(0, TARGET_CHARACTERS))
def test_a_target_of_2_kib_is_told_whole(path: bytes, query: bytes, length: int) -> None:
    """Up to 2 KiB together, path and query are stored as on the wire."""
    path = (path + b"x" * length)[: TARGET_CHARACTERS - len(query)]
    plain = query.replace(b"=", b"")
    assert stored_target(path, plain) == (path.decode("latin-1"), plain.decode("latin-1"))


@given(st.integers(0, 3000), st.integers(0, 3000))
def test_a_longer_target_is_cut_with_a_mark(path_length: int, query_length: int) -> None:
    """Over 2 KiB together they are cut and end with a mark: the query if it does not fit, the path as well."""
    path, query = b"/v1/" + b"p" * path_length, b"q" * query_length
    found = stored_target(path, query)
    assert sum(map(len, found)) <= TARGET_CHARACTERS + len(CUT)
    for text, wire in zip(found, (path, query), strict=True):
        whole = wire.decode()
        assert text == whole or (text.endswith(CUT) and whole.startswith(text.removesuffix(CUT)))
    is_cut = any(text.endswith(CUT) for text in found)
    assert is_cut == (len(path) + len(query) > TARGET_CHARACTERS)


@given(st.integers(TARGET_CHARACTERS - 60, TARGET_CHARACTERS + 20), st.sampled_from(CREDENTIAL_KEYS))
def test_no_cut_shows_a_credential(length: int, key: str) -> None:
    """Wherever the cut falls, in a credential's key, its value or its redaction, no part of the value is stored."""
    query = f"a={'x' * length}&{key}={SECRET * 20}&b={'y' * 3000}"
    _, told = stored_target(b"/v1/x", query.encode())
    assert told.endswith(CUT)
    assert SECRET[:2] not in told
    _, has_value, value = told.removesuffix(CUT).partition(f"&{key}=")
    assert not has_value or value in ("", REDACTED) or value.startswith(f"{REDACTED}&")


@given(st.integers(0, 5), st.sampled_from(["%41", "%e4%BD%a0", "%25"]))
def test_no_cut_splits_an_escape(offset: int, escape: str) -> None:
    """A cut target has only whole percent escapes."""
    for path, query in ((f"/v1/{'p' * offset}{escape * 1000}", ""), ("/v1/", f"{'q' * offset}{escape * 1000}")):
        for text in stored_target(path.encode(), query.encode()):
            assert "%" not in re.sub(r"%[0-9A-Fa-f]{2}", "", text)
