"""Owns what all plain routes have in common: methods, errors, answers without a body, slow clients, lost clients."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import pytest

from gateway.app import create_app
from gateway.errors import Forbidden
from gateway.http.head import parse_target
from gateway.http.request import Request
from gateway.metrics.counts import Counts
from gateway.routes import dashboard
from gateway.routes.plain import Answer, Handler, PlainRoutes, Route, as_json
from gateway.settings import load
from tests.support.waiting import GUARD_SECONDS, next_turn, until

if TYPE_CHECKING:
    from gateway.http.wire import Wire


class Client:
    """The connection of one request; keeps what it is sent."""

    def __init__(self, method: str = "GET", target: bytes = b"/here") -> None:
        self.sent = b""
        self.wire: Any = SimpleNamespace(
            is_writable=True, is_read_paused=False, send=self._take, finish=lambda _: None, break_off=lambda **_: None
        )
        wire = cast("Wire", self.wire)
        self.request = Request(wire, method, target, [(b"host", b"h")], is_http_10=False, is_keep_alive=True)
        self.request.is_whole = True

    def _take(self, piece: bytes) -> None:
        self.sent += piece

    @property
    def status(self) -> int:
        """The status that came."""
        return int(self.sent.split()[1])

    @property
    def body(self) -> bytes:
        """The body that came."""
        return self.sent.partition(b"\r\n\r\n")[2]


def opened(client: Client, handler: Handler, counts: Counts | None = None) -> bool:
    """Gives the request to a table with one route; whether that took it."""
    routes = PlainRoutes({b"/here": Route(handler)}, lambda *_: None, counts or Counts())
    return routes.open(client.request, parse_target(client.request.target))


async def answered(client: Client) -> Client:
    """The client, once it has an answer."""
    await until(lambda: bool(client.sent), GUARD_SECONDS, "the answer has come")
    return client


async def hello(_: Request) -> Answer:
    """A route."""
    return as_json({"hello": 1})


@pytest.mark.parametrize("target", [b"/here", b"/%68ere?x=1"])
async def test_a_path_is_compared_decoded(target: bytes) -> None:
    """A path may be percent-encoded, and have a query."""
    client = Client(target=target)
    assert opened(client, hello)
    assert (await answered(client)).body == b'{"hello":1}'


@pytest.mark.parametrize("target", [b"/openapi.json", b"/tasks/x/cancel", b"/%74asks/status"])
async def test_the_application_gets_its_paths(target: bytes) -> None:
    """Where the ASGI application has routes, a request without a plain route is left to it, untouched."""
    client = Client(target=target)
    assert not opened(client, hello)
    assert client.request.answerer is None
    assert client.sent == b""


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize("target", [b"/here/", b"/favicon.ico", b"/api/tags", b"/tasks"])
async def test_elsewhere_there_is_nothing(method: str, target: bytes) -> None:
    """A path that no route has is 404 by any method; the ASGI application is not loaded to find that out."""
    client = Client(method, target)
    assert opened(client, hello)
    assert (await answered(client)).status == 404
    assert json.loads(client.body) == {"detail": "Not Found"}


async def test_another_method_is_405() -> None:
    """405 names the methods that work."""
    client = Client("PUT")
    assert opened(client, hello)
    assert (await answered(client)).status == 405
    assert b"allow: GET, HEAD\r\n" in client.sent
    assert json.loads(client.body) == {"detail": "Method Not Allowed"}


async def test_head_has_no_body() -> None:
    """HEAD is answered as GET is, with the length of that body."""
    client = Client("HEAD")
    assert opened(client, hello)
    assert (await answered(client)).body == b""
    assert b"content-length: 11\r\n" in client.sent


async def test_not_modified_has_no_length() -> None:
    """A 304 has neither a body nor a length (RFC 9110 section 15.4.5)."""

    async def known(_: Request) -> Answer:
        return Answer(304, [(b"etag", b'"x"')], b"not sent")

    client = Client()
    assert opened(client, known)
    assert (await answered(client)).body == b""
    assert b"content-length" not in client.sent


async def test_a_refusal_is_counted() -> None:
    """An error of the gateway's own has its status and a detail, and shows in the metrics."""

    async def refuse(_: Request) -> Answer:
        raise Forbidden("not you")

    client, counts = Client(), Counts()
    before = sum(counts.row)
    assert opened(client, refuse, counts)
    assert (await answered(client)).status == 403
    assert json.loads(client.body)["detail"] == "not you"
    assert sum(counts.row) == before + 1


async def test_a_bug_is_500(caplog: pytest.LogCaptureFixture) -> None:
    """An unexpected error is logged, and the client learns nothing of it."""

    async def fail(_: Request) -> Answer:
        raise ZeroDivisionError("secret")

    client = Client()
    assert opened(client, fail)
    assert (await answered(client)).status == 500
    assert b"secret" not in client.sent
    assert "a route failed inside the gateway" in caplog.text


async def test_a_client_that_does_not_read_gets_no_more() -> None:
    """The answer waits until the client takes what it has; a client that leaves meanwhile gets none."""
    for has_left in (False, True):
        client = Client()
        client.wire.is_writable = False
        assert opened(client, hello)
        for _ in range(5):
            await next_turn()
        assert client.sent == b""
        answerer = client.request.answerer
        assert answerer is not None
        if has_left:
            answerer.on_left()
            for _ in range(5):
                await next_turn()
            assert client.sent == b""
        else:
            client.wire.is_writable = True
            answerer.on_writable()
            assert (await answered(client)).status == 200


def test_every_plain_route_is_described() -> None:
    """/openapi.json has each path of the table, with its methods; only the page and its files are not in it."""
    gateway = create_app(load({}))
    described = gateway.routes.build().openapi()["paths"]
    plain = {path.decode(): route for path, route in gateway._plain._routes.items() if path not in dashboard.ROUTES}
    assert set(plain) == {"/livez", "/readyz", "/metrics", "/nodes", "/models/loaded"}
    for path, route in plain.items():
        assert {method.upper() for method in described[path]} == set(route.methods)
    assert {"/tasks/{task_id}/cancel", "/tasks/cancel"} < set(described)
    for path in set(described) - set(plain):
        assert path.startswith("/tasks/"), "the plain routes would answer 404"
