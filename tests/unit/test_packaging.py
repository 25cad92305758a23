"""`pip install .` gives the whole gateway: pyproject.toml names every package, every other file and the command."""

from __future__ import annotations

import importlib
import re
import tomllib

from gateway import __version__
from tests.support.process import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PACKAGE = ROOT / "gateway"


def test_every_package_is_named() -> None:
    """A package that is not named would be missing where the gateway is installed."""
    packages = {".".join(file.parent.relative_to(ROOT).parts) for file in PACKAGE.rglob("__init__.py")}
    assert set(PROJECT["tool"]["setuptools"]["packages"]) == packages


def test_every_other_file_is_named() -> None:
    """Scripts of the store and the dashboard's files go with the code."""
    data = PROJECT["tool"]["setuptools"]["package-data"]
    rooms = {ROOT.joinpath(*name.split(".")): patterns for name, patterns in data.items()}
    taken = {file for room, patterns in rooms.items() for pattern in patterns for file in room.glob(pattern)}
    files = {file for file in PACKAGE.rglob("*") if file.is_file() and "__pycache__" not in file.parts}
    assert {file for file in files if file.suffix != ".py"} == taken


def test_the_command_is_there() -> None:
    """`ollama-gateway` is a function that gives an exit code."""
    module, _, name = PROJECT["project"]["scripts"]["ollama-gateway"].partition(":")
    assert callable(getattr(importlib.import_module(module), name))


def test_there_is_one_version() -> None:
    """What the gateway says, the package, the image of the manifests and the example for CI are one version."""
    manifests = (ROOT / "deploy" / "kubernetes").rglob("kustomization.yaml")
    tags = {
        tag for file in manifests for tag in re.findall(r"name: ollama-gateway\n.*newTag: ([\d.]+\d)", file.read_text())
    }
    assert tags == {__version__} == {PROJECT["project"]["version"]}
    minor = __version__.rpartition(".")[0]
    named = re.findall(r"ghcr\.io/OWNER/ollama-gateway:(\S+?)`?\s", (ROOT / "docs" / "ci.md").read_text())
    assert set(named) == {minor}
