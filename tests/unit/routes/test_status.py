"""Owns which status requests are answered by plain calls: all of /openapi.json, where it is plainly valid."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import pytest
from fastapi import FastAPI
from hypothesis import given
from hypothesis import strategies as st

from gateway.http.head import parse_target
from gateway.http.request import Request
from gateway.routes import tasks
from gateway.routes.status import MOST_WAIT, StatusRoute, _list_wish, _wait_seconds, is_known, known_event
from gateway.store.interface import Page, Unclear, encode_cursor, place
from gateway.tasks.document import complete_document, found_in
from gateway.tasks.options import MAX_LABEL
from gateway.tasks.stages import Stage, State
from gateway.tracking.answers import StoreUnavailable
from tests.support.records import record
from tests.support.waiting import until

if TYPE_CHECKING:
    from collections.abc import Callable

    from gateway.http.head import Fields
    from gateway.http.wire import Wire
    from gateway.store.interface import Peeked, PeekedPage
    from gateway.tasks.document import Found
    from gateway.tracking.answers import Answers

CURSOR = encode_cursor(place(1000, "t"))


class Asked:
    """What is asked of the store and what the client gets; a test says what the answer is."""

    def __init__(self, found: Peeked = None, page: PeekedPage | None = None) -> None:
        self.found = found
        self.found_page: PeekedPage = ([], None) if page is None else page
        self.is_full = False
        self.calls: list[Any] = []
        self.sent = b""
        changes = SimpleNamespace(add=self.add, remove=self.remove)
        self.changes = changes
        answers: Any = SimpleNamespace(
            peek=self.peek, peek_page=self.peek_page, own_page=self.own_page, changes=changes
        )
        self.route = StatusRoute(cast("Answers", answers))

    def peek(self, task_id: str, then: Callable[[Peeked], None]) -> None:
        """Remembers the call, and answers."""
        self.calls.append(task_id)
        then(self.found)

    def peek_page(
        self, limit: int, state: State | None, cursor: str | None, reader: str | None, then: Any, *, label: str = ""
    ) -> None:
        """Remembers the call, and answers."""
        self.calls.append((limit, state, cursor, reader, label))
        then(self.found_page)

    def own_page(self, *wish: object) -> Page:
        """Remembers the call, and returns an empty page."""
        self.calls.append(wish)
        return Page([], None)

    def add(self, waiter: Any, found: Found, seconds: float) -> None:
        """A poller waits."""
        self.calls.append((waiter.task_id, waiter.seen, seconds))

    def remove(self, waiter: Any) -> None:
        """A poller has left."""
        self.calls.append("left")

    def take(self, data: bytes) -> None:
        """The client gets bytes."""
        self.sent += data

    def ask(self, target: str, *fields: tuple[bytes, bytes], method: str = "GET", owner: str = "") -> bool:
        """One request, of `owner` if API keys are on; whether the plain way takes it."""
        self.changes.is_full = self.is_full
        wire: Any = SimpleNamespace(is_writable=True, is_read_paused=False, send=self.take, finish=lambda _: None)
        named: Fields = [(b"host", b"h"), *fields]
        self.request = Request(cast("Wire", wire), method, target.encode(), named, is_http_10=False, is_keep_alive=True)
        self.request.owner, self.request.sees_all = owner, not owner
        return self.route.open(self.request, parse_target(target.encode()))

    @property
    def status(self) -> int:
        """The status of the answer; 0 while there is none."""
        return int(self.sent.split(b" ")[1]) if self.sent else 0


def a_task(stage: Stage = Stage.STREAMING, owner: str = "") -> Found:
    """A status."""
    return found_in(complete_document(record("t", stage, owner=owner).head, 1))


# -- the plain way and the description --


def described() -> dict[str, list[dict[str, Any]]]:
    """The parameters that /openapi.json has for the two routes."""
    app = FastAPI()
    app.include_router(tasks.router)
    paths = app.openapi()["paths"]
    return {path: paths[path]["get"]["parameters"] for path in ("/tasks/status", "/tasks/status/{task_id}")}


PLAIN: dict[str, list[str]] = {
    "limit": ["1", "9", "10", "50", "99", "100", "999", "1000"],
    "state": [*State],
    "label": ["a", "job:1@x", "a/b?c", "~!$'()*,;:@", "l" * MAX_LABEL],
    "cursor": [CURSOR],
    "scope": ["instance"],
    "wait": ["0", "1", "30", "60", "0.5", "60.0", "59.999999", "05"],
}
HEADERS = {"if-none-match": ['"a"', "*", 'W/"a", "b"']}


def test_every_parameter_that_is_described_is_known_here() -> None:
    """The lists above have each parameter of the two routes, so that a new one cannot be forgotten."""
    found = {(one["in"], one["name"]) for parameters in described().values() for one in parameters}
    expected = {("query", name) for name in PLAIN} | {("header", name) for name in HEADERS} | {("path", "task_id")}
    assert found == expected


@pytest.mark.parametrize("path", ["/tasks/status", "/tasks/status/{task_id}"])
def test_what_is_described_is_answered_by_plain_calls(path: str) -> None:
    """No parameter that is plainly valid needs the routes, alone or with each other one."""
    parameters = described()[path]
    queries = [one["name"] for one in parameters if one["in"] == "query"]
    headers = [one["name"] for one in parameters if one["in"] == "header"]
    fields = [(name.encode(), value.encode()) for name in headers for value in HEADERS[name]]
    target = path.replace("{task_id}", "t")
    alone = [f"{name}={value}" for name in queries for value in PLAIN[name]]
    pairs = [
        f"{one}&{other}"
        for one in alone
        for other in alone
        if one.split("=")[0] != other.split("=")[0] and {one.split("=")[0], other.split("=")[0]} != {"state", "label"}
    ]
    asked = Asked()
    given_fields: list[tuple[tuple[bytes, bytes], ...]] = [(), *((field,) for field in fields)]
    for query in ["", *alone, *pairs]:
        for sent in given_fields:
            for method in ("GET", "HEAD"):
                full = f"{target}?{query}" if query else target
                assert asked.ask(full, *sent, method=method), full
    assert len(asked.calls) == len(given_fields) * 2 * (1 + len(alone) + len(pairs))


# -- what is read of a request --


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("", (50, None, None, None, "")),
        ("limit=7", (7, None, None, None, "")),
        ("state=SUCCESS", (50, State.SUCCESS, None, None, "")),
        ("label=job:1", (50, None, None, None, "job:1")),
        (f"cursor={CURSOR}", (50, None, CURSOR, None, "")),
        (f"cursor={CURSOR}&label=a&limit=1000", (1000, None, CURSOR, None, "a")),
        ("scope=instance&limit=7&state=RUNNING", (7, State.RUNNING, None, None, "")),
    ],
)
def test_a_list_is_asked_for(query: str, expected: object) -> None:
    """What the parameters say, or their defaults."""
    asked = Asked()
    assert asked.ask("/tasks/status?" + query if query else "/tasks/status")
    assert asked.calls == [expected]


@pytest.mark.parametrize(
    "target",
    [
        "/tasks/status?limit=0", "/tasks/status?limit=1001", "/tasks/status?limit=01", "/tasks/status?limit=",
        "/tasks/status?limit", "/tasks/status?limit=%35", "/tasks/status?limit=5&limit=5", "/tasks/status?x=1",
        "/tasks/status?limit=5&x", "/tasks/status?state=success", "/tasks/status?state=SUCCESSES",
        "/tasks/status?state=", "/tasks/status?label=", "/tasks/status?label=a+b", "/tasks/status?label=%61",
        "/tasks/status?label=" + "l" * (MAX_LABEL + 1), "/tasks/status?label=a&state=SUCCESS",
        "/tasks/status?cursor=", "/tasks/status?cursor=a=b", "/tasks/status?cursor=bad",
        "/tasks/status?cursor=" + "A" * 513, "/tasks/status?scope=", "/tasks/status?scope=store",
        "/tasks/status/t?wait=", "/tasks/status/t?wait=61", "/tasks/status/t?wait=60.000001",
        "/tasks/status/t?wait=-1", "/tasks/status/t?wait=+1", "/tasks/status/t?wait=1e1", "/tasks/status/t?wait=nan",
        "/tasks/status/t?wait=1&wait=1", "/tasks/status/t?wait=1&", "/tasks/status/t?x=1", "/tasks/status/t?wait=.5",
        "/tasks/status/t?wait=1.", "/tasks/status/t?wait=100",
        "/tasks/status/-t", "/tasks/status/%74", "/tasks/status/t/", "/tasks/status/", "/tasks/status/" + "t" * 129,
        "/tasks/statust", "/tasks/t", "/tasks", "/livez", "//tasks/status", "/tasks/t/response",
    ],
)  # fmt: skip
def test_what_is_unusual_is_left_to_the_routes(target: str) -> None:
    """Nothing is asked of the store, and nothing is sent: the routes have the whole request."""
    asked = Asked(a_task())
    assert not asked.ask(target)
    assert (asked.calls, asked.sent) == ([], b"")


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "get"])
def test_another_method_is_left_to_the_routes(method: str) -> None:
    """They say 405."""
    asked = Asked(a_task())
    assert not asked.ask("/tasks/status/t", method=method)
    assert not asked.ask("/tasks/status", method=method)
    assert asked.calls == []


def test_two_fields_with_tags_are_left_to_the_routes() -> None:
    """FastAPI takes one of them, and so it stays."""
    fields = [(b"if-none-match", b'"a"'), (b"if-none-match", b'"b"')]
    assert not Asked(a_task()).ask("/tasks/status/t", *fields)
    assert not Asked(a_task()).ask("/tasks/status", *fields)


def test_long_queries_are_not_remembered() -> None:
    """Clients cannot fill the memory with them; the longest plain query is remembered."""
    _list_wish.cache_clear()
    asked = Asked()
    longest = encode_cursor(place(1000, "t" * 128))
    assert asked.ask(f"/tasks/status?limit=1000&label={'l' * MAX_LABEL}&cursor={longest}")
    assert not asked.ask("/tasks/status?cursor=" + "A" * 60_000)
    assert _list_wish.cache_info().currsize == 1


@given(st.text(st.sampled_from("limtsaeborcuw=&%+19.- A"), max_size=40))
def test_any_query_is_taken_or_left(query: str) -> None:
    """No text makes the parsing fail, and what is taken is within the bounds."""
    encoded = query.encode()
    wish, seconds = _list_wish(encoded), _wait_seconds(encoded)
    assert wish is None or (1 <= wish.limit <= 1000 and len(wish.label) <= MAX_LABEL)
    assert seconds is None or 0 <= seconds <= MOST_WAIT


@pytest.mark.parametrize(
    ("field", "known", "event"),
    [
        (None, "", None),
        (b"", "", None),
        (b'"a"', "a", "a"),
        (b'W/"a"', "a", "a"),
        (b"a", "a", "a"),
        (b'"a", W/"b",c', "abc", None),
        (b" , ,", "", None),
        (b'""', "", ""),
        (b"*", "abc", "*"),
        (b'"\xff"', "", "\xff"),
    ],
)
def test_the_tags_of_a_client(field: bytes | None, known: str, event: str | None) -> None:
    """In any of the forms of RFC 9110; weak ones compare as strong ones. One tag alone is an event to wait from."""
    assert "".join(tag for tag in "abc" if is_known(tag, field)) == known
    assert known_event(field) == event


# -- what is answered --


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        ([], 200),
        ([(b"if-none-match", b"*")], 304),
        ([(b"if-none-match", b'"other"')], 200),
    ],
)
def test_a_status_is_answered(fields: list[tuple[bytes, bytes]], status: int) -> None:
    """200 with the stored bytes, or 304 without a body and a length."""
    found = a_task()
    asked = Asked(found)
    assert asked.ask("/tasks/status/t", *fields)
    assert asked.status == status
    assert asked.sent.endswith(found[0]) == (status == 200)
    assert (b"content-length" in asked.sent) == (status == 200)
    assert b'etag: "%b"' % found[1].event_id.encode() in asked.sent


def test_another_keys_task_is_not_there() -> None:
    """It is 404 at once also where the client would wait, as a task that never was."""
    for found in (a_task(owner="alice"), None):
        for target in ("/tasks/status/t", "/tasks/status/t?wait=30"):
            asked = Asked(found)
            assert asked.ask(target, owner="bob")
            assert (asked.status, asked.calls) == (404, ["t"])


@pytest.mark.parametrize(
    ("known", "is_waited_for"),
    [
        ("", True),
        ('"{}"', True),
        ('W/"{}"', True),
        ('"older"', False),
        ('"{}", "older"', True),
        ("*", False),
        ('""', False),
    ],
)
def test_a_poller_waits_for_another_event(known: str, is_waited_for: bool) -> None:
    """Than the one that it names; without one, or with several, than the present one."""
    found = a_task()
    asked = Asked(found)
    assert asked.ask("/tasks/status/t?wait=30", (b"if-none-match", known.format(found[1].event_id).encode()))
    assert asked.calls == ["t", *([("t", found[1].event_id, 30.0)] * is_waited_for)]
    assert (asked.status == 0) == is_waited_for


def test_nobody_waits_for_an_end_that_has_come_or_where_too_many_wait() -> None:
    """An ended task is answered at once, and every task while half of the connections wait."""
    ended, full = Asked(a_task(Stage.DONE)), Asked(a_task())
    full.is_full = True
    for asked in (ended, full):
        assert asked.ask("/tasks/status/t?wait=30")
        assert (asked.status, asked.calls) == (200, ["t"])


def test_a_poller_that_leaves_is_forgotten_and_gets_nothing() -> None:
    """Whatever is found for it later is dropped."""
    found = a_task()
    asked = Asked(found)
    asked.ask("/tasks/status/t?wait=30")
    poll: Any = asked.request.answerer
    asked.request.lose()
    assert asked.calls[-1] == "left"
    poll.on_change(found)
    poll.on_time()
    poll._on_status(Unclear("away"))
    assert asked.sent == b""


async def test_a_page_that_is_unclear_is_asked_for_in_general() -> None:
    """By the tracker's `page`, with the same wish; what that leaves out is told."""
    found = a_task()
    asked, asks = Asked(page=Unclear("a malformed record")), list[tuple[object, ...]]()

    async def page(*arguments: object) -> Page:
        asks.append(arguments)
        return Page([found[0].decode()], CURSOR, 3)

    cast("Any", asked.route._answers).page = page
    assert asked.ask(f"/tasks/status?limit=5&label=a&cursor={CURSOR}", owner="alice")
    await until(lambda: asked.status)
    assert (asked.status, asks) == (200, [(5, None, CURSOR, "alice", "a")])
    assert asked.sent.endswith(b',"next_cursor":"%b","skipped":3}' % CURSOR.encode())


