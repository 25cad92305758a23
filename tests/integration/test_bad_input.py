"""Owns the promises about what must not get through: other paths, disguised paths, wrong settings.

Contract sections 1, 2.1, 3.8 and 7.
"""

from __future__ import annotations

import os
import pty
from typing import TYPE_CHECKING

import pytest

from tests.support.gateway import refused_start
from tests.support.waiting import within
from tests.support.wire import request

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import Launch
    from tests.support.gateway import Gateway
    from tests.support.scripted import Upstream


OUTSIDE = [
    b"/api/tags", b"/api/generate", b"/api/delete", b"/api", b"/v1", b"/V1/models", b"/v2/models",
    b"//v1/models", b"/x/v1/models", b"/%76%31/models", b"/v1%2fmodels", b"/v1%2Fmodels", b"/%2fv1/models",
    b"/v1x/models", b"/tasks", b"/tasks/", b"/favicon.ico", b"/v1%252fmodels", b"/%61pi/tags",
    b"http://127.0.0.1/api/tags", b"http://v1/api/tags",
]  # fmt: skip

DISGUISED = [
    b"/v1/../api/delete", b"/v1/./models", b"/v1/..", b"/v1/.", b"/v1/models/..", b"/v1/x/../../api/tags",
    b"/v1/%2e%2e/api/delete", b"/v1/%2E%2E/api/delete", b"/v1/.%2e/api/delete", b"/v1/%2e/models",
    b"/v1/..%2fapi%2fdelete", b"/v1/%2e%2e%2fapi%2fdelete", b"/v1/x%2f..%2f..%2fapi/tags",
    b"/v1/%252e%252e/api/delete", b"/v1/%25252e%25252e/api", b"/v1/..%252fapi", b"/v1/x%5c..%5c..%5capi",
    b"/v1/..%5capi", b"/v1/a%5Cb", b"/v1/a%255Cb", b"/v1/x%00", b"/v1/x%2500y", b"/v1/x%0d%0aHost:%20y",
    b"/v1/x%0a", b"/v1/x%250D", b"http://127.0.0.1/v1/../api/tags",
]  # fmt: skip


@pytest.mark.parametrize("target", OUTSIDE, ids=lambda target: target.decode())
async def test_a_path_outside_v1_is_404(tracked: Gateway, upstream: Upstream, target: bytes) -> None:
    """What does not begin with /v1/ on the wire is 404 and never reaches the upstream."""
    for method in ("GET", "POST"):
        answer = await tracked.ask(method, target, **({"body": b"{}"} if method == "POST" else {}))
        assert answer.status == 404, (method, answer.data)
    assert upstream.exchanges == []


@pytest.mark.parametrize("target", DISGUISED, ids=lambda target: target.decode())
async def test_a_disguised_path_is_400(tracked: Gateway, upstream: Upstream, target: bytes) -> None:
    """Dot segments, backslashes and control bytes under any number of escapes are 400, in OpenAI's shape."""
    answer = await tracked.ask("POST", target, body=b"{}")
    assert answer.status == 400
    error = answer.json()["error"]
    assert (error["type"], error["code"]) == ("gateway_error", "invalid_path")
    assert upstream.exchanges == []


@pytest.mark.parametrize("target", [b"/v1/a\\b", b"/v1\\..\\api", b"/v1/caf\xc3\xa9/..", b"*", b"v1/models", b""])
async def test_a_malformed_target_is_refused(tracked: Gateway, upstream: Upstream, target: bytes) -> None:
    """A target with raw backslashes, or that is none, is a 4xx and reaches nothing."""
    client = await tracked.send("GET", target, (b"Connection", b"close"))
    answer = await within(30, client.answer(), "an answer")
    assert 400 <= answer.status < 500
    assert upstream.exchanges == []


MALFORMED = [
    b"hello\r\n\r\n",
    b"GET\r\n\r\n",
    b"GET /v1/models HTTP/9.9\r\nHost: x\r\n\r\n",
    b"GET /v1/models HTTP/1.1\r\nHost: x\r\nBad Field: 1\r\n\r\n",
    b"POST /v1/x HTTP/1.1\r\nHost: x\r\nContent-Length: abc\r\n\r\n",
    b"POST /v1/x HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
]


@pytest.mark.parametrize("raw", MALFORMED, ids=range(len(MALFORMED)))
async def test_what_is_no_request_is_a_plain_400(tracked: Gateway, upstream: Upstream, raw: bytes) -> None:
    """Bytes that are no HTTP request are answered 400, the connection is closed, and nothing is relayed."""
    client = await tracked.connect()
    await client.send(raw)
    answer = await within(30, client.answer(), "an answer")
    assert answer.status == 400
    assert await within(30, client.at_end(), "the connection is closed")
    assert upstream.exchanges == []


async def test_a_bad_chunk_ends_the_upload(tracked: Gateway, upstream: Upstream) -> None:
    """A request whose chunks are malformed never looks whole to the upstream."""
    client = await tracked.connect()
    await client.send(request("POST", "/v1/x", (b"Transfer-Encoding", b"chunked")) + b"3\r\nabc\r\n")
    got = await upstream.exchange()
    await client.send(b"zz\r\n")
    await within(30, got.closed.wait(), "the upstream is closed")
    assert not got.body.complete


async def test_trailers_are_no_fields(tracked: Gateway, upstream: Upstream) -> None:
    """Fields behind a chunked body never count as fields of the request, nor name its task."""
    client = await tracked.connect()
    start = request("POST", "/v1/x", (b"Transfer-Encoding", b"chunked"))
    await client.send(start + b"2\r\n{}\r\n0\r\nX-Evil: 1\r\nX-Task-Id: from-a-trailer\r\n\r\n")
    answer = await client.answer()
    assert answer.status == 200
    assert answer.head.task_id != "from-a-trailer"
    assert upstream.exchanges[0].head.all("x-evil") == []


