"""The shape of a status document, which all readers of the store check."""

from __future__ import annotations

import json
from typing import Any

import pytest

from gateway.tasks.document import (
    MAX_CHARACTERS,
    complete_document,
    document_head,
    fields_of,
    has_ended,
    is_id_free,
    is_visible,
)
from gateway.tasks.stages import MAX_ATTEMPT, Stage
from gateway.tasks.task import Task, Trace
from tests.support.forged import EXTENSIONS, FIELDS, MISSING, SHAPES, document, with_shape

# What the fields take of SHAPES; what was added since an earlier version may be missing, too.
TEXT = {"empty", "word", "escape"}
TIME = {"missing", "null"}
RIGHT: dict[str, set[str]] = {
    "algorithm_id": TEXT, "message": TEXT, "method": TEXT, "path": TEXT, "query": TEXT, "event_id": {"word"},
    "task_id": {"word"},
    "timestamp": {"1.5"}, "stream": {"missing", "true"}, "status_code": TIME, "reason": TEXT | TIME,
    "started_ms": TIME, "first_byte_ms": TIME, "finished_ms": TIME, "request_bytes": {"missing"},
    "response_bytes": {"missing"}, "instance": TEXT | {"missing"}, "boot": TEXT | {"missing"}, "owner": TEXT | TIME,
    "lost_after_ms": TIME, "is_detached": {"missing", "true"}, "response": TEXT | TIME, "is_presumed": {"missing"},
    "error_text": TEXT | TIME, "trace_id": TIME,
}  # fmt: skip


@pytest.mark.parametrize("stage", Stage)
def test_what_a_gateway_writes_has_the_shape(stage: Stage) -> None:
    """A document of every stage has the shape."""
    assert fields_of(json.dumps(document("t", stage)), "t") is not None


def test_the_text_of_a_document() -> None:
    """The order of the values and their spelling are fixed; what the store adds comes last."""
    task = Task("t", "POST", "/v1/x", "a=b", 1000, owner="ann", label="one")
    task.answer(200, True, 2000)
    task.event_id = "e"
    head = document_head(task, algorithm_id="a", instance="i", boot="b", now=2.9, standing_in_queue=(1, 2))
    text = complete_document(head, 3)
    assert text == (
        '{"version":"1.0","event_type":"task.status.update","event_id":"e","algorithm_id":"a","task_id":"t",'
        '"state":"RUNNING","stage":"streaming","message":"the upstream answers with HTTP 200","timestamp":2,'
        '"extensions":{"method":"POST","path":"/v1/x","query":"a=b","stream":true,"status_code":200,"reason":null,'
        '"created_ms":1000,"started_ms":null,"first_byte_ms":2000,"finished_ms":null,"request_bytes":0,'
        '"response_bytes":0,"is_detached":false,"response":null,"is_presumed":false,"instance":"i","boot":"b","owner":"ann",'
        '"label":"one","queue_position":1,"queue_length":2,"attempt":3,"lost_after_ms":null}}'
    )
    assert fields_of(text, "t") == json.loads(text)


def test_what_is_off_adds_nothing_to_a_document() -> None:
    """The error text and the trace id are there only if they have a value, before the store's own."""
    task = Task("t", "POST", "/v1/x", "", 1000)
    task.error_text, task.trace = "no such model", Trace("a" * 32)
    text = complete_document(document_head(task, algorithm_id="a", instance="i", boot="b", now=2.9), 1)
    more = json.loads(text)["extensions"]
    assert (more["error_text"], more["trace_id"]) == ("no such model", "a" * 32)
    assert list(more).index("trace_id") < list(more).index("boot")
    assert fields_of(text, "t") is not None
    assert not {"error_text", "trace_id"} & document("t")["extensions"].keys()


@pytest.mark.parametrize("field", FIELDS + EXTENSIONS)
def test_a_field_of_another_shape_is_no_document(field: str) -> None:
    """Each field accepts only values of its own kind, whatever their type, size or sign."""
    taken = {name for name, shape in SHAPES.items() if fields_of(with_shape("t", field, shape)) is not None}
    assert taken == RIGHT.get(field, set())


def test_a_document_of_the_version_before_has_the_shape() -> None:
    """A fraction as timestamp, a target of 60 KB, and missing later extensions: such a document is still read."""
    before = document("t", Stage.DONE)
    extensions = before["extensions"]
    before |= {"timestamp": 1795387183.266}
    for added in ("boot", "owner", "lost_after_ms", "instance", "is_detached", "response", "is_presumed"):
        del extensions[added]
    extensions["path"] = "/v1/" + "x" * 60_000
    assert fields_of(json.dumps(before), "t") == before


def test_a_later_versions_extensions_are_no_harm() -> None:
    """New fields in `extensions` do not make a document unreadable."""
    after = document("t")
    after["extensions"] |= {"later": "l", "is_later": False, "queue_position": 3}
    after["extensions"]["reason"] = "a_new_one"
    assert fields_of(json.dumps(after)) == after


@pytest.mark.parametrize("attempt", [1, MAX_ATTEMPT, 0, MAX_ATTEMPT + 1])
def test_an_attempt_is_a_whole_number_from_1_to_2_31(attempt: int) -> None:
    """Both ends of a range are accepted, and values beyond them are not."""
    is_taken = fields_of(with_shape("t", "attempt", attempt)) is not None
    assert is_taken == (1 <= attempt <= MAX_ATTEMPT)


ODD: list[dict[str, Any]] = [
    {"state": "SUCCESS"}, {"stage": "done"}, {"stage": "unheard-of"}, {"beside": 1}, {"task_id": "another"},
    {"task_id": "a b"}, {"timestamp": -1}, {"timestamp": 1e12}, {"event_id": "x" * 65}, {"event_id": 'a"b'},
    {"message": "x" * MAX_CHARACTERS},
]  # fmt: skip


@pytest.mark.parametrize("change", ODD)
def test_what_contradicts_itself_is_no_document(change: dict[str, Any]) -> None:
    """State and stage match, the id is the key's, no other fields exist, and sizes are bounded."""
    assert fields_of(json.dumps(document("t") | change), "t") is None


@pytest.mark.parametrize("text", ["", "null", "[]", "{}", "1", '"t"', "{", "[" * 5000, "\udc80", '{"extensions":5}'])
def test_any_text_is_asked(text: str) -> None:
    """A text without the shape has no owner and has not ended."""
    assert fields_of(text) is None
    assert not has_ended(text)
    assert not is_visible(text, "alice")


@pytest.mark.parametrize(
    ("stage", "finished_ms", "is_right"),
    [(Stage.LOST, 1, True), (Stage.LOST, None, False), (Stage.STREAMING, 1, False), (Stage.ERROR, 1, False)],
)
def test_only_a_loss_is_presumed(stage: Stage, finished_ms: int | None, is_right: bool) -> None:
    """Only a lost task can be presumed lost, and it has to have a moment of its end."""
    found = document("t", stage)
    found["extensions"] |= {"is_presumed": True, "finished_ms": finished_ms}
    text = json.dumps(found)
    assert (fields_of(text) is not None) == is_right
    assert not has_ended(text)
    assert is_id_free(text) == is_right


def test_missing_is_not_null() -> None:
    """The forged documents of these tests differ from one another."""
    assert with_shape("t", "path", MISSING) != with_shape("t", "path", None)
