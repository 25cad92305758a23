"""Owns a machine's GPU devices as tests have them: links to /dev/null in a directory, which come and go.

Run as a program it is the gateway, looking at such a directory and more often than it does by itself.
"""

from __future__ import annotations

import sys
from pathlib import Path
from unittest.mock import patch

ASK_SECONDS = 0.1
CPU_ALONE_SECONDS = 0.5


class FakeGpu:
    """The devices below `root`, with a list of drivers beside them, in which all have theirs."""

    def __init__(self, root: Path, *names: str) -> None:
        self.root = root / "dev"
        self.drivers = root / "devices"
        self.root.mkdir()
        self.drivers.write_text("Character devices:\n  1 mem\n195 nvidia\n\nBlock devices:\n  7 loop\n")
        self.add(*names)

    def add(self, *names: str) -> None:
        """The devices are there."""
        for name in names:
            path = self.root / name
            path.parent.mkdir(exist_ok=True)
            path.symlink_to("/dev/null")

    def remove(self, *names: str) -> None:
        """They are gone."""
        for name in names:
            (self.root / name).unlink()

    @property
    def command(self) -> list[str]:
        """Starts a gateway that looks here."""
        return [sys.executable, "-m", "tests.support.gpu", str(self.root), str(self.drivers)]


def main() -> int:
    """Run the gateway with the directory of devices and the list of drivers that the arguments name."""
    from functools import partial

    from gateway.__main__ import main as run
    from gateway.app import create_app
    from gateway.gpu.watch import WatchOptions
    from gateway.process import server

    devices, drivers = map(Path, sys.argv[1:])
    del sys.argv[1:]
    options = WatchOptions(devices, drivers, ASK_SECONDS, CPU_ALONE_SECONDS)
    with patch.object(server, "create_app", partial(create_app, gpu_options=options)):
        return run()


if __name__ == "__main__":
    sys.exit(main())
