"""Owns what can be told of the locks without a network: what they keep of the requirements they were made from."""

from __future__ import annotations

import importlib.metadata
import tomllib

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.support.locks import Pin, pins
from tests.support.process import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def requirements_of(pin: Pin) -> list[Requirement]:
    """What an installed package asks for on this machine, with the extras it is pinned with."""
    found = map(Requirement, importlib.metadata.requires(pin.name) or [])
    extras = (*pin.extras, "")
    return [r for r in found if r.marker is None or any(r.marker.evaluate({"extra": extra}) for extra in extras)]


def test_a_pin_keeps_the_extras_that_are_asked_of_it() -> None:
    """An old pip does not take `coverage==1` for an answer to `coverage[toml]` once a newer one is out."""
    installed = {canonicalize_name(dist.name) for dist in importlib.metadata.distributions()}
    locked = {
        pin.name: pin for pin in [*pins("gateway.txt"), *pins("tracing.txt"), *pins("dev.txt")] if pin.name in installed
    }
    asked = [wanted for pin in locked.values() for wanted in requirements_of(pin) if wanted.extras]
    kept = [wanted for wanted in asked if wanted.extras <= locked[canonicalize_name(wanted.name)].extras]
    assert kept == asked
    assert len(asked) >= 3


def test_the_projects_own_extras_are_in_the_locks() -> None:
    """What pyproject.toml names with an extra is pinned with it, in the lock of its group."""
    groups = {"gateway": PROJECT["project"]["dependencies"], **PROJECT["dependency-groups"]}
    for group, lines in groups.items():
        locked = {pin.name: pin.extras for pin in pins(f"{group}.txt")}
        for wanted in map(Requirement, lines):
            assert wanted.extras <= locked[wanted.name], f"{group}.txt: {wanted}"


def test_the_installer_is_one_pip() -> None:
    """What reads the locks is a single pinned package that depends on no other."""
    assert [pin.name for pin in pins("installer.txt")] == ["pip"]
