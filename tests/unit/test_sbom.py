"""The bill of materials of `make sbom` names what is in the image, and is CycloneDX (the tool checks that itself)."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.support.locks import IMAGE_LOCKS, pins
from tests.support.process import ROOT
from tools.sbom import image_components, left_out, locked

if TYPE_CHECKING:
    from pathlib import Path


def test_the_bill_is_the_lock_and_the_base_image(tmp_path: Path) -> None:
    """Every locked package that the image keeps, once, with its hashes; Ollama and its image by the tag; no more."""
    target = tmp_path / "made" / "sbom.cdx.json"
    subprocess.run([sys.executable, "tools/sbom.py", str(target)], cwd=ROOT, check=True, stdout=subprocess.PIPE)
    bill = json.loads(target.read_text())
    gone = left_out((ROOT / "Containerfile").read_text())
    assert gone == {"markdown-it-py", "mdurl", "pygments"}
    lock = locked()
    for name in gone:
        lock = re.sub(rf"^{name}==.*\n(    --hash.*\n)+", "", lock, flags=re.MULTILINE)
    kept = {(pin.name, pin.version) for name in IMAGE_LOCKS for pin in pins(name) if pin.name not in gone}
    (image, tag), *_ = re.findall(
        r"^ARG OLLAMA_IMAGE=([^\s@]+):([^\s@:]+)", (ROOT / "Containerfile").read_text(), re.MULTILINE
    )
    named = {(part["name"], part["version"]) for part in bill["components"]}
    assert bill["bomFormat"] == "CycloneDX"
    assert len(kept) > 25
    assert len(bill["components"]) == len(named)
    assert named == {*kept, ("ollama", tag), (image, tag)}
    assert set(re.findall(r"sha256:(\w+)", lock)) == set(re.findall(r'"content": "(\w{64})"', target.read_text()))


DIGEST = "0123456789abcdef" * 4


@pytest.mark.parametrize(
    ("image", "purl"),
    [
        ("ollama/ollama:1.2.3", "pkg:docker/ollama/ollama@1.2.3"),
        (f"ollama/ollama:1.2.3@sha256:{DIGEST}", f"pkg:docker/ollama/ollama@sha256%3A{DIGEST}?tag=1.2.3"),
    ],
    ids=["by tag", "by tag and digest"],
)
def test_the_base_image_may_have_a_digest(image: str, purl: str) -> None:
    """The Containerfile's default names a tag, with or without a digest; versions are the tag's, the digest is kept."""
    program, base = image_components(f"FROM x\nARG OLLAMA_IMAGE={image}\n")
    assert (program["purl"], program["version"]) == ("pkg:github/ollama/ollama@v1.2.3", "1.2.3")
    assert (base["name"], base["version"], base["purl"]) == ("ollama/ollama", "1.2.3", purl)


@pytest.mark.parametrize("image", ["ollama/ollama", f"ollama/ollama@sha256:{DIGEST}", "ollama/ollama:1@sha256:short"])
def test_a_base_image_without_a_version_is_refused(image: str) -> None:
    """A bill that could not name Ollama's version is not written."""
    with pytest.raises(SystemExit, match="names no OLLAMA_IMAGE with a tag"):
        image_components(f"ARG OLLAMA_IMAGE={image}\n")
