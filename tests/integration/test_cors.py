"""Owns the promises about browsers: which pages may call, under which names, and what they may read.

Contract section 3.2; issue 4, part 3; docs/decisions/0004-browsers.md.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support.scripted import CHUNKED, EVENTS, Gated, answering, head, sending
from tests.support.waiting import within
from tests.support.wire import chunk

if TYPE_CHECKING:
    from tests.conftest import Launch
    from tests.support.gateway import Gateway
    from tests.support.scripted import Upstream
    from tests.support.store import Store
    from tests.support.wire import Field, Head, Response


CHAT = "/v1/chat/completions"
PAGE = b"http://localhost:3000"
ALLOWED = [PAGE, b"https://127.0.0.1", b"http://0.0.0.0:8080", b"app://obsidian.md", b"file://", b"tauri://localhost",
           b"vscode-webview://1abc", b"vscode-file://vscode-app"]  # fmt: skip
EVIL = [b"https://evil.example", b"null", b"http://localhost.evil.example", b"http://localhost:3000.evil.example",
        b"chrome-extension://abc", b"", b"*"]  # fmt: skip
ROUTES = ["/v1/models", CHAT, "/tasks/status", "/tasks/status/x", "/livez", "/readyz", "/openapi.json", "/nowhere",
          "/v1/../api/tags", "/v1"]  # fmt: skip
FIREFOX = (b"User-Agent", b"Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0")

CURL = (b"User-Agent", b"curl/8.5.0")
NODE = [(b"User-Agent", b"node"), (b"Accept-Language", b"*"), (b"Sec-Fetch-Mode", b"cors")]


def origin(value: bytes) -> Field:
    """The field that names the page's origin."""
    return (b"Origin", value)


def cors(answer: Head) -> dict[bytes, bytes]:
    """The CORS fields of an answer, each of which may be there once."""
    found = [pair for pair in answer.lowered if pair[0].startswith(b"access-control-")]
    assert len(dict(found)) == len(found)
    return dict(found)


def assert_refused(answer: Response, upstream: Upstream) -> None:
    """403 origin_not_allowed that no page may read, and nothing at the upstream."""
    assert answer.status == 403
    error = answer.json()["error"]
    assert (error["type"], error["code"]) == ("gateway_error", "origin_not_allowed")
    assert cors(answer.head) == {}
    assert answer.head.all("x-task-id") in ([], [b"evil"])  # none but what it sent itself
    assert upstream.exchanges == []


EXPOSED = b"X-Task-Id, X-Task-Joined, ETag, Location, Retry-After, Content-Range, Preference-Applied"
READABLE = {b"access-control-allow-origin": PAGE, b"access-control-expose-headers": EXPOSED}


# -- origins --


@pytest.mark.parametrize("value", ALLOWED)
async def test_ollamas_own_origins_may_call(tracked: Gateway, upstream: Upstream, value: bytes) -> None:
    """A page of this machine, or an app, gets the answer and may read it; Ollama is not told of its origin."""
    answer = await tracked.ask("POST", CHAT, origin(value), body=b"{}")
    assert answer.status == 200
    assert cors(answer.head) == READABLE | {b"access-control-allow-origin": value}
    assert answer.head.all("vary") == [b"Origin"]
    assert upstream.exchanges[0].head.all("origin") == []


@pytest.mark.parametrize("value", EVIL)
async def test_other_origins_reach_nothing(tracked: Gateway, upstream: Upstream, store: Store, value: bytes) -> None:
    """A disallowed origin is 403, and neither a task nor anything else comes of it."""
    assert_refused(await tracked.ask("POST", CHAT, origin(value), (b"X-Task-Id", b"evil"), body=b"{}"), upstream)
    assert await store.raw("evil") is None


@pytest.mark.parametrize("target", ROUTES)
@pytest.mark.parametrize("method", ["GET", "POST", "OPTIONS"])
async def test_other_origins_are_refused_everywhere(
    tracked: Gateway, upstream: Upstream, method: str, target: str
) -> None:
    """Every route is closed to a disallowed origin, and so are its preflights."""
    asking = (b"Access-Control-Request-Method", b"GET")
    assert_refused(await tracked.ask(method, target, origin(EVIL[0]), asking), upstream)