@pytest.mark.parametrize("target", ["/tasks/status", "/tasks/status/t", "/tasks/status/t?wait=5"])
async def test_a_store_that_is_away_is_503(target: str) -> None:
    """With the time after which to ask again."""

    async def away(*_: object) -> None:
        raise StoreUnavailable("no answer in time")

    asked = Asked(Unclear("away"), Unclear("away"))
    answers = cast("Any", asked.route._answers)
    answers.read = answers.wait = answers.page = away
    assert asked.ask(target)
    await until(lambda: asked.status)
    assert asked.status == 503
    assert b"retry-after: 2\r\n" in asked.sent
    assert asked.sent.endswith(b'{"detail":"the status store is away: no answer in time"}')


async def test_a_status_that_is_unclear_is_asked_for_in_general() -> None:
    """By the tracker's `read`, or its `wait` with what the client knows."""
    found = a_task()
    asked, reads = Asked(Unclear("silent")), list[tuple[object, ...]]()

    async def read(*arguments: object) -> str:
        reads.append(arguments)
        return found[0].decode()

    answers = cast("Any", asked.route._answers)
    answers.read = answers.wait = read
    for target, fields, expected in [
        ("/tasks/status/t", [], ("t", None)),
        ("/tasks/status/t?wait=5", [], ("t", None, 5.0, None)),
        ("/tasks/status/t?wait=5", [(b"if-none-match", b'"a"')], ("t", "a", 5.0, None)),
    ]:
        asked.sent = b""
        assert asked.ask(target, *fields)
        await until(lambda: asked.status)
        assert (asked.status, reads.pop()) == (200, expected)