async def test_a_400_never_gets_into_an_answer(tracked: Gateway, upstream: Upstream) -> None:
    """Garbage behind a request that is being answered ends the connection without another byte."""
    stream = upstream.gated()
    client = await tracked.send("GET", "/v1/x")
    stream.head()
    await client.head()
    await client.send(b"\x00garbage\r\n\r\n")
    assert await within(30, client.reader.read(), "the end") == b""


async def test_a_400_never_gets_ahead_of_an_answer(tracked: Gateway, upstream: Upstream) -> None:
    """Garbage directly behind a whole request is not answered as if it were that request."""
    client = await tracked.connect()
    await client.send(request("GET", "/v1/x") + b"\x00garbage\r\n\r\n")
    assert await within(30, client.at_end(), "the connection is closed")


async def test_a_length_with_many_zeros_is_its_number(gateways: Launch, upstream: Upstream) -> None:
    """Leading zeros of any number are allowed (RFC 9110 section 8.6) and make no length too long."""
    gateway = await gateways(MAX_BODY_BYTES="1000")
    for length, expected in ((b"0" * 4000 + b"2", 200), (b"0" * 5000 + b"1001", 413), (b"9" * 5000, 400)):
        client = await gateway.connect()
        await client.send(b"POST /v1/x HTTP/1.1\r\nHost: x\r\nContent-Length: " + length + b"\r\n\r\n{}")
        assert (await client.head()).status == expected


async def test_a_body_over_the_limit_is_413(gateways: Launch, upstream: Upstream) -> None:
    """A body over MAX_BODY_BYTES is 413 body_too_large, at once by its length or when its chunks exceed it."""
    gateway = await gateways(MAX_BODY_BYTES="1000")
    announced = await gateway.ask("POST", "/v1/announced", body=b"x" * 1001)
    assert (announced.status, announced.json()["error"]["code"]) == (413, "body_too_large")
    assert b"/v1/announced" not in [exchange.head.target for exchange in upstream.exchanges]
    chunked = await gateway.ask("POST", "/v1/x", chunks=[b"x" * 600, b"x" * 401])
    assert (chunked.status, chunked.json()["error"]["code"]) == (413, "body_too_large")
    assert not any(exchange.body.complete for exchange in upstream.exchanges)
    assert (await gateway.ask("POST", "/v1/x", body=b"x" * 1000)).status == 200


async def test_all_wrong_settings_are_named_at_once() -> None:
    """One start names each wrong value in a line of its own, a password masked, with exit code 2 and no traceback."""
    wrong = {"GATEWAY_PORT": "banana", "TTL_DONE": "never", "LOG_LEVEL": "loud", "HEARTBEAT_SEC": "0"}
    code, output = await refused_start(**wrong, REDIS_URL="redis://u:hunter2@127.0.0.1:banana/0")
    assert code == 2
    for name, value in [*wrong.items(), ("REDIS_URL", "***")]:
        assert len([line for line in output.splitlines() if name in line and value in line]) == 1, output
    assert len(output.splitlines()) == len(wrong) + 1
    assert "hunter2" not in output


@pytest.mark.parametrize("name", ["REDIS_PASSWORD_FILE", "GATEWAY_API_KEYS_FILE"])
@pytest.mark.parametrize("kind", ["fifo", "endless", "terminal"])
async def test_what_never_ends_is_no_file_of_secrets(name: str, kind: str, tmp_path: Path) -> None:
    """A FIFO that no one writes to, a device without an end or a terminal ends the start at once, with one line."""
    path = tmp_path / "secret"
    os.mkfifo(path)
    ends = pty.openpty()
    shown = {"fifo": str(path), "endless": "/dev/zero", "terminal": os.ttyname(ends[1])}[kind]
    code, output = await refused_start(**{name: shown})
    assert (code, output.count("\n")) == (2, 1)
    assert f"{name}='{shown}' is not valid (it is not a regular file)" in output
    for end in ends:
        os.close(end)


async def test_the_start_tells_what_does_not_count(launch: Launch) -> None:
    """Links of Kubernetes, misspelled names and former settings are one warning each, and the gateway serves."""
    link = "tcp://10.11.12.13:6379"
    gateway = await launch(
        REDIS_PORT=link,
        REDIS_PORT_6379_TCP=link,
        REDIS_SERVICE_HOST="10.11.12.13",
        REDIS_HOTS="hunter2",
        GATEWAY_WORKERS="4711",
    )
    warnings = [line for line in gateway.log.splitlines() if "WARNING" in line]
    assert len(warnings) == 3
    assert "REDIS_PORT counts as unset" in warnings[0]
    assert "REDIS_HOTS is no setting and has no effect: is REDIS_HOST meant?" in warnings[1]
    assert "GATEWAY_WORKERS is no longer a setting and has no effect: one process serves" in warnings[2]
    assert "hunter2" not in gateway.log
    assert "4711" not in warnings[2]
    assert "10.11.12.13" not in gateway.log


async def test_a_port_in_use_is_one_clear_line(tracked: Gateway) -> None:
    """A second gateway on the same port ends at once, names the port, and shows no traceback."""
    code, output = await refused_start(GATEWAY_HOST="127.0.0.1", GATEWAY_PORT=str(tracked.port))
    assert code != 0
    assert str(tracked.port) in output
    assert "Traceback" not in output
