"""Owns the promise that the pages name what is there: links, files, modules, tests, make targets."""

from __future__ import annotations

import ast
import re
from functools import cache
from typing import TYPE_CHECKING

import pytest

from gateway.tasks.document import EVENT_TYPE
from tests.support.process import ROOT

if TYPE_CHECKING:
    from pathlib import Path

PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("deploy/**/*.md")])
FENCE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
CODE = re.compile(r"`([^`\n]+)`")
DIRECTORIES = ("gateway", "healthcheck", "embedded", "tests", "bench", "tools", "docs", "deploy", "requirements", ".ci")
SUFFIXES = (".js", ".py", ".lua", ".md", ".yaml", ".toml", ".conf", ".sh")
SECTION = re.compile(r'(README\.md|docs/\w+\.md), "([^"\n]+)"')
MADE_BY_RUNS = {"bench/results/latest.json"}

each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


@cache
def code_spans(page: Path) -> list[str]:
    """What stands in backticks in the running text."""
    return CODE.findall(FENCE.sub("", page.read_text()))


@cache
def file_names() -> frozenset[str]:
    """The names of all files of ours."""
    below = [path for directory in DIRECTORIES for path in (ROOT / directory).rglob("*")]
    return frozenset(path.name for path in [*ROOT.iterdir(), *below] if path.is_file())


@cache
def names_in(module: Path) -> frozenset[str]:
    """Whatever a module defines, at any depth: functions, classes, assigned names."""
    names = set()
    for node in ast.walk(ast.parse(module.read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Name | ast.Attribute) and isinstance(node.ctx, ast.Store):
            names.add(node.id if isinstance(node, ast.Name) else node.attr)
    return frozenset(names)


def anchors(page: Path) -> set[str]:
    """The fragments that the page's headings make."""
    headings = re.findall(r"^#+ (.+)$", FENCE.sub("", page.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def is_path_there(text: str) -> bool:
    """Whether a path from the root, or a bare file name, is a file of ours; both may hold wildcards."""
    if "/" not in text and "*" not in text:
        return text in file_names()
    return text in MADE_BY_RUNS or any(ROOT.glob(text.rstrip("/")))


def test_there_are_pages() -> None:
    """The pages that this file looks at are the ones it means."""
    names = {str(page.relative_to(ROOT)) for page in PAGES}
    assert names >= {
        "README.md",
        "SECURITY.md",
        "CONTRIBUTING.md",
        "docs/settings.md",
        "docs/behaviour.md",
        "docs/container.md",
    }


def test_the_index_has_every_page() -> None:
    """docs/README.md links to each page beside it, so that a reader finds it."""
    index = (ROOT / "docs" / "README.md").read_text()
    named = {link.partition("#")[0] for link in LINK.findall(index)}
    assert {page.name for page in (ROOT / "docs").glob("*.md")} - {"README.md"} - named == set()


@each_page
def test_links_lead_somewhere(page: Path) -> None:
    """Every relative link names a file that is there, and a heading that is in it."""
    broken = []
    for link in LINK.findall(FENCE.sub("", page.read_text())):
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        if "://" not in link and not (target.exists() and (not anchor or anchor in anchors(target))):
            broken.append(link)
    assert broken == []


@each_page
def test_files_that_are_named_are_there(page: Path) -> None:
    """Every path or file name of ours in backticks exists."""
    missing = []
    for text in code_spans(page):
        path = text.partition("::")[0].partition(" ")[0]
        is_ours = path.startswith(tuple(f"{directory}/" for directory in DIRECTORIES))
        is_file_name = re.fullmatch(r"[\w.-]+", path) and path.endswith(SUFFIXES) and not path.startswith(".")
        if (is_ours or is_file_name) and not is_path_there(path):
            missing.append(text)
    assert missing == []


@each_page
def test_modules_and_names_that_are_named_are_there(page: Path) -> None:
    """`gateway.module` is a module, and `module.name` is defined in it."""
    modules = {path.stem: path for path in (ROOT / "gateway").rglob("*.py") if path.stem != "__init__"}
    missing = []
    for text in code_spans(page):
        match = re.fullmatch(r"(gateway\.)?(?:routes\.)?(\w+)(?:\.(\w+))?(?:\.(\w+))?(?:\(.*\))?", text)
        if match is None or text.endswith(SUFFIXES) or text == EVENT_TYPE:
            continue
        package, module, *rest = match.groups()
        names = {name for name in rest if name}
        if (package and module not in modules) or (module in modules and not names <= names_in(modules[module])):
            missing.append(text)
    assert missing == []


@each_page
def test_tests_that_are_named_are_there(page: Path) -> None:
    """Every `path::test` is a test of that file."""
    missing = []
    for text in code_spans(page):
        path, mark, name = text.partition("::")
        if mark and not ((ROOT / path).is_file() and name in names_in(ROOT / path)):
            missing.append(text)
    assert missing == []


@each_page
def test_make_targets_that_are_named_are_there(page: Path) -> None:
    """Every `make target` is one of the Makefile, in text and in examples."""
    targets = set(re.findall(r"^([a-z-]+):.*##", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = set(re.findall(r"(?:`|^ *)make ([a-z-]+)", page.read_text(), re.MULTILINE))
    assert named - targets == set()


@each_page
def test_files_of_commands_are_there(page: Path) -> None:
    """Every `-f FILE` of a Docker command is there."""
    files = re.findall(r"docker .*", page.read_text())
    named = {name for command in files for name in re.findall(r"-f (\S+)", command)}
    assert {name for name in named if not (ROOT / name).is_file()} == set()


def test_every_promise_has_its_test() -> None:
    """Each line of behaviour.md's tables of promises names at least one test."""
    tables = (ROOT / "docs" / "behaviour.md").read_text().split("| Promise | Test |\n|---|---|\n")[1:]
    rows = [row for table in tables for row in table.split("\n\n")[0].splitlines()]
    assert len(rows) > 50
    assert [row for row in rows if not re.search(r"`tests/\S+::test_\w+`", row.split(" | ")[-1])] == []


def test_the_code_names_sections_that_are_there() -> None:
    """Where a comment names a page and a heading in it, the page has that heading."""
    named = {found for file in ROOT.glob("gateway/**/*.py") for found in SECTION.findall(file.read_text())}
    assert named
    for page, heading in sorted(named):
        assert re.search(rf"^#+ {re.escape(heading)}$", (ROOT / page).read_text(), re.MULTILINE), (page, heading)
