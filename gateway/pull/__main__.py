"""`python -m gateway.pull`, as supervisord and people start it."""

import sys

from gateway.pull.puller import main

if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
