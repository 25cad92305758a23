"""Owns a real Prometheus for the tests: Debian's server with our configuration, aimed at a gateway of a test's own."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import httpx
import yaml

from tests.support.ports import free_port
from tests.support.process import ROOT, spawn, terminate
from tests.support.waiting import until

if TYPE_CHECKING:
    import subprocess
    from pathlib import Path

MONITORING = ROOT / "deploy" / "monitoring"
INTERVAL_SECONDS = 2


class Prometheus:
    """One server that scrapes `gateway_port` every INTERVAL_SECONDS, started from deploy/monitoring's own files."""

    def __init__(self, program: str, directory: Path, gateway_port: int) -> None:
        self.directory = directory
        self.port = free_port()
        self.http = httpx.AsyncClient(base_url=f"http://127.0.0.1:{self.port}", trust_env=False, timeout=20)
        self.log = directory / "prometheus.log"
        self.config = directory / "prometheus.yaml"
        self.command = [
            program,
            f"--config.file={self.config}",
            f"--storage.tsdb.path={directory / 'data'}",
            f"--web.listen-address=127.0.0.1:{self.port}",
        ]
        self.target = f"127.0.0.1:{gateway_port}"
        self.process: subprocess.Popen[bytes]

    async def start(self) -> None:
        """Start it and wait until it answers."""
        config = yaml.safe_load((MONITORING / "prometheus.yaml").read_text())
        config["global"] = {"scrape_interval": f"{INTERVAL_SECONDS}s", "evaluation_interval": "1s"}
        config["rule_files"] = [str(MONITORING / name) for name in config["rule_files"]]
        config["scrape_configs"][0]["static_configs"] = [{"targets": [self.target]}]
        self.config.write_text(yaml.safe_dump(config))
        self.process = spawn(self.command, self.log, {})
        await until(self._is_ready, 30, "Prometheus is ready")

    async def _is_ready(self) -> bool:
        assert self.process.poll() is None, self.log.read_text()
        with contextlib.suppress(httpx.TransportError):
            return (await self.http.get("/-/ready")).status_code == 200
        return False

    async def stop(self) -> None:
        """End it."""
        await self.http.aclose()
        await terminate(self.process, 20)

    async def get(self, path: str, **parameters: str) -> Any:
        """The data of an answer of its API."""
        answer = (await self.http.get(f"/api/v1/{path}", params=parameters)).json()
        assert answer["status"] == "success", (parameters, answer)
        return answer["data"]

    async def query(self, expression: str) -> list[dict[str, Any]]:
        """What an expression gives now."""
        found: list[dict[str, Any]] = (await self.get("query", query=expression))["result"]
        return found

    async def number(self, expression: str) -> float:
        """The one number that an expression gives; 0 where it gives none."""
        found = await self.query(expression)
        assert len(found) <= 1, found
        return float(found[0]["value"][1]) if found else 0.0
