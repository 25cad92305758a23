"""Owns how the tests read requirements/*.txt: which package is pinned to which version, with which extras."""

from __future__ import annotations

import re
from dataclasses import dataclass

from tests.support.process import ROOT

IMAGE_LOCKS = ("gateway.txt", "tracing.txt")  # what the Containerfile installs
PIN = re.compile(r"^([\w.-]+)(?:\[([\w.,-]+)\])?==([\w.]+)", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Pin:
    """One package of a lock."""

    name: str
    extras: frozenset[str]
    version: str


def pins(lock: str) -> list[Pin]:
    """What a lock pins, named by its file in requirements/, in the file's order."""
    found = PIN.findall((ROOT / "requirements" / lock).read_text())
    return [Pin(name, frozenset(extras.split(",")) - {""}, version) for name, extras, version in found]
