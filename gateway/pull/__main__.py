"""`python -m gateway.pull`: the entry point for supervisord and for people."""

import sys

from gateway.pull.puller import main

if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
