"""Owns the figures that keep the package readable, read from its syntax trees.

The lists of present offenders may only shrink: a test fails also if a listed one no longer offends.
"""

from __future__ import annotations

import ast
from pathlib import Path
from statistics import quantiles
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]
MODULE_LINES = 350
FUNCTION_LINES = 20  # at the 90th percentile
ATTRIBUTES = 14

# The only classes that may have more attributes, and the reason that their docstrings have to give.
MAY_HAVE_MORE = {
    "gateway/settings/__init__.py Settings": "one field for each setting",
    "gateway/tasks/task.py Task": "one field for each value of the status document",
    "gateway/routes/tasks.py Extensions": "What the gateway knows beyond the state.",  # its docstring is in the OpenAPI
}
# Present offenders.
LONG_MODULES: set[str] = set()
LARGE_CLASSES: set[str] = set()

MODULES = {file.relative_to(ROOT).as_posix(): file.read_text() for file in sorted((ROOT / "gateway").rglob("*.py"))}
TREES = {name: ast.parse(text) for name, text in MODULES.items()}


def function_lengths() -> list[int]:
    """Lines of each function, its decorators aside."""
    return [
        (node.end_lineno or node.lineno) - node.lineno + 1
        for tree in TREES.values()
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    ]


def classes() -> dict[str, ast.ClassDef]:
    """Every class, by its file and name."""
    return {
        f"{name} {node.name}": node
        for name, tree in TREES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef)
    }


def attributes(of: ast.ClassDef) -> set[str]:
    """The names of its fields and slots, and of all that its methods assign to `self`; not what it inherits."""
    assigned = {
        node.attr
        for node in ast.walk(of)
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) and ast.unparse(node.value) == "self"
    }
    return assigned | set(declared(of))


def declared(of: ast.ClassDef) -> Iterator[str]:
    """The fields of a record, and the names in `__slots__`."""
    for node in of.body:
        if isinstance(node, ast.AnnAssign) and not ast.unparse(node.annotation).startswith("ClassVar"):
            yield ast.unparse(node.target)
        elif isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__slots__":
            slots = ast.literal_eval(node.value)
            yield from (slots,) if isinstance(slots, str) else slots


def large_classes() -> set[str]:
    return {name for name, node in classes().items() if len(attributes(node)) > ATTRIBUTES}


def test_no_module_is_long() -> None:
    """A module has at most 350 lines."""
    assert {name for name, text in MODULES.items() if len(text.splitlines()) > MODULE_LINES} == LONG_MODULES


def test_functions_are_short() -> None:
    """Nine functions of ten have at most 20 lines."""
    assert quantiles(function_lengths(), n=10)[-1] <= FUNCTION_LINES


def test_classes_have_few_attributes() -> None:
    """A class has at most 14 attributes; three records may have more."""
    assert len(MAY_HAVE_MORE) <= 3
    assert large_classes() == LARGE_CLASSES | MAY_HAVE_MORE.keys()


@pytest.mark.parametrize("name", MAY_HAVE_MORE)
def test_a_large_class_says_why(name: str) -> None:
    """Its docstring gives the reason for its size."""
    docstring = ast.get_docstring(classes()[name]) or ""
    assert MAY_HAVE_MORE[name] in " ".join(docstring.split())


def test_attributes_are_counted_wherever_they_are_declared() -> None:
    """Slots, fields and assignments in any method count once each; names of other objects and constants do not."""
    [tree] = ast.parse(
        "class A:\n"
        " __slots__ = ('a', 'b')\n"
        " c: int = 0\n"
        " D: ClassVar[int] = 0\n"
        " def f(self, other):\n"
        "  self.b, self.e = 1, 2\n"
        "  self.g: int = 3\n"
        "  self.h += other.i\n"
        "  other.j = 4\n"
    ).body
    assert isinstance(tree, ast.ClassDef)
    assert attributes(tree) == set("abcegh")
