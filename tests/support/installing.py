"""Owns what examples need beside the gateway: programs of the machine, and packages that are installed once."""

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING

import pytest

from tests.support.pages import output

if TYPE_CHECKING:
    from pathlib import Path


def needed(program: str) -> str:
    """The path of a program; skipped at home without it, a failure in CI."""
    found = shutil.which(program)
    if found is None and not os.environ.get("CI"):
        pytest.skip(f"there is no {program} here")
    assert found is not None, f"there is no {program}"
    return found


async def installed(config: pytest.Config, package: str, *command: str) -> Path:
    """The directory into which the command has installed a package. Later runs find it in pytest's cache."""
    assert config.cache is not None
    cache = config.cache.mkdir("clients")
    directory = cache / package
    if not directory.exists():
        half = cache / f"{package}.{os.getpid()}"
        half.mkdir()
        try:
            # with the machine's own environment: it may say how packages are reached
            await output(*command, str(half), package, cwd=half, settings=os.environ)
        except (AssertionError, TimeoutError) as error:
            shutil.rmtree(half)
            if os.environ.get("CI"):
                raise
            pytest.skip(f"{package} cannot be installed here: {error}")
        half.rename(directory)
    return directory


async def openai_for_node(config: pytest.Config) -> Path:
    """The directory of the official package for JavaScript."""
    command = (needed("npm"), "install", "--no-audit", "--no-fund", "--ignore-scripts", "--prefix")
    return await installed(config, "openai@6.49.0", *command)