async def test_further_origins(gateways: Launch, upstream: Upstream) -> None:
    """CORS_ALLOW_ORIGINS adds origins to Ollama's own."""
    gateway = await gateways(CORS_ALLOW_ORIGINS="https://chat.example.com, https://*.apps.example.com")
    for value in (b"https://chat.example.com", b"https://one.apps.example.com", PAGE):
        answer = await gateway.ask("GET", CHAT, origin(value))
        assert (answer.status, cors(answer.head)[b"access-control-allow-origin"]) == (200, value)
    for value in (b"http://chat.example.com", b"https://apps.example.com", b"https://evil.example", b"null"):
        assert (await gateway.ask("GET", CHAT, origin(value))).status == 403


@pytest.mark.parametrize("value", [b"https://any.example", b"null", b"chrome-extension://abc"])
async def test_all_origins(gateways: Launch, upstream: Upstream, value: bytes) -> None:
    """CORS_ALLOW_ORIGINS=* lets every page call, under every name, and offers no credentials."""
    gateway = await gateways(CORS_ALLOW_ORIGINS="*")
    answer = await gateway.ask("GET", CHAT, origin(value))
    assert (answer.status, cors(answer.head)) == (200, READABLE | {b"access-control-allow-origin": value})
    assert (await gateway.ask("GET", CHAT, FIREFOX, host=b"any.example")).status == 200


# -- what a page may read --


async def test_without_an_origin_nothing_is_added(gateway: Gateway, upstream: Upstream) -> None:
    """An answer to no page has no CORS field, neither ours nor Ollama's, and its own Vary alone."""
    theirs: list[Field] = [(b"Vary", b"Accept"), (b"Access-Control-Allow-Origin", b"*")]
    upstream.then(answering(200, *theirs, body=b"{}"))
    answer = await gateway.ask("GET", CHAT)
    names = [name for name, _ in answer.head.lowered]
    assert sorted(names) == [b"content-length", b"date", b"vary", b"x-task-id"]
    assert answer.head.all("vary") == [b"Accept"]


async def test_cors_is_the_gateways_alone(gateway: Gateway, upstream: Upstream) -> None:
    """What the upstream says about CORS is replaced by what the gateway says."""
    theirs: list[Field] = [
        (b"Access-Control-Allow-Origin", b"https://evil.example"),
        (b"access-control-allow-credentials", b"true"),
        (b"Access-Control-Expose-Headers", b"*"),
        (b"Vary", b"Accept"),
    ]
    upstream.then(answering(200, *theirs, body=b"{}"))
    answer = await gateway.ask("GET", CHAT, origin(PAGE))
    assert cors(answer.head) == READABLE
    assert answer.head.all("vary") == [b"Accept", b"Origin"]


@pytest.mark.parametrize(
    ("method", "target", "status"),
    [("GET", "/livez", 200), ("GET", "/tasks/status", 200), ("GET", "/tasks/status/unknown", 404),
     ("GET", "/nowhere", 404), ("GET", "/v1/../x", 400), ("GET", "/v1", 404), ("TRACE", "/v1/x", 405)],
)  # fmt: skip
async def test_a_page_may_read_our_own_answers(
    tracked: Gateway, upstream: Upstream, method: str, target: str, status: int
) -> None:
    """Statuses and errors of the gateway's own are readable as well."""
    answer = await tracked.ask(method, target, origin(PAGE))
    assert (answer.status, cors(answer.head)) == (status, READABLE)


async def test_a_page_may_read_a_401(gateways: Launch, upstream: Upstream) -> None:
    """A page learns that a key is missing; its preflight needs none, for browsers cannot send one."""
    gateway = await gateways(GATEWAY_API_KEYS="some-good-key")
    asking = (b"Access-Control-Request-Method", b"POST")
    assert (await gateway.ask("OPTIONS", CHAT, origin(PAGE), asking)).status == 204
    refused = await gateway.ask("POST", CHAT, origin(PAGE), body=b"{}")
    assert (refused.status, cors(refused.head)) == (401, READABLE)
    answer = await gateway.ask("POST", CHAT, origin(PAGE), (b"Authorization", b"Bearer some-good-key"), body=b"{}")
    assert (answer.status, cors(answer.head)) == (200, READABLE)


