#!/usr/bin/env python3
"""Owns an `ollama` command for tests of the start: `ollama serve` has no model, fails two pulls, and does the third.
With OLLAMA_MODELS it finds the models that an earlier one pulled.

It speaks as much of Ollama's API as the gateway and its pull program ask for, and tells of progress slowly
enough to be seen. The standard library only: it runs in the container as well.
"""

import json
import os
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

FAILURES = 2
STEPS = 10
STEP_SECONDS = 0.4
LAYER_BYTES = 1_000_000_000
HOLD = Path("/hold/pull")  # while a test has this file there, a pull stands still in its middle

names = Path(os.environ["OLLAMA_MODELS"]) / "names" if "OLLAMA_MODELS" in os.environ else None
models: list[str] = names.read_text().splitlines() if names and names.exists() else []
pulls: list[str] = []


class Ollama(BaseHTTPRequestHandler):
    """One request."""

    def do_GET(self) -> None:
        if self.path == "/api/tags":
            self.answer({"models": [{"name": name, "model": name} for name in models]})
        elif self.path == "/v1/models":
            self.answer({"object": "list", "data": [{"id": name} for name in models]})
        else:
            self.send_error(404)

    def do_POST(self) -> None:
        name = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["model"]
        pulls.append(name)
        if len(pulls) <= FAILURES:
            self.answer({"error": "pull model manifest: the registry is away"})
            return
        self.begin()
        for step in range(STEPS + 1):
            self.tell_progress(LAYER_BYTES * step // STEPS)
            while step == STEPS // 2 and HOLD.exists():
                self.tell_progress(LAYER_BYTES * step // STEPS)
        models.append(name)
        if names:
            names.parent.mkdir(exist_ok=True)
            names.write_text("\n".join(models))
        self.tell(status="success")

    def tell_progress(self, completed: int) -> None:
        self.tell(status="pulling", digest="sha256:0", total=LAYER_BYTES, completed=completed)
        time.sleep(STEP_SECONDS)

    def begin(self, *fields: tuple[str, str]) -> None:
        self.send_response(200)
        for field in fields:
            self.send_header(*field)
        self.end_headers()

    def answer(self, content: object) -> None:
        body = json.dumps(content).encode()
        self.begin(("Content-Length", str(len(body))))
        self.wfile.write(body)

    def tell(self, **event: object) -> None:
        self.wfile.write(json.dumps(event).encode() + b"\n")


if __name__ == "__main__":
    host, port = os.environ["OLLAMA_HOST"].rsplit(":", 1)
    ThreadingHTTPServer((host, int(port)), Ollama).serve_forever()
