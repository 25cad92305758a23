"""Owns what the code can say: every text in it as a pattern, what is filled in standing for anything.

Read from the sources, not run. The tests of pages that quote messages call it.
"""

from __future__ import annotations

import ast
import re
from functools import cache
from typing import TYPE_CHECKING

from tests.support.process import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator

SOURCES = [*(ROOT / "gateway").rglob("*.py"), *(ROOT / "healthcheck").glob("*.py"), *(ROOT / "tools").glob("*.py")]
LEAST_LETTERS = 10  # of a text that says something
HOLE = ".+"
FILLED_IN = re.compile(r"%%|%[-+ 0-9.]*[dsgfr]")
WARNING = {"warning", "error", "exception"}


@cache
def patterns() -> list[re.Pattern[str]]:
    """One for each text of the code that is long enough to be a message."""
    return [re.compile(pattern) for path in SOURCES for pattern in _texts(ast.parse(path.read_text()))]


def _texts(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        pattern = _pattern(node)
        if pattern is not None and len(re.findall(r"[a-z]", pattern.replace(HOLE, ""))) >= LEAST_LETTERS:
            yield pattern


def _pattern(node: ast.AST) -> str | None:
    """The regular expression of a constant or an f-string; None for anything else."""
    if isinstance(node, ast.JoinedStr):
        return "".join(_pattern(part) or HOLE for part in node.values)
    if not (isinstance(node, ast.Constant) and isinstance(node.value, str)):
        return None
    kept = re.split(FILLED_IN, node.value)
    holes = [("%" if found == "%%" else HOLE) for found in FILLED_IN.findall(node.value)]
    return re.escape(kept[0]) + "".join(hole + re.escape(text) for hole, text in zip(holes, kept[1:], strict=True))


@cache
def warnings() -> list[re.Pattern[str]]:
    """The first argument of each call that logs a warning or an error."""
    calls = [node for path in SOURCES for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
    return [re.compile(_pattern(call.args[0]) or HOLE) for call in calls if _is_warning(call)]


def _is_warning(call: ast.Call) -> bool:
    function = call.func
    return (
        isinstance(function, ast.Attribute)
        and function.attr in WARNING
        and isinstance(function.value, ast.Name)
        and function.value.id == "log"
    )


def stands_for(quoted: str, pattern: re.Pattern[str]) -> bool:
    """Whether a quoted message, whole, is one that the pattern makes; `…` in it stands for anything, too."""
    return pattern.fullmatch(quoted) is not None