async def test_an_upstreams_failure_is_readable(gateway: Gateway, upstream: Upstream) -> None:
    """A 502 of ours and a 500 of Ollama's reach the page."""
    upstream.then(sending(then="reset"), answering(500, body=b"no"))
    for status in (502, 500):
        answer = await gateway.ask("POST", CHAT, origin(PAGE), body=b"{}")
        assert (answer.status, cors(answer.head)) == (status, READABLE)


async def test_a_page_gets_its_stream_piece_by_piece(gateway: Gateway, upstream: Upstream) -> None:
    """With an Origin, too, each piece goes on when it comes, and a stream that breaks off is broken off."""
    gated = Gated(EVENTS)
    upstream.then(gated, sending(head(200, EVENTS, CHUNKED) + chunk(b"data: x\n\n"), then="reset"))
    client = await gateway.send("POST", CHAT, origin(PAGE), body=b"{}")
    gated.head()
    first = await within(30, client.head(), "the head")
    assert cors(first) == READABLE
    assert first.all("x-accel-buffering") == [b"no"]
    for piece in (b"data: one\n\n", b"data: two\n\n", b"data: [DONE]\n\n"):
        gated.piece(piece)
        assert piece in await within(30, client.up_to(b"\n\n\r\n"), "the piece")
    gated.end()
    await within(30, client.up_to(b"0\r\n\r\n"), "the end")
    broken = await client.ask("POST", CHAT, origin(PAGE), body=b"{}")
    assert not broken.body.complete


# -- preflights --


@pytest.mark.parametrize("target", ROUTES)
async def test_a_preflight_is_answered_here(tracked: Gateway, upstream: Upstream, store: Store, target: str) -> None:
    """Under every path: 204 with all that was asked for, no task, nothing at Ollama, and the connection goes on."""
    client = await tracked.connect()
    answer = await client.ask(
        "OPTIONS", target, origin(PAGE), (b"Access-Control-Request-Method", b"DELETE"), (b"X-Task-Id", b"preflight"),
        (b"Access-Control-Request-Headers", b"authorization,content-type,x-stainless-lang,x-task-id"),
    )  # fmt: skip
    assert (answer.status, answer.data) == (204, b"")
    assert cors(answer.head) == {
        b"access-control-allow-origin": PAGE,
        b"access-control-allow-methods": b"DELETE",
        b"access-control-allow-headers": b"authorization,content-type,x-stainless-lang,x-task-id",
        b"access-control-max-age": b"7200",
    }
    names = [name for name, _ in answer.head.lowered if not name.startswith(b"access-control-")]
    assert sorted(names) == [b"date", b"vary"]
    assert await store.raw("preflight") is None
    assert upstream.exchanges == []
    assert (await client.ask("GET", "/livez")).status == 200


async def test_another_options_is_relayed(gateway: Gateway, upstream: Upstream) -> None:
    """OPTIONS without the question of a preflight is a request like any other, and a task."""
    answer = await gateway.ask("OPTIONS", CHAT, origin(PAGE))
    assert (answer.status, cors(answer.head)) == (200, READABLE)
    assert upstream.exchanges[0].head.method == "OPTIONS"
    assert answer.head.task_id


# -- without an Origin --


def fetched(site: bytes, mode: bytes, destination: bytes) -> list[Field]:
    """What a browser says of a request that a page without an Origin in it made."""
    return [(b"Sec-Fetch-Site", site), (b"Sec-Fetch-Mode", mode), (b"Sec-Fetch-Dest", destination), FIREFOX]


@pytest.mark.parametrize("site", [b"cross-site", b"same-site"])
@pytest.mark.parametrize(
    ("mode", "destination"),
    [(b"no-cors", b"image"), (b"no-cors", b"script"), (b"no-cors", b"empty"), (b"navigate", b"iframe"),
     (b"navigate", b"document")],
)  # fmt: skip
async def test_another_sites_page_makes_no_task(
    tracked: Gateway, upstream: Upstream, store: Store, site: bytes, mode: bytes, destination: bytes
) -> None:
    """Images, scripts, no-cors fetches, frames and links of another site do not get to Ollama and become no task."""
    fields = [*fetched(site, mode, destination), (b"X-Task-Id", b"evil")]
    for target in ("/v1/models", CHAT, "/v1/x?y=/tasks/status/"):
        assert_refused(await tracked.ask("GET", target, *fields), upstream)
    assert await store.raw("evil") is None


