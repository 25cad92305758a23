"""Several processes of one gateway: forks them, replaces one that dies, passes signals on and ends with the last.

Owns the parent, which has one thread, no event loop, and imports nothing that serves: so forking is safe, and it takes
a third of a worker's memory. Each worker imports that for itself. Called by serve.
"""

import logging
import os
import signal
import sys
import time
from collections.abc import Callable

log = logging.getLogger("gateway")

_STOPPING = (signal.SIGTERM, signal.SIGINT)
# What other servers take as a wish for more or fewer workers would stop the parent like a Ctrl-Z; here it is nothing.
_UNUSED = (signal.SIGTTIN, signal.SIGTTOU)
_HEARD = (*_STOPPING, *_UNUSED, signal.SIGHUP, signal.SIGCHLD)
# Workers that die as soon as they are there must not be replaced without a pause.
_PAUSE_SECONDS = 0.5


class Workers:
    """`count` forks which each do `work`, to its exit code.

    `work` is given one end of a pipe. Nothing is ever written to it: when it ends the parent is gone, however it went,
    and the worker has to go, too. It begins with all signals that the parent waits for blocked, so that none is lost.
    """

    def __init__(self, count: int, work: Callable[[int], int]) -> None:
        self._count = count
        self._work = work
        self._pids: set[int] = set()
        self._is_stopping = False
        self._exit_code = 0
        self._watched, self._held = os.pipe()

    def run(self) -> int:
        """Returns the exit code when all have ended after a signal to stop, or because one cannot start.

        In a worker it does not return: SystemExit ends it.
        """
        signal.pthread_sigmask(signal.SIG_BLOCK, _HEARD)
        for _ in range(self._count):
            self._start()
        while self._pids:
            self._hear(signal.sigwait(_HEARD))
        return self._exit_code

    def _start(self) -> None:
        if pid := os.fork():
            self._pids.add(pid)
            return
        os.close(self._held)
        sys.exit(self._work(self._watched))

    def _hear(self, number: int) -> None:
        if number == signal.SIGCHLD:
            self._reap()
        elif number == signal.SIGHUP:
            self._tell(signal.SIGHUP)
        elif number in _STOPPING:
            self._stop()

    def _reap(self) -> None:
        """Several ends may have come as one signal."""
        for worker in list(self._pids):
            pid, status = os.waitpid(worker, os.WNOHANG)
            if pid:
                self._pids.remove(pid)
                self._take_end(pid, os.waitstatus_to_exitcode(status))

    def _take_end(self, pid: int, code: int) -> None:
        if self._is_stopping:
            return
        if code > 0:  # it says why itself, and another one would fare no better
            log.error("worker %d cannot serve (exit code %d): stopping", pid, code)
            self._exit_code = 1
            self._stop()
            return
        how = signal.Signals(-code).name if code else "as it was told to"
        log.warning("worker %d ended (%s): another one takes its place", pid, how)
        time.sleep(_PAUSE_SECONDS)
        self._start()

    def _stop(self) -> None:
        self._is_stopping = True
        self._tell(signal.SIGTERM)  # never SIGINT: a Ctrl-C has reached them already, and a second one does not wait

    def _tell(self, number: int) -> None:
        for pid in self._pids:
            os.kill(pid, number)
