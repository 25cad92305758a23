"""Owns the gateway with other numbers in `gateway.http.limits`, so that a test of a 60 s limit does not take 60 s.

Run as `python -m tests.support.impatient HEAD_SECONDS=1 …` it is the gateway, its numbers replaced; the class
starts it so. The tests of the limits call it.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Self

from gateway.http import limits
from gateway.process.start import main
from tests.support.gateway import Gateway
from tests.support.process import spawn
from tests.support.waiting import until

if TYPE_CHECKING:
    from pathlib import Path

COMMAND = [sys.executable, "-m", "tests.support.impatient"]


class ImpatientGateway(Gateway):
    """One gateway process whose limits are `numbers` where those name them."""

    def __init__(self, log: Path, numbers: dict[str, float], **settings: str) -> None:
        super().__init__(log, **settings)
        self.numbers = numbers

    async def start(self) -> Self:
        """Start the process and wait until it answers."""
        words = [f"{name}={number}" for name, number in self.numbers.items()]
        self.process = spawn([*COMMAND, *words], self.log_path, self.settings)
        await until(self.is_serving, 30, "the gateway answers /livez")
        return self


def replace(words: list[str]) -> None:
    """Set each `NAME=number`; a name that is none of the limits is a mistake."""
    for word in words:
        name, _, number = word.partition("=")
        kind = type(getattr(limits, name))
        setattr(limits, name, kind(float(number)))


if __name__ == "__main__":
    replace(sys.argv[1:])
    sys.exit(main())
