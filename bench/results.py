"""The figures of a bench in one JSON file, round by round; new figures are merged into it.

Owns the file's shape. Measures nothing and prints nothing.

    {"environment": {...}, "scenarios": {NAME: {"measured": ..., "commit": ..., "left_out": {VARIANT: why},
     "errors": [text], "rounds": [{VARIANT: figures}]}}}

A variant that failed in a round is missing from that round.
"""

import json
import os
import platform
import subprocess
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench import tools

Figures = dict[str, float]
Round = dict[str, Figures]


@dataclass(slots=True)
class Measured:
    """One scenario's rounds."""

    measured: str
    commit: str
    rounds: list[Round] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)
    errors: list[str] = field(default_factory=list)

    @property
    def variants(self) -> list[str]:
        """The measured variants, in the order of the first round."""
        return list(dict.fromkeys(name for round_ in self.rounds for name in round_))

    def of(self, variant: str) -> list[Figures]:
        """A variant's figures, one per round in which it has some."""
        return [round_[variant] for round_ in self.rounds if variant in round_]

    def beside(self, variant: str, base: str) -> list[tuple[Figures, Figures]]:
        """A variant's figures and those of `base` in the same round."""
        return [(round_[variant], round_[base]) for round_ in self.rounds if variant in round_ and base in round_]

    def without(self, variants: Collection[str]) -> "Measured":
        """The same without some variants."""
        rounds = [{name: figures for name, figures in r.items() if name not in variants} for r in self.rounds]
        left_out = {name: why for name, why in self.left_out.items() if name not in variants}
        errors = [error for error in self.errors if not any(f", {name}: " in error for name in variants)]
        return Measured(self.measured, self.commit, rounds, left_out, errors)


@dataclass(slots=True)
class Results:
    """The contents of the file."""

    environment: dict[str, str]
    scenarios: dict[str, Measured]

    def of(self, name: str) -> Measured:
        """A scenario's rounds; none if it was not measured."""
        return self.scenarios.get(name) or Measured("", "")

    def without(self, variants: Collection[str]) -> "Results":
        """The same without some variants."""
        return Results(self.environment, {name: found.without(variants) for name, found in self.scenarios.items()})


def load(path: Path) -> Results:
    """Reads the file; empty if there is none."""
    content: Mapping[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    scenarios = {name: Measured(**fields) for name, fields in content.get("scenarios", {}).items()}
    return Results(content.get("environment", {}), scenarios)


def save(results: Results, path: Path) -> None:
    """Replaces the file in one step, so that a killed run leaves the figures of the last round."""
    path.parent.mkdir(parents=True, exist_ok=True)
    scenarios = {
        name: {
            "measured": found.measured,
            "commit": found.commit,
            "left_out": found.left_out,
            "errors": found.errors,
            "rounds": [{variant: _rounded(figures) for variant, figures in r.items()} for r in found.rounds],
        }
        for name, found in results.scenarios.items()
    }
    text = json.dumps({"environment": results.environment, "scenarios": scenarios}, indent=1)
    new = path.with_suffix(".tmp")
    new.write_text(text + "\n")
    new.replace(path)


def begin(commit: str) -> Measured:
    """A scenario that is about to be measured on `commit`."""
    return Measured(now(), commit)


def now() -> str:
    return time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime())


def commit(checkout: Path = tools.ROOT) -> str:
    """The commit of a checkout, marked if files differ from it. For a folder without Git: its name."""
    if not (checkout / ".git").exists():
        return checkout.name
    try:
        return tools.first_line(["git", "-C", str(checkout), "describe", "--always", "--dirty"])
    except (OSError, subprocess.TimeoutExpired, IndexError):
        return "unknown"


def environment() -> dict[str, str]:
    """The machine and the versions. Without them the figures mean nothing."""
    return {
        "cpu": f"{os.cpu_count()} x {_cpu_model()}",
        "kernel": platform.release(),
        "python": platform.python_version(),
        **tools.versions(),
    }


def _cpu_model() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.partition(": ")[2] for line in lines if line.startswith("model name")), "unknown")


def _rounded(figures: Figures) -> Figures:
    return {name: float(f"{value:.5g}") for name, value in figures.items()}
