"""`python -m gateway`, and `ollama-gateway` where that is installed: serves, or with arguments runs one command.

Each half is imported only when it is asked for: the server needs no tables, and a command no server. `--check` only
says what is wrong with the settings; the launcher asks that before it starts anything. For the server signals wait from
here on until it serves: none kills a gateway that starts, and none is lost.
"""

import signal
import sys


def main() -> int:
    """Gives the exit code of whichever it is."""
    if sys.argv[1:] == ["--check"]:
        from gateway.process.start import check

        return check()
    if arguments := sys.argv[1:]:
        from gateway.cli import main as run

        return run(arguments)
    # Before all else is imported, which takes a while.
    signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGTERM, signal.SIGINT, signal.SIGHUP))
    from gateway.process.start import main as serve

    return serve()


if __name__ == "__main__":
    sys.exit(main())
