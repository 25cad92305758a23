"""The models of OLLAMA_PULL_MODELS: their names, which are missing, and the progress of the pull.

Owns what the pull program and the gateway share: how names compare, and the progress file. The pull program replaces
that file as a whole, and the gateway reads it. This module sends no requests.
"""

import json
import os
import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

MAX_MODELS = 64
_PART = r"[A-Za-z0-9_][A-Za-z0-9_.\-]{0,79}"
_HOST = r"[A-Za-z0-9][A-Za-z0-9.\-]{0,252}(?::[0-9]{1,5})?"
_NAME = re.compile(rf"(?:(?:{_HOST}/)?{_PART}/)?{_PART}(?::{_PART})?")
_DEFAULT_HOST, _DEFAULT_NAMESPACE, _DEFAULT_TAG = "registry.ollama.ai", "library", "latest"


def model_names(text: str) -> tuple[str, ...]:
    """The names in `text`, separated by white space or commas, each model once. Raises ValueError for a bad name."""
    named: dict[str, str] = {}
    for name in text.replace(",", " ").split():
        if not _NAME.fullmatch(name):
            raise ValueError(f"no name of a model: {name[:80]!r}")
        named.setdefault(_comparable(name), name)
    if len(named) > MAX_MODELS:
        raise ValueError(f"{len(named)} names")
    return tuple(named.values())


def missing_models(wanted: Iterable[str], present: Iterable[str]) -> list[str]:
    """The models of `wanted` that are not in `present`, in the order of `wanted`."""
    there = {_comparable(name) for name in present}
    return [name for name in wanted if _comparable(name) not in there]


def _comparable(name: str) -> str:
    """One spelling per model. Ollama leaves its defaults out of the names that it lists, and ignores case."""
    *place, model = name.lower().split("/")
    if len(place) == 2 and place[0] == _DEFAULT_HOST:
        del place[0]
    if place == [_DEFAULT_NAMESPACE]:
        del place[0]
    return "/".join([*place, model if ":" in model else f"{model}:{_DEFAULT_TAG}"])


def listed_models(body: bytes) -> list[str]:
    """The names in an answer of Ollama's `/api/tags`. Raises ValueError if `body` is no such answer."""
    try:
        return [str(model["name"]) for model in json.loads(body)["models"] or ()]
    except (KeyError, TypeError, RecursionError) as error:
        raise ValueError("not an answer of /api/tags") from error


@dataclass(frozen=True, slots=True)
class Progress:
    """The model that the pull program pulls now. `percent` is None while the size is unknown; `pid` is that program."""

    pid: int
    pulling: str
    percent: int | None

    def write(self, file: Path) -> None:
        """Replaces the file in one step: a reader sees the old text or the new one, never a part."""
        draft = file.with_suffix(".new")
        draft.write_text(json.dumps(asdict(self)), encoding="utf-8")
        draft.replace(file)


def read_progress(file: Path | None) -> Progress | None:
    """What the pull program wrote last; None if it wrote nothing, or is no longer running."""
    try:
        progress = Progress(**json.loads(file.read_bytes())) if file else None
        if progress:
            os.kill(progress.pid, 0)  # signal 0 only asks whether the process exists
    except (OSError, ValueError, TypeError):  # no file, no process, or a file that is not the pull program's
        return None
    return progress
