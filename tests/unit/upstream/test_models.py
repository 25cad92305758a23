"""The models that are asked for: how names compare, what is missing, and the progress file."""

from __future__ import annotations

import json
import os
import subprocess
from typing import TYPE_CHECKING

import pytest

from gateway.upstream.models import Progress, listed_models, missing_models, model_names, read_progress

if TYPE_CHECKING:
    from pathlib import Path

SAME = [
    ("m", "m:latest"), ("M:Latest", "m"), ("library/m:2", "m:2"), ("registry.ollama.ai/library/m", "m:latest"),
    ("registry.ollama.ai/me/m", "me/m:latest"), ("hf.co/me/M:q4", "hf.co/me/m:Q4"), ("h:5000/n/m", "h:5000/n/m:latest"),
]  # fmt: skip
OTHER = [
    ("m", "m:2"), ("m", "me/m"), ("library/m", "me/m"), ("m", "mm"), ("registry.ollama.ai/me/m", "m"),
    ("hf.co/library/m", "m"), ("h:5000/n/m", "h/n/m"), ("h:5000/n/m", "h:5000/n/m:5000"),
]  # fmt: skip


@pytest.mark.parametrize(("wanted", "present"), SAME)
def test_one_model_in_two_spellings_is_there(wanted: str, present: str) -> None:
    """Ollama leaves its defaults out (registry, library, latest) and ignores case: so do we, both ways round."""
    assert missing_models([wanted], ["other", present]) == []
    assert missing_models([present], [wanted]) == []
    assert model_names(f"{wanted} {present}") == (wanted,)


@pytest.mark.parametrize(("wanted", "present"), OTHER)
def test_another_model_is_another_one(wanted: str, present: str) -> None:
    """Another tag, namespace or host makes another model."""
    assert missing_models([wanted], [present]) == [wanted]
    assert model_names(f"{wanted},{present}") == (wanted, present)


def test_what_is_missing_keeps_its_order_and_spelling() -> None:
    """The order of the wishes is the order of the work, and names are shown as they were given."""
    assert missing_models(("C", "a", "B"), ["a:latest"]) == ["C", "B"]


def test_ollamas_list_is_read() -> None:
    """The names of /api/tags; an empty list may be null."""
    assert listed_models(b'{"models": [{"name": "a:latest", "size": 1}, {"name": "b:2"}]}') == ["a:latest", "b:2"]
    assert listed_models(b'{"models": null}') == []


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b'{"models": 1}', b'{"models": [1]}', b"\xff", b"[" * 100_000])
def test_what_is_no_list_is_refused(body: bytes) -> None:
    """An answer of another shape is a ValueError, whatever it is."""
    with pytest.raises(ValueError):  # noqa: PT011 (JSON's own is one, too)
        listed_models(body)


def test_progress_goes_through_the_file(tmp_path: Path) -> None:
    """What was written last is what is read, and no draft stays."""
    file = tmp_path / "pull.json"
    for percent in (None, 7, 100):
        written = Progress(os.getpid(), "m", percent)
        written.write(file)
        assert read_progress(file) == written
    assert list(tmp_path.iterdir()) == [file]


def test_progress_of_a_program_that_is_gone_is_none(tmp_path: Path) -> None:
    """A pull program that was killed pulls nothing, though its file is still there."""
    ended = subprocess.Popen(["true"])
    ended.wait()
    file = tmp_path / "pull.json"
    Progress(ended.pid, "m", 42).write(file)
    assert read_progress(file) is None


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"pid": "x", "pulling": "m", "percent": 1}', '{"more": 1}'])
def test_a_file_of_another_shape_is_no_progress(tmp_path: Path, content: str) -> None:
    """What is not ours says nothing, and breaks nothing."""
    file = tmp_path / "pull.json"
    file.write_text(content)
    assert read_progress(file) is None
    assert read_progress(tmp_path / "none") is read_progress(None) is None


def test_the_file_names_no_more_than_it_needs(tmp_path: Path) -> None:
    """Its fields are the process, the model and the percent."""
    file = tmp_path / "pull.json"
    Progress(1, "m", 42).write(file)
    assert json.loads(file.read_text()) == {"pid": 1, "pulling": "m", "percent": 42}
