"""The liveness probe of deploy/kubernetes: exit 1 only if the gateway is frozen, because a restart cuts every answer.

Owns that verdict: a gateway is frozen if it says nothing for four seconds. Any answer means that it lives, also the 503
above MAX_CONNECTIONS. A refused connection means that it is starting: supervisord watches its process. It uses only the
standard library.
"""

from __future__ import annotations

import socket
import sys
from pathlib import Path
from urllib.parse import urlsplit

if __name__ == "__main__":  # started by its path, whatever the working directory
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from healthcheck.check import gateway_base

LIMIT_SECONDS = 4.0  # for the connection, and again for the first byte
QUESTION = b"GET /livez HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"


def is_frozen(host: str, port: int) -> bool:
    """Whether a server at this address takes no connection, or says nothing on it, before the limit."""
    try:
        with socket.create_connection((host, port), timeout=LIMIT_SECONDS) as connection:
            connection.sendall(QUESTION)
            connection.recv(1)
    except TimeoutError:
        return True
    except ConnectionError:  # refused: it is starting; reset: it has answered and closed before it read the question
        return False
    return False


def main() -> int:
    """Ask the gateway, and say in one line what was found."""
    parts = urlsplit(gateway_base())
    is_lost = is_frozen(parts.hostname or "", parts.port or 0)
    print(f"gateway: no answer within {LIMIT_SECONDS:g} s" if is_lost else "gateway: alive")
    return 1 if is_lost else 0


if __name__ == "__main__":
    sys.exit(main())
