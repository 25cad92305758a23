"""What the image's build asks first: is this Ollama new enough to be let near anybody?

Owns the oldest version that is taken (SECURITY.md says why). The Containerfile runs it where the base image, with
its `ollama`, can be one's own choice. Standard library only.
"""

from __future__ import annotations

import re
import subprocess
import sys

FLOOR = (0, 17, 1)
UNNUMBERED = (0, 0, 0)  # what Ollama calls itself when somebody built it without saying a version
TIMEOUT_SECONDS = 30


def main() -> None:
    """End with an error when the installed Ollama is known to be too old."""
    said = spoken_version()
    print(f"ollama --version: {said.strip() or 'nothing'}")
    if is_too_old(said):
        floor = ".".join(map(str, FLOOR))
        sys.exit(f"this Ollama has known holes; take {floor} or newer (build argument OLLAMA_IMAGE)")


def spoken_version() -> str:
    """What `ollama --version` says; no server needs to run for that. Nothing, if it does not know the question."""
    try:
        done = subprocess.run(
            ["ollama", "--version"],  # noqa: S607 - the one that the PATH finds is the one that will be run
            capture_output=True,
            text=True,
            timeout=TIMEOUT_SECONDS,
        )
    except subprocess.TimeoutExpired:
        return ""
    return done.stdout + done.stderr


def is_too_old(said: str) -> bool:
    """Whether a version is named and it is below the floor; a build of one's own may name none."""
    named = re.findall(r"version is v?(\d+)\.(\d+)\.(\d+)", said)
    return any(UNNUMBERED < tuple(map(int, version)) < FLOOR for version in named)


if __name__ == "__main__":
    main()
