"""Owns the layers of the page's modules: docs/architecture.md names them, and the imports keep to them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MODULES = {file.name: file.read_text() for file in sorted((ROOT / "gateway" / "dashboard").glob("*.js"))}
IMPORT = re.compile(r"""\b(?:from|import)[\s(]*["'][./]*(?:dashboard/)?(\w+\.js)["']""")


def layers() -> list[list[str]]:
    """The modules in the rows of the table, from the top down."""
    page = (ROOT / "docs" / "architecture.md").read_text().split("\n## The page\n")[1].split("\n## ")[0]
    return [re.findall(r"`(\w+\.js)`", row.split("|")[1]) for row in page.splitlines() if row.startswith("| `")]


DEPTHS = {name: depth for depth, names in enumerate(layers()) for name in names}


def imports(text: str) -> list[str]:
    """What a module imports, in its first lines or later."""
    return IMPORT.findall(text)


def test_each_module_has_a_layer() -> None:
    """The table names each module once, and no other file."""
    assert sorted(name for names in layers() for name in names) == sorted(MODULES)


@pytest.mark.parametrize("name", MODULES)
def test_arrows_point_down(name: str) -> None:
    """A module imports only modules of the rows below its own: none above, and none beside it."""
    wrong = [found for found in imports(MODULES[name]) if DEPTHS.get(found, -1) <= DEPTHS[name]]
    assert wrong == []


def test_all_forms_of_imports_are_read() -> None:
    """Imports over several lines, exports from another module, and imports at run time count, too."""
    text = 'import { a } from "./a.js";\nimport {\n  b,\n} from "./b.js";\nexport { c } from "./c.js";\n'
    text += "import('./d.js');\nimport '/dashboard/e.js';\nconst { from: x } = 'from';\n"
    assert imports(text) == ["a.js", "b.js", "c.js", "d.js", "e.js"]
