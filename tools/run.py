"""`make run`, after the packages are installed.

Owns the checks before the start (settings, ports) and the lines that it prints when everything is ready. It must not
stay: it becomes the launcher, and the process that prints ends after that. If the PATH has no `ollama`, it adds
`embedded/ollama`.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import shutil
import signal
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import urlsplit

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from gateway.process.listening import CannotListen, listen  # noqa: E402
from healthcheck import programs  # noqa: E402
from healthcheck.check import gateway_base  # noqa: E402
from healthcheck.output import as_json  # noqa: E402

ASK_EVERY_SECONDS = 0.3
LOOPBACK = "127.0.0.1"
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

  OLLAMA_HOST={ollama} ollama pull smollm2:135m

Ctrl-C stops all of it.
"""


def main() -> None:
    """Check, start the announcer, become the launcher."""
    os.chdir(ROOT)
    paths = [str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)]
    if shutil.which("ollama", path=os.pathsep.join(paths)) is None:
        paths.append(str(ROOT / "embedded"))
    os.environ["PATH"] = os.pathsep.join(paths)
    os.environ["GATEWAY_HOST"] = programs.setting(os.environ, "GATEWAY_HOST") or LOOPBACK
    refuse_wrong_settings()
    is_ollama_ours = programs.starts_ollama(os.environ)
    upstream = programs.addresses(os.environ)["UPSTREAM_BASE"]
    if is_ollama_ours:
        refuse_ollamas_port(LOOPBACK, urlsplit(upstream).port or programs.OLLAMA_PORT)
    refuse_gateways_port(
        os.environ["GATEWAY_HOST"].strip("[]"), int(programs.setting(os.environ, "GATEWAY_PORT") or 11535)
    )
    launcher = os.getpid()
    if os.fork() == 0:
        if os.fork() == 0:  # a grandchild, so that the launcher does not have to reap it
            with contextlib.suppress(ProcessLookupError):  # the launcher ended first
                announce(gateway_base(), upstream, launcher)
        os._exit(0)
    os.wait()
    launcher_file = str(ROOT / "healthcheck" / "launcher.py")
    os.execv(sys.executable, [sys.executable, launcher_file])  # noqa: S606 (no shell is the point)


def refuse_wrong_settings() -> None:
    """End with a line for each wrong setting, as the launcher would."""
    code, problems = programs.wrong_settings(os.environ)
    for program, problem in problems:
        say("error", problem, program)
    if code:
        sys.exit(code)


def refuse_ollamas_port(host: str, port: int) -> None:
    """End with one line if the address is in use: most likely by an Ollama, which can be used."""
    if problem := refusal(host, port):
        end(
            f"Ollama's address {host}:{port}: {problem}; to use the Ollama that runs there: "
            f"make run UPSTREAM_BASE=http://{host}:{port}; to start another: make run OLLAMA_HOST={host}:{port + 1}"
        )


def refuse_gateways_port(host: str, port: int) -> None:
    """End with one line if the gateway cannot listen there."""
    problem = refusal(host, port)
    if problem and problem.is_in_use:
        end(f"the gateway's address {host}:{port}: {problem}; free it, or: make run GATEWAY_PORT={port + 1}")
    if problem:
        end(f"the gateway's address {host}:{port}: {problem}")


def refusal(host: str, port: int) -> CannotListen | None:
    """Why the gateway cannot listen there, or None."""
    try:
        for listener in listen(host, port):
            listener.close()
    except CannotListen as problem:
        return problem
    return None


def end(text: str) -> NoReturn:
    """End with one line and exit code 1."""
    say("error", text)
    sys.exit(1)


def say(level: str, text: str, program: str = "run") -> None:
    """Print a line that names its program, in the format of all other lines."""
    if programs.wants_json(os.environ):
        print(as_json(program, text.encode(), level).decode(), flush=True)
    else:
        print(f"{program} | {text}" if program != "run" else f"run: {text}", file=sys.stderr, flush=True)


def announce(url: str, upstream: str, launcher: int) -> None:
    """Wait until the gateway is ready, then print a command to try. Give up if the launcher ends."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    while get(f"{url}/readyz") is None:
        os.kill(launcher, 0)
        time.sleep(ASK_EVERY_SECONDS)
    if programs.wants_json(os.environ):
        say("info", f"the gateway is ready: {url}/v1")
        return
    models = (get(upstream.rstrip("/") + "/v1/models") or {}).get("data")
    ollama = urlsplit(upstream).netloc
    print(invitation(url, models[0]["id"]) if models else NO_MODEL.format(url=url, ollama=ollama), flush=True)


def invitation(url: str, model: str) -> str:
    """The commands to try, with a model that Ollama has."""
    question = {
        "model": model,
        "stream": True,
        "messages": [{"role": "user", "content": "Why is the sky blue?"}],
    }
    has_keys = any(programs.setting(os.environ, name) for name in ("GATEWAY_API_KEYS", "GATEWAY_API_KEYS_FILE"))
    key = " -H 'Authorization: Bearer YOUR_KEY'" if has_keys else ""
    return READY.format(url=url, key=key, body=json.dumps(question))


def get(url: str) -> Any:
    """The JSON of the answer to a GET; None if there is no answer or it is an error."""
    try:
        with DIRECT.open(url, timeout=5) as answer:
            return json.load(answer)
    except (OSError, ValueError, http.client.HTTPException):
        return None


if __name__ == "__main__":
    main()
