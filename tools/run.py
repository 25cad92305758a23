"""What `make run` does once the packages are there.

Owns the checks before the start (ports) and the few lines printed when all is ready. It must not stay: it
turns into the launcher, and the process that prints is gone when it has printed. `embedded/ollama` joins the
PATH when nothing else there is called ollama.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import shutil
import signal
import socket
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from healthcheck.check import ANY_ADDRESS, gateway_base, setting  # noqa: E402
from healthcheck.launcher import addresses  # noqa: E402

ASK_EVERY_SECONDS = 0.3
DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))

READY = """
The gateway is ready: {url}/v1

  curl -N {url}/v1/chat/completions -H 'X-Task-Id: try-1' -H 'Content-Type: application/json'{key} -d '{body}'
  curl {url}/tasks/status/try-1{key}

Ctrl-C stops all of it.
"""
NO_MODEL = """
The gateway is ready: {url}/v1

Ollama has no model yet. Load a small one, then start again for a line to try:

  OLLAMA_HOST={OLLAMA_HOST} ollama pull smollm2:135m

Ctrl-C stops all of it.
"""


def main() -> None:
    """Check, leave the announcer behind, become the launcher."""
    os.chdir(ROOT)
    paths = [str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)]
    if shutil.which("ollama", path=os.pathsep.join(paths)) is None:
        paths.append(str(ROOT / "embedded"))
    os.environ["PATH"] = os.pathsep.join(paths)
    os.environ.update(addresses(os.environ))
    host, port = setting("GATEWAY_HOST") or ANY_ADDRESS, setting("GATEWAY_PORT") or "11535"
    refuse_taken_port("127.0.0.1", int(os.environ["OLLAMA_HOST"].rpartition(":")[2]), "Ollama's", "OLLAMA_HOST")
    if port.isdecimal() and int(port) < 65536:  # a wrong one is the gateway's to name
        refuse_taken_port(host, int(port), "the gateway's", "GATEWAY_PORT")
    launcher = os.getpid()
    if os.fork() == 0:
        if os.fork() == 0:  # a grandchild, so that it is not the launcher's to reap
            with contextlib.suppress(ProcessLookupError):  # the launcher ended first
                announce(gateway_base(), launcher)
        os._exit(0)
    os.wait()
    launcher_file = str(ROOT / "healthcheck" / "launcher.py")
    os.execv(sys.executable, [sys.executable, launcher_file])  # noqa: S606 (no shell is the point)


def refuse_taken_port(host: str, port: int, whose: str, variable: str) -> None:
    """End with one line when somebody listens there already."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            example = f"127.0.0.1:{port + 1}" if variable == "OLLAMA_HOST" else port + 1
            sys.exit(
                f"run: {whose} address {host}:{port}: {error.strerror}; free it, or: make run {variable}={example}"
            )


def announce(url: str, launcher: int) -> None:
    """Wait until the gateway is ready and print what to try; give up when the launcher is gone."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    while get(f"{url}/readyz") is None:
        os.kill(launcher, 0)
        time.sleep(ASK_EVERY_SECONDS)
    models = (get(os.environ["UPSTREAM_BASE"].rstrip("/") + "/v1/models") or {}).get("data")
    print(
        invitation(url, models[0]["id"]) if models else NO_MODEL.format_map(os.environ | {"url": url}),
        flush=True,
    )


def invitation(url: str, model: str) -> str:
    """The lines to try, with a model that is there."""
    question = {
        "model": model,
        "stream": True,
        "messages": [{"role": "user", "content": "Why is the sky blue?"}],
    }
    has_keys = setting("GATEWAY_API_KEYS") or setting("GATEWAY_API_KEYS_FILE")
    key = " -H 'Authorization: Bearer YOUR_KEY'" if has_keys else ""
    return READY.format(url=url, key=key, body=json.dumps(question))


def get(url: str) -> Any:
    """The JSON that a GET is answered with; None when the answer is no success or does not come."""
    try:
        with DIRECT.open(url, timeout=5) as answer:
            return json.load(answer)
    except (OSError, ValueError, http.client.HTTPException):
        return None


if __name__ == "__main__":
    main()
