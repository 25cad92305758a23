"""The gateway, which waits for its store as long as tests wait: `python -m tests.support.patient`.

For rules that hold while the store answers in time, on a machine that may hold it up for longer than a gateway waits.
How long that is at most is a rule of tests/chaos/rules.py.
"""

from __future__ import annotations

import sys

from gateway.tracking import tracked
from tests.support.waiting import GUARD_SECONDS

COMMAND = [sys.executable, "-m", "tests.support.patient"]


def main() -> int:
    """Run it. Other modules copy the numbers when they are imported, so these come first."""
    tracked.MAX_WAIT_SECONDS = tracked.MAX_WAITS_SECONDS = GUARD_SECONDS
    from gateway.process.start import main as run
    from gateway.tracking import tracker, waits

    assert {vars(module)["MAX_WAIT_SECONDS"] for module in (tracker, waits)} == {GUARD_SECONDS}
    return run()


if __name__ == "__main__":
    sys.exit(main())
