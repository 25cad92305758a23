"""`python -m gateway`, and `ollama-gateway` where that is installed: serves, or with arguments runs one command.

Each half is imported only when it is asked for: the server needs no tables, and a command no server.
"""

import sys


def main() -> int:
    """Gives the exit code of whichever it is."""
    if arguments := sys.argv[1:]:
        from gateway.cli import main as run

        return run(arguments)
    from gateway.serve import main as serve

    return serve()


if __name__ == "__main__":
    sys.exit(main())
