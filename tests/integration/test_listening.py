"""Where the gateway listens: on all addresses of a name, and what it says of an address that is not here."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import httpx

from tests.support.gateway import refused_start
from tests.support.ports import free_port, refusing_port
from tests.support.waiting import until

if TYPE_CHECKING:
    from tests.conftest import Launch


async def test_localhost_is_served_on_both_addresses(launch: Launch) -> None:
    """With GATEWAY_HOST=localhost clients of 127.0.0.1 and of ::1 are served."""
    gateway = await launch(GATEWAY_HOST="localhost")
    async with httpx.AsyncClient(trust_env=False, timeout=20) as http:
        for host in ("127.0.0.1", "[::1]"):
            answer = await http.get(f"http://{host}:{gateway.port}/readyz")
            assert answer.status_code == 200
    assert f"listens on http://127.0.0.1:{gateway.port} and http://[::1]:{gateway.port}" in gateway.log
    assert "no API keys are set" not in gateway.log


async def test_an_address_of_another_machine_is_called_so() -> None:
    """It ends with 1 and one line: no other port would help."""
    code, output = await refused_start(GATEWAY_HOST="192.0.2.1", GATEWAY_PORT=str(free_port()))
    assert code == 1
    assert "GATEWAY_HOST is no address of this machine" in output
    assert "Traceback" not in output


async def test_a_tasks_id_is_a_field_of_its_log_lines(launch: Launch, fresh_id: str) -> None:
    """With LOG_FORMAT=json the line about a task that failed has its id in `task_id`."""
    with refusing_port() as port:
        gateway = await launch(LOG_FORMAT="json", UPSTREAM_BASE=f"http://127.0.0.1:{port}")
        await gateway.ask("POST", "/v1/chat/completions", (b"X-Task-Id", fresh_id.encode()), body=b"{}")
    await until(lambda: fresh_id in gateway.log, 30, "the failure is logged")
    lines = [json.loads(line) for line in gateway.log.splitlines()]
    assert [line["message"] for line in lines if line.get("task_id") == fresh_id] == [
        f"task {fresh_id} failed: upstream_unavailable"
    ]
