"""`make sbom`: a software bill of materials of the image, as CycloneDX JSON.

Owns what is in the image besides Python packages: Ollama and its base image, by the tag and, if there is one, the
digest in the Containerfile. cyclonedx-py reads the packages with their hashes from the locks; those that the
Containerfile takes out again are not in the bill. Fetches nothing.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any
from urllib.parse import quote

from cyclonedx.schema import OutputFormat, SchemaVersion
from cyclonedx.validation import make_schemabased_validator

ROOT = Path(__file__).resolve().parents[1]
VERSION = "1.6"
LOCKS = ("gateway.txt", "tracing.txt")


def main(target: Path) -> None:
    """Write the bill to `target`; the process ends with an error if it is no valid CycloneDX."""
    containerfile = (ROOT / "Containerfile").read_text()
    bill = packages(left_out(containerfile))
    for component in image_components(containerfile):
        bill["components"].append(component)
        bill["dependencies"].append({"ref": component["bom-ref"]})
    parts = [component["bom-ref"] for component in bill["components"]]
    next(d for d in bill["dependencies"] if d["ref"] == "root-component")["dependsOn"] = parts
    text = json.dumps(bill, indent=2) + "\n"
    if fault := make_schemabased_validator(OutputFormat.JSON, SchemaVersion.from_version(VERSION)).validate_str(text):
        sys.exit(f"sbom: {fault}")
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(text)
    print(f"sbom: {len(parts)} components in {target}")


def left_out(containerfile: str) -> set[str]:
    """The locked packages that the Containerfile takes out again."""
    return {name for names in re.findall(r"uninstall --yes ([\w -]+?) \\", containerfile) for name in names.split()}


def locked() -> str:
    """What the image installs; a package that both locks have stands there once."""
    found: dict[str, str] = {}
    for lock in LOCKS:
        for entry in re.split(r"\n(?=\w)", (ROOT / "requirements" / lock).read_text().strip()):
            found.setdefault(re.split(r"[\[=]", entry)[0], entry)
    return "\n".join(found.values()) + "\n"


def packages(missing: set[str]) -> dict[str, Any]:
    """The bill of the Python packages, from the locks, without those that are `missing` in the image."""
    command = [sys.executable, "-W", "ignore", "-m", "cyclonedx_py", "requirements", "-"]
    command += ["--pyproject", "pyproject.toml", "--output-reproducible", "--spec-version", VERSION]
    made = subprocess.run(command, cwd=ROOT, check=True, input=locked(), stdout=subprocess.PIPE, text=True)  # noqa: S603
    bill: dict[str, Any] = json.loads(made.stdout)
    gone = {part["bom-ref"] for part in bill["components"] if part["name"] in missing}
    bill["components"] = [part for part in bill["components"] if part["bom-ref"] not in gone]
    bill["dependencies"] = [part for part in bill["dependencies"] if part["ref"] not in gone]
    return bill


def image_components(containerfile: str) -> list[dict[str, Any]]:
    """Ollama and the base image, as the Containerfile's default names them: by tag, or by tag and digest."""
    found = re.search(
        r"^ARG OLLAMA_IMAGE=([^\s@]+):([^\s@:]+)(?:@(sha256:[0-9a-f]{64}))?$", containerfile, re.MULTILINE
    )
    if found is None:
        sys.exit("sbom: the Containerfile names no OLLAMA_IMAGE with a tag")
    image, tag, digest = found.groups()
    program = {"type": "application", "name": "ollama", "purl": f"pkg:github/ollama/ollama@v{tag}"}
    place = f"{quote(digest, safe='')}?tag={tag}" if digest else tag
    base = {"type": "container", "name": image, "purl": f"pkg:docker/{image}@{place}"}
    return [{"bom-ref": part["purl"], "version": tag, **part} for part in (program, base)]


if __name__ == "__main__":
    main(Path(sys.argv[1]))
