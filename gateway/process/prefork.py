"""Several processes of one gateway: forks them, replaces one that dies, passes signals on and ends with the last.

Owns the parent, which has one thread, no event loop, and imports nothing that serves: so forking is safe, and it takes
a third of a worker's memory. Each worker imports that for itself. Called by serve.
"""

import logging
import os
import signal
import sys
from collections.abc import Callable

log = logging.getLogger("gateway")

_STOPPING = (signal.SIGTERM, signal.SIGINT)
# What other servers take as a wish for more or fewer workers would stop the parent like a Ctrl-Z; here it is nothing.
_UNUSED = (signal.SIGTTIN, signal.SIGTTOU)
_HEARD = (*_STOPPING, *_UNUSED, signal.SIGHUP, signal.SIGCHLD)
# Workers that die as soon as they are there must not be replaced without a pause.
_PAUSE_SECONDS = 0.5
_NAMES = {number.value: number.name for number in signal.Signals}  # real-time signals have none


class Workers:
    """`count` forks which each do `work`, to its exit code.

    `work` is given one end of a pipe. Nothing is ever written to it: when it ends the parent is gone, however it went,
    and the worker has to go, too. It begins with all signals that the parent waits for blocked, so that none is lost.
    The parent calls `let_go` when no further worker will be started.
    """

    def __init__(self, count: int, work: Callable[[int], int], let_go: Callable[[], object]) -> None:
        self._count = count
        self._work = work
        self._let_go = let_go
        self._pids: set[int] = set()
        self._is_stopping = False
        self._exit_code = 0
        self._watched, self._held = os.pipe()

    def run(self) -> int:
        """Returns the exit code when all have ended after a signal to stop, or because one cannot start.

        In a worker it does not return: SystemExit ends it.
        """
        signal.pthread_sigmask(signal.SIG_BLOCK, _HEARD)
        self._start_missing()
        while self._pids or not self._is_stopping:
            if self._is_stopping or len(self._pids) == self._count:
                self._hear(signal.sigwait(_HEARD))
            elif heard := signal.sigtimedwait(_HEARD, _PAUSE_SECONDS):
                self._hear(heard.si_signo)
            else:
                self._start_missing()
        return self._exit_code

    def _start_missing(self) -> None:
        """Where the machine has no room for a process, those that live go on, and it is tried again after a pause."""
        while len(self._pids) < self._count:
            try:
                pid = os.fork()
            except OSError as error:
                log.error("cannot start a worker: %s", error.strerror)
                return
            if not pid:
                os.close(self._held)
                sys.exit(self._work(self._watched))
            self._pids.add(pid)

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
        how = _NAMES.get(-code, f"signal {-code}") if code else "as it was told to"
        log.warning("worker %d ended (%s): another one takes its place", pid, how)

    def _stop(self) -> None:
        self._is_stopping = True
        self._let_go()
        self._tell(signal.SIGTERM)  # never SIGINT: a Ctrl-C has reached them already, and a second one does not wait

    def _tell(self, number: int) -> None:
        for pid in self._pids:
            os.kill(pid, number)
