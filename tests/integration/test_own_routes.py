"""Owns the promises that all of the gateway's own routes keep: HEAD, what their answers say to browsers and caches."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.conftest import Launch
    from tests.support.gateway import Gateway
    from tests.support.scripted import Upstream
    from tests.support.wire import Field


KEY = (b"X-Api-Key", b"sk-of-the-routes-0123")
PERSON = (b"Accept", b"text/html,application/xhtml+xml;q=0.9,*/*;q=0.8")
PAGES = ["/", "/docs", "/openapi.json", "/dashboard/app.js", "/dashboard/style.css"]
ERRORS = [
    ("GET", "/nowhere", 404), ("GET", "/dashboard/x.js", 404), ("GET", "/v1", 404), ("GET", "/tasks/%2e%2e/x", 400),
    ("GET", "/tasks/status/unknown", 404), ("GET", "/tasks/status/a%20b", 400), ("GET", "/tasks/status?limit=0", 422),
    ("GET", "/tasks/x/cancel", 405), ("POST", "/tasks/unknown/cancel", 404), ("DELETE", "/", 405),
    ("POST", "/livez", 405), ("TRACE", "/readyz", 405), ("GET", "/api/tags", 404),
]  # fmt: skip


@pytest.fixture
async def gateway(gateways: Launch) -> Gateway:
    """A gateway with keys that has no task."""
    return await gateways(GATEWAY_API_KEYS=f"admin:{KEY[1].decode()}", GATEWAY_INSTANCE="own-routes")


async def described(gateway: Gateway) -> list[str]:
    """Every path that answers GET."""
    spec = (await gateway.ask("GET", "/openapi.json", KEY)).json()
    return PAGES + [path.replace("{task_id}", "some-id") for path, item in spec["paths"].items() if "get" in item]


async def test_head_is_get_without_a_body_on_every_route(gateway: Gateway) -> None:
    """HEAD has GET's status and fields, its Content-Length too, whether the answer is good or an error."""
    paths = await described(gateway)
    assert {"/livez", "/readyz", "/metrics", "/models/loaded", "/tasks/status"} < set(paths)
    for path in [*paths, *(target for method, target, _ in ERRORS if method == "GET")]:
        client = await gateway.connect()
        got, asked = await client.ask("GET", path, KEY), await client.ask("HEAD", path, KEY)
        moving = {b"date", b"content-length"} if path == "/metrics" else {b"date"}
        fields = [[field for field in one.head.lowered if field[0] not in moving] for one in (got, asked)]
        assert (asked.status, fields[1]) == (got.status, fields[0]), path
        assert got.head.all("content-length") == [b"%d" % got.body.size], path
        assert len(asked.head.all("content-length")) == 1, path
        assert (await client.ask("GET", "/livez")).status == 200, f"a body behind HEAD {path}"


async def test_a_405_allows_head_with_get(gateway: Gateway) -> None:
    """What Allow names works."""
    for target, allowed in (
        ("/livez", b"GET, HEAD"),
        ("/tasks/x/cancel", b"POST"),
        ("/", b"GET, HEAD, OPTIONS"),
        ("/tasks/x/response", b"DELETE, GET, HEAD"),
    ):
        answer = await gateway.ask("PUT", target, KEY)
        assert (answer.status, sorted(answer.head.all("allow")[0].split(b", "))) == (405, allowed.split(b", "))


async def test_haproxys_own_check_is_200(gateway: Gateway) -> None:
    """`OPTIONS / HTTP/1.0` without a Host is what HAProxy asks by default; no key is needed."""
    client = await gateway.connect()
    await client.send(b"OPTIONS / HTTP/1.0\r\n\r\n")
    answer = await client.answer()
    assert (answer.status, answer.data) == (200, b"")
    assert (await gateway.ask("OPTIONS", "/")).status == 200


async def test_every_answer_of_ours_is_for_our_own_pages(gateway: Gateway) -> None:
    """No browser guesses its type, no other site loads it, errors too; no cache keeps it but the page's files."""
    paths = await described(gateway)
    unkeyed: list[tuple[str, str, int, list[Field]]] = [
        ("GET", path, 401, []) for path in ("/docs", "/x", "/v1/models")
    ]
    foreign = [("GET", path, 403, [(b"Origin", b"https://evil.example")]) for path in ("/", "/livez", "/v1/models")]
    good = [("GET", path, 0, [KEY]) for path in paths]
    for method, target, status, fields in [*unkeyed, *foreign, *good, *((*error, [KEY]) for error in ERRORS)]:
        head = (await gateway.ask(method, target, *fields)).head
        assert status in (head.status, 0), target
        assert head.all("x-content-type-options") == [b"nosniff"], target
        assert head.all("cross-origin-resource-policy") == [b"same-origin"], target
        is_file = target in PAGES and target != "/openapi.json" and head.status == 200
        assert head.all("cache-control") == [b"no-cache" if is_file else b"no-store"], target


async def test_what_is_relayed_has_none_of_it(gateway: Gateway, upstream: Upstream) -> None:
    """Ollama's answers are Ollama's."""
    head = (await gateway.ask("GET", "/v1/models", KEY)).head
    for name in ("x-content-type-options", "cross-origin-resource-policy", "cache-control", "content-security-policy"):
        assert head.all(name) == []


@pytest.mark.parametrize("target", ["/docs", "/tasks/status", "/metrics", "/nowhere"])
async def test_a_person_without_a_key_is_told_in_words(gateway: Gateway, target: str) -> None:
    """A browser that opens an address is told what is missing and where to enter it; programs get JSON."""
    answer = await gateway.ask("GET", target, PERSON)
    assert (answer.status, answer.head.all("content-type")) == (401, [b"text/html; charset=utf-8"])
    assert b"a valid API key is needed" in answer.data
    assert b'<a href="/#api">' in answer.data
    assert answer.head.all("www-authenticate") == [b"Bearer"]
    for accept in ([], [(b"Accept", b"*/*")], [(b"Accept", b"application/json")]):
        assert (await gateway.ask("GET", target, *accept)).json()["error"]["code"] == "unauthorized"


async def test_under_v1_an_error_is_always_json(gateway: Gateway) -> None:
    """What OpenAI's clients read does not depend on Accept."""
    assert (await gateway.ask("GET", "/v1/models", PERSON)).json()["error"]["code"] == "unauthorized"
