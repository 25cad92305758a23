"""The image's build runs this first: it refuses an Ollama that is too old to be safe.

Owns the oldest version that the build accepts (SECURITY.md says why). The Containerfile runs it in the base image,
which the user can choose. Standard library only.
"""

from __future__ import annotations

import re
import subprocess
import sys

FLOOR = (0, 17, 1)
UNNUMBERED = (0, 0, 0)  # what Ollama reports if it was built without a version
TIMEOUT_SECONDS = 30


def main() -> None:
    """End with an error if the installed Ollama is known to be too old."""
    said = spoken_version()
    print(f"ollama --version: {said.strip() or 'nothing'}")
    if is_too_old(said):
        floor = ".".join(map(str, FLOOR))
        sys.exit(f"this Ollama has known holes; take {floor} or newer (build argument OLLAMA_IMAGE)")


def spoken_version() -> str:
    """The output of `ollama --version`, which needs no server; empty if the command does not know the option."""
    try:
        done = subprocess.run(
            ["ollama", "--version"],  # noqa: S607 - the PATH also finds it at run time
            capture_output=True,
            text=True,
            timeout=TIMEOUT_SECONDS,
        )
    except subprocess.TimeoutExpired:
        return ""
    return done.stdout + done.stderr


def is_too_old(said: str) -> bool:
    """Whether a version is named and is below the floor. A user's own build may name none."""
    named = re.findall(r"version is v?(\d+)\.(\d+)\.(\d+)", said)
    return any(UNNUMBERED < tuple(map(int, version)) < FLOOR for version in named)


if __name__ == "__main__":
    main()
