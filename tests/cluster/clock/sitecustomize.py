"""Sets the wall clock of one process apart from the machine's, by CLOCK_SHIFT_SEC seconds.

Linux gives a namespace no wall clock of its own. Python imports this file before any other module if its directory is
on PYTHONPATH, so every later use of `time.time` gets the shifted clock. `datetime.now()` stays as it is.
"""

from __future__ import annotations

import os
import time

_SHIFT_SECONDS = float(os.environ.get("CLOCK_SHIFT_SEC", "0"))
_true_time, _true_time_ns = time.time, time.time_ns


def _shifted_time() -> float:
    return _true_time() + _SHIFT_SECONDS


def _shifted_time_ns() -> int:
    return _true_time_ns() + int(_SHIFT_SECONDS * 1e9)


if _SHIFT_SECONDS:
    time.time = _shifted_time
    time.time_ns = _shifted_time_ns