@pytest.mark.parametrize("site", [b"cross-site", b"same-site"])
async def test_another_sites_link_shows_our_own_pages(tracked: Gateway, upstream: Upstream, site: bytes) -> None:
    """A link in a wiki opens the dashboard and a task's status; in a frame or an image they are refused."""
    for target, status in (("/", 200), ("/docs", 200), ("/tasks/status?limit=1", 200), ("/tasks/status/unknown", 404)):
        assert (await tracked.ask("GET", target, *fetched(site, b"navigate", b"document"))).status == status
        for mode, destination in ((b"navigate", b"iframe"), (b"no-cors", b"image"), (b"no-cors", b"empty")):
            assert_refused(await tracked.ask("GET", target, *fetched(site, mode, destination)), upstream)


@pytest.mark.parametrize("status", [200, 404])
async def test_an_answer_shown_as_a_page_is_sandboxed(gateway: Gateway, upstream: Upstream, status: int) -> None:
    """What Ollama answers to a navigation is sandboxed beside its own fields; nothing else is."""
    page = ((b"Content-Type", b"text/html"), (b"Content-Security-Policy", b"img-src 'none'"))
    for destination, added in ((b"document", [b"sandbox"]), (b"empty", []), (b"iframe", [])):
        upstream.then(answering(status, *page, body=b"<script>fetch('/tasks/status')</script>"))
        answer = await gateway.ask("GET", "/v1/page", *fetched(b"none", b"navigate", destination))
        assert answer.status == status
        assert answer.head.all("content-security-policy") == [page[1][1], *added]


# -- names --


@pytest.mark.parametrize("host", [b"evil.example", b"evil.example:11535", b"gateway:11535", b"localhost.evil.example"])
@pytest.mark.parametrize(
    "fields",
    [[FIREFOX], [(b"Sec-Fetch-Site", b"same-origin")], [CURL, (b"Accept-Language", b"de")], None],
    ids=["user-agent", "sec-fetch-site", "disguised", "origin"],
)
async def test_a_rebound_name_reaches_nothing(
    tracked: Gateway, upstream: Upstream, host: bytes, fields: list[Field] | None
) -> None:
    """A browser that uses a name which anybody's DNS could have led here is refused, with an Origin or without."""
    sent = [origin(b"http://" + host)] if fields is None else fields
    for target in (CHAT, "/tasks/status", "/livez"):
        assert_refused(await tracked.ask("GET", target, *sent, host=host), upstream)


@pytest.mark.parametrize(
    "host", [b"localhost:11535", b"192.168.1.7:11535", b"[::1]:11535", b"gpu.local", b"a.internal"]
)
async def test_a_page_of_a_trusted_name_may_call(tracked: Gateway, upstream: Upstream, host: bytes) -> None:
    """Same-origin calls work under addresses and the names that Ollama itself trusts."""
    answer = await tracked.ask("POST", CHAT, origin(b"http://" + host), FIREFOX, host=host, body=b"{}")
    assert answer.status == 200
    assert (await tracked.ask("GET", CHAT, FIREFOX, (b"Sec-Fetch-Site", b"same-origin"), host=host)).status == 200


async def test_further_names(gateways: Launch, upstream: Upstream) -> None:
    """ALLOWED_HOSTS adds names for browsers; a page of another origin still may not call."""
    gateway = await gateways(ALLOWED_HOSTS="gateway, *.example.com")
    for host in (b"gateway:11535", b"ollama.example.com"):
        assert (await gateway.ask("GET", CHAT, FIREFOX, host=host)).status == 200
        assert (await gateway.ask("GET", CHAT, origin(b"https://" + host), host=host)).status == 200
        assert (await gateway.ask("GET", CHAT, origin(b"https://evil.example"), host=host)).status == 403
    assert (await gateway.ask("GET", CHAT, FIREFOX, host=b"example.com")).status == 403


@pytest.mark.parametrize("host", [b"gateway:11535", b"ollama.example.com", b"evil.example"])
@pytest.mark.parametrize("fields", [[CURL], NODE, []], ids=["curl", "node", "none"])
async def test_programs_may_use_any_name(
    tracked: Gateway, upstream: Upstream, host: bytes, fields: list[Field]
) -> None:
    """A compose service's or any other name works for what is no browser."""
    assert (await tracked.ask("GET", CHAT, *fields, host=host)).status == 200
    assert (await tracked.ask("GET", "/tasks/status", *fields, host=host)).status == 200
