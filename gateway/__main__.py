"""`python -m gateway`, or the installed command `ollama-gateway`: without arguments the server, else one command.

It imports only what it runs: the server needs no tables, and a command needs no server. `--check` only reports wrong
settings; the launcher runs it before it starts anything. The server's signals are blocked here until it serves, so that
none kills a gateway that starts, and none is lost.
"""

import signal
import sys


def main() -> int:
    """Runs the server or one command. Returns its exit code."""
    if sys.argv[1:] == ["--check"]:
        from gateway.process.start import check

        return check()
    if arguments := sys.argv[1:]:
        from gateway.cli import main as run

        return run(arguments)
    # Before the imports below, which take a while.
    signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGTERM, signal.SIGINT, signal.SIGHUP))
    from gateway.process.start import main as serve

    return serve()


if __name__ == "__main__":
    sys.exit(main())
