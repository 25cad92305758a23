"""Owns what the summary of a status document says to those that answer pollers, and when it is remembered."""

from __future__ import annotations

import json
from typing import Any

import pytest

from gateway.tasks import document as document_module
from gateway.tasks.document import MAX_CHARACTERS, complete_document, fields_of, found_in, lost_document, summary_of
from gateway.tasks.stages import FINAL_RANK, PRESUMED_MS, Stage
from tests.support.forged import all_documents
from tests.support.records import record

CACHED_BYTES = 4096


@pytest.fixture
def checks(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The length of each document that is checked from now on."""
    checked: list[int] = []

    def count(document: str | bytes, task_id: str | None = None) -> dict[str, Any] | None:
        checked.append(len(document))
        return fields_of(document, task_id)

    document_module._summary_cached.cache_clear()
    monkeypatch.setattr(document_module, "fields_of", count)
    return checked


def text_of(stage: Stage = Stage.STREAMING, **more: Any) -> str:
    """A status document."""
    return complete_document(record("t", stage, **more).head, 3)


@pytest.mark.parametrize("stage", Stage)
def test_it_says_what_the_document_says(stage: Stage) -> None:
    """Each value is the document's; a final stage has ended for good unless the loss is presumed."""
    text = text_of(stage, owner="alice", label="job", created_ms=5)
    fields = json.loads(text)
    summary = summary_of(text.encode())
    assert summary is not None
    assert summary[:7] == ("t", fields["event_id"], 5, stage.state, "alice", "job", "boot-1")
    assert (summary.has_ended, summary.due_ms) == (stage.rank == FINAL_RANK, None)


def test_a_task_in_flight_is_due_when_it_counts_as_lost() -> None:
    """By the moment that the store wrote behind its document."""
    summary = summary_of(text_of().replace('"lost_after_ms":null', '"lost_after_ms":7000').encode())
    assert summary is not None
    assert (summary.due_ms, summary.has_ended) == (7000, False)


def test_a_presumed_loss_is_due_when_it_is_final() -> None:
    """Ten minutes after it; one that is certain has ended."""
    fields = json.loads(text_of())
    presumed = summary_of(lost_document(fields, 2).encode())
    certain = summary_of(lost_document(fields, 2, is_certain=True).encode())
    assert presumed is not None
    assert certain is not None
    assert (presumed.has_ended, presumed.due_ms) == (False, 2000 + PRESUMED_MS)
    assert (certain.has_ended, certain.due_ms) == (True, None)


def test_documents_of_the_version_before_lack_fields() -> None:
    """Owner, label, boot and the moment of the loss may be missing."""
    fields = json.loads(text_of())
    for name in ("owner", "label", "boot", "lost_after_ms"):
        del fields["extensions"][name]
    summary = summary_of(json.dumps(fields).encode())
    assert summary is not None
    assert (summary.owner, summary.label, summary.boot, summary.due_ms) == (None, None, None, None)


def test_what_is_no_document_has_none() -> None:
    """Exactly the texts that no reader takes, remembered or not."""
    for _ in range(2):
        for _, text in all_documents(1000):
            encoded = text.encode()
            assert (summary_of(encoded) is None) == (fields_of(encoded) is None)
    assert summary_of(text_of(message="m" * MAX_CHARACTERS).encode()) is None


def test_any_change_has_another_digest() -> None:
    """Also one that keeps the event: a heartbeat changes a page."""
    text = text_of()
    beaten = text.replace('"timestamp":1,', '"timestamp":2,')
    assert beaten != text
    digests = [found_in(one)[1].digest for one in (text, beaten, text)]
    assert (digests[0] == digests[2], digests[0] == digests[1], len(digests[0])) == (True, False, 12)
    assert found_in(text)[1].event_id == found_in(beaten)[1].event_id


def test_a_document_is_checked_once(checks: list[int]) -> None:
    """Pages have mostly the documents that they had before."""
    text = text_of()
    for _ in range(5):
        assert summary_of(text.encode()) == found_in(text)[1]
    assert checks == [len(text)]


def test_long_documents_are_not_remembered(checks: list[int]) -> None:
    """So the cache is bounded in bytes: a thousand documents of at most 4 KiB."""
    empty = len(text_of(message="m" * 1000)) - 1000
    fitting, long = (text_of(message="m" * (CACHED_BYTES - empty + more)) for more in (0, 1))
    for text in (fitting, long):
        for _ in range(3):
            assert found_in(text)[0] == text.encode()
    assert checks == [CACHED_BYTES] + [CACHED_BYTES + 1] * 3
    assert document_module._summary_cached.cache_info().maxsize == 1024


@pytest.mark.parametrize("text", ["", "null", "{}", "no JSON"])
def test_what_this_process_made_has_to_be_a_document(text: str) -> None:
    """Anything else is a bug, and says so."""
    with pytest.raises(ValueError, match="not a status document"):
        found_in(text)
