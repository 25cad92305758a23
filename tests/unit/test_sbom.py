"""The bill of materials of `make sbom` names what is in the image, and is CycloneDX (the tool checks that itself)."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from typing import TYPE_CHECKING

from tests.support.locks import pins
from tests.support.process import ROOT

if TYPE_CHECKING:
    from pathlib import Path


def test_the_bill_is_the_lock_and_the_base_image(tmp_path: Path) -> None:
    """Every locked package with all its hashes, Ollama and its image by the Containerfile's tag, and no more."""
    target = tmp_path / "made" / "sbom.cdx.json"
    subprocess.run([sys.executable, "tools/sbom.py", str(target)], cwd=ROOT, check=True, stdout=subprocess.PIPE)
    bill = json.loads(target.read_text())
    lock = (ROOT / "requirements" / "gateway.txt").read_text()
    locked = [(pin.name, pin.version) for pin in pins("gateway.txt")]
    (image, tag), *_ = re.findall(r"^ARG OLLAMA_IMAGE=(\S+):(\S+)", (ROOT / "Containerfile").read_text(), re.MULTILINE)
    named = {(part["name"], part["version"]) for part in bill["components"]}
    assert bill["bomFormat"] == "CycloneDX"
    assert len(locked) > 15
    assert named == {*locked, ("ollama", tag), (image, tag)}
    assert set(re.findall(r"sha256:(\w+)", lock)) == set(re.findall(r'"content": "(\w{64})"', target.read_text()))
