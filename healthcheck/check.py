"""The health check of the image and of compose.yaml: exit 0 exactly when Ollama answers and the gateway is ready.

Owns the verdict and one line that says what is wrong; it only reports the state of the store. It must answer within
five seconds whatever its peers do. It uses only the standard library and no proxy.
"""

from __future__ import annotations

import http.client
import json
import os
import sys
import threading
import time
from urllib.parse import urlsplit

LIMIT_SECONDS = 4.0  # for both answers, heads and bodies; the rest of the five seconds is for the start of Python
ANY_ADDRESS = "0.0.0.0"  # noqa: S104 (nothing is bound here)
SERVICE_LINKS = ("tcp://", "udp://", "sctp://")
LONGEST_ANSWER_BYTES = 4 * 1024 * 1024


class Probe(threading.Thread):
    """Asks one peer. It is a daemon thread, so a peer that never ends its answer cannot keep the process alive."""

    def __init__(self, name: str) -> None:
        super().__init__(name=name, daemon=True)
        self.is_healthy = False
        self.finding = f"no answer within {LIMIT_SECONDS:g} s"

    def run(self) -> None:
        """Ask the peer, and keep the result in a few words."""
        try:
            self.is_healthy, self.finding = self.ask()
        except Exception as error:  # any error means that the peer is not healthy, and one line must say so
            self.finding = " ".join(f"{type(error).__name__}: {error}".split())

    def ask(self) -> tuple[bool, str]:
        """Whether the peer is healthy, and what it said."""
        raise NotImplementedError


class Ollama(Probe):
    """Healthy when it lists its models."""

    def ask(self) -> tuple[bool, str]:
        status, _ = get(self.base().rstrip("/") + "/v1/models")
        return status == 200, "up" if status == 200 else f"/v1/models answers {status}"

    def base(self) -> str:
        """UPSTREAM_BASE, or the address that the launcher makes from OLLAMA_HOST."""
        if base := setting("UPSTREAM_BASE"):
            return base
        host = os.environ.get("OLLAMA_HOST", "")
        port = urlsplit(host if "://" in host else f"//{host}").port or 11434
        return f"http://127.0.0.1:{port}"


class Gateway(Probe):
    """Healthy when it calls itself ready."""

    def ask(self) -> tuple[bool, str]:
        status, body = get(f"{gateway_base()}/readyz")
        said = json.loads(body)
        is_ready = status == 200 and said["status"] in ("ready", "degraded")
        missing = " ".join((said.get("models") or {}).get("missing", ()))
        lack = f", without {missing}" if missing else ""
        problem = (said.get("gpu") or {}).get("problem")
        lack += f", {problem}" if problem else ""
        return is_ready, f"{said['status']}, upstream {said['upstream']}, store {said['store']}{lack}"


def gateway_base() -> str:
    """The gateway's address for this machine, without a slash at the end."""
    host = (setting("GATEWAY_HOST") or ANY_ADDRESS).strip("[]")
    host = {ANY_ADDRESS: "127.0.0.1", "::": "::1"}.get(host, host)
    port = setting("GATEWAY_PORT") or "11535"
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"


def setting(name: str) -> str:
    """The variable's value, "" if it is unset. As in the gateway, a service link of Kubernetes counts as unset."""
    value = os.environ.get(name, "")
    return "" if value.startswith(SERVICE_LINKS) else value


def get(url: str) -> tuple[int, bytes]:
    """Status and body of a GET, straight to the host that the URL names."""
    parts = urlsplit(url)
    kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    connection = kind(parts.hostname or "", parts.port, timeout=LIMIT_SECONDS)
    try:
        connection.request("GET", parts.path)
        answer = connection.getresponse()
        return answer.status, answer.read(LONGEST_ANSWER_BYTES)
    finally:
        connection.close()


def main() -> int:
    """Ask both at once, and wait no longer than the limit."""
    end = time.monotonic() + LIMIT_SECONDS
    probes = [Ollama("ollama"), Gateway("gateway")]
    for probe in probes:
        probe.start()
    for probe in probes:
        probe.join(max(0.0, end - time.monotonic()))
    is_healthy = all(probe.is_healthy for probe in probes)
    findings = "; ".join(f"{probe.name}: {probe.finding}" for probe in probes)
    print(f"{'healthy' if is_healthy else 'UNHEALTHY'}: {findings}")
    return 0 if is_healthy else 1


if __name__ == "__main__":
    sys.exit(main())
