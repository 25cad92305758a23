"""`GET /tasks/status/{task_id}` and `GET /tasks/status` by plain calls: thousands of pollers may ask them all the time.

Through FastAPI and redis-py a status costs four times the CPU of a relayed request. The routes in tasks.py describe
these two in /openapi.json. They also answer unusual requests: another method or parameter, an encoded or invalid one.
"""

import hashlib
import re
from collections.abc import Iterable, Sequence
from functools import lru_cache
from http import HTTPStatus
from typing import NamedTuple

import orjson

from gateway.http.background import Background
from gateway.http.head import Target
from gateway.http.request import Request, own_fields
from gateway.store.interface import Page, Peeked, PeekedPage, Unclear, is_cursor
from gateway.tasks.document import Found, Summary, found_in
from gateway.tasks.options import LABEL_PATTERN, MAX_LABEL
from gateway.tasks.stages import State
from gateway.tasks.task import ID_PATTERN
from gateway.tracking.answers import Answers, ListIncomplete, PartlyCancelled, StoreUnavailable

MOST_WAIT = 60
RETRY_AFTER_SECONDS = 2
_PATH = re.compile(rf"/tasks/status(?:/({ID_PATTERN}))?".encode())
_WAIT = re.compile(rb"wait=([0-9]{1,2}(?:\.[0-9]{1,6})?)")
PLAIN_LABEL = rf"(?=[^%+&]{{1,{MAX_LABEL}}}$){LABEL_PATTERN.strip('^$')}"  # one that a query has as it is, not encoded
OWN_SCOPE = "instance"  # the scope of a list that has only this gateway's own tasks
_LIST_PARAMETERS = {
    "limit": re.compile(r"[1-9][0-9]{0,2}|1000"),
    "state": re.compile("|".join(State)),
    "label": re.compile(PLAIN_LABEL),
    "cursor": re.compile(r"[0-9A-Za-z_-]{1,512}"),
    "scope": re.compile(OWN_SCOPE),
}
_LONGEST_QUERY = 1024  # bytes of one that is remembered; a plain one is shorter
_FIELDS = own_fields([])
_JSON_FIELDS = own_fields([(b"content-type", b"application/json")])


class StatusRoute:
    """Answers pollers with what `answers` says."""

    def __init__(self, answers: Answers) -> None:
        self._answers = answers

    def open(self, request: Request, target: Target) -> bool:
        """Answers one request; false if it is another route's, or an unusual one."""
        path = _PATH.fullmatch(target.path)
        if path is None or request.method not in ("GET", "HEAD") or len(request.values(b"if-none-match")) > 1:
            return False
        if path[1] is None:
            query = target.query or b""
            wish = _list_wish(query) if len(query) <= _LONGEST_QUERY else None
            if wish is not None:
                _ListPoll(self._answers, request, wish).begin()
            return wish is not None
        seconds = _wait_seconds(target.query or b"")
        if seconds is not None:
            _StatusPoll(self._answers, request, path[1].decode(), seconds).begin()
        return seconds is not None


class _ListWish(NamedTuple):
    """What the query of a list asks for."""

    limit: int
    state: State | None
    label: str
    cursor: str | None
    is_own: bool  # only tasks of this gateway


@lru_cache(maxsize=256)
def _list_wish(query: bytes) -> _ListWish | None:
    """None for an unusual query. Cached, because nearly all requests have the same few queries."""
    pairs = [pair.split("=", 1) for pair in query.decode("latin-1").split("&") if pair]
    given = {pair[0]: pair[1] for pair in pairs if len(pair) == 2}
    if len(given) < len(pairs) or (given.get("state") and given.get("label")):
        return None
    for name, value in given.items():
        if name not in _LIST_PARAMETERS or _LIST_PARAMETERS[name].fullmatch(value) is None:
            return None
    state, cursor = State(given["state"]) if "state" in given else None, given.get("cursor")
    if cursor is not None and not is_cursor(cursor):
        return None
    return _ListWish(int(given.get("limit", 50)), state, given.get("label", ""), cursor, "scope" in given)


def _wait_seconds(query: bytes) -> float | None:
    """How long a poller wants to wait; None for an unusual query."""
    if not query:
        return 0.0
    wait = _WAIT.fullmatch(query)
    return None if wait is None or float(wait[1]) > MOST_WAIT else float(wait[1])


class _Poll:
    """One request while it is answered (`Answerer`): by plain calls, or by a coroutine if their result is Unclear."""

    __slots__ = ("_answers", "_request")

    def __init__(self, answers: Answers, request: Request) -> None:
        self._answers = answers
        self._request = request

    def on_request(self) -> None:
        """Nothing: the body is not read."""

    def on_writable(self) -> None:
        """Nothing: the answer is sent in one piece."""

    def on_left(self) -> None:
        """Nothing: `_has_client` is false from now on."""

    @property
    def _has_client(self) -> bool:
        return self._request.answerer is self

    def _answer_by_coroutine(self) -> None:
        """Asks again, in the way that can also change the store and wait for it."""
        Background(self._request).begin(self._answer_or_say_why_not())

    async def _answer_or_say_why_not(self) -> None:
        try:
            await self._ask()
        except StoreUnavailable as error:
            fields = [*_JSON_FIELDS, (b"retry-after", b"%d" % RETRY_AFTER_SECONDS)]
            self._request.answer(HTTPStatus.SERVICE_UNAVAILABLE, fields, _problem(store_is_away(error)))

    async def _ask(self) -> None:
        """Asks, and answers the request. Raises StoreUnavailable."""
        raise NotImplementedError

    def _send(self, body: bytes, tag: str) -> None:
        """Sends JSON with its ETag; 304 without a body if the client has that tag already."""
        field = (b"etag", b'"%b"' % tag.encode())
        if is_known(tag, self._request.by_name.get(b"if-none-match")):
            self._request.answer(HTTPStatus.NOT_MODIFIED, [*_FIELDS, field])
        else:
            self._request.answer(HTTPStatus.OK, [*_JSON_FIELDS, field], body)


class _StatusPoll(_Poll):
    """Asks for one status. With `seconds` it waits for another event than the one known (`Waiter`)."""

    __slots__ = ("_known", "_seconds", "seen", "task_id")

    def __init__(self, answers: Answers, request: Request, task_id: str, seconds: float) -> None:
        super().__init__(answers, request)
        self._seconds = seconds
        self.task_id = task_id
        self._known = known_event(request.by_name.get(b"if-none-match")) if seconds else None
        self.seen = ""  # the event at which it begins to wait

    def begin(self) -> None:
        self._request.answered_by(self)
        self._answers.peek(self.task_id, self._on_status)

    def _on_status(self, peeked: Peeked) -> None:
        if not self._has_client:
            return
        if isinstance(peeked, Unclear):
            self._answer_by_coroutine()
            return
        found = self._visible(peeked)
        if found is not None and self._seconds and self._has_to_wait(found[1]):
            self.seen = found[1].event_id
            self._answers.changes.add(self, found, self._seconds)
        else:
            self._answer(found)

    def _visible(self, found: Found | None) -> Found | None:
        """None for a task that the client may not see."""
        is_visible = found is not None and (self._request.sees_all or found[1].owner == self._request.owner)
        return found if is_visible else None

    def _has_to_wait(self, status: Summary) -> bool:
        is_news = self._known not in (None, status.event_id)
        return not (is_news or status.has_ended or self._answers.changes.is_full)

    def _answer(self, found: Found | None) -> None:
        if found is None:
            text = not_found(self.task_id)
            self._request.answer(HTTPStatus.NOT_FOUND, _JSON_FIELDS, _problem(text))
        else:
            self._send(found[0], found[1].event_id)

    async def _ask(self) -> None:
        reader = self._request.reader
        if self._seconds and not self._answers.changes.is_full:
            document = await self._answers.wait(self.task_id, self._known, self._seconds, reader)
        else:
            document = await self._answers.read(self.task_id, reader)
        self._answer(None if document is None else found_in(document))

    # -- while it waits --

    def on_left(self) -> None:
        self._answers.changes.remove(self)

    def on_change(self, found: Found | None) -> None:
        """The task has another event."""
        if self._has_client:
            self._answer(self._visible(found))

    def on_time(self) -> None:
        """The time is over: the present status is the answer."""
        if self._has_client:
            self._seconds = 0
            self.begin()


class _ListPoll(_Poll):
    """Asks for one page."""

    __slots__ = ("_wish",)

    def __init__(self, answers: Answers, request: Request, wish: _ListWish) -> None:
        super().__init__(answers, request)
        self._wish = wish

    def begin(self) -> None:
        limit, state, label, cursor, is_own = self._wish
        reader = self._request.reader
        self._request.answered_by(self)
        if is_own:
            self._send_documents(self._answers.own_page(limit, state, cursor, reader, label))
        else:
            self._answers.peek_page(limit, state, cursor, reader, self._on_page, label=label)

    def _on_page(self, page: PeekedPage) -> None:
        if not self._has_client:
            return
        if isinstance(page, Unclear):
            self._answer_by_coroutine()
        else:
            self._send_page(*page)

    async def _ask(self) -> None:
        limit, state, label, cursor, _ = self._wish
        self._send_documents(await self._answers.page(limit, state, cursor, self._request.reader, label))

    def _send_documents(self, page: Page) -> None:
        self._send_page(list(map(found_in, page.documents)), page.next_cursor, page.skipped)

    def _send_page(self, found: list[Found], cursor: str | None, skipped: int = 0) -> None:
        self._send(page_body(found, cursor, skipped), page_tag(found, cursor, skipped))


# -- what tasks.py and cancel.py share with these routes --


def is_known(tag: str, if_none_match: bytes | None) -> bool:
    """Whether the client has what this ETag names already."""
    known = _etags(if_none_match)
    return tag in known or "*" in known


def known_event(if_none_match: bytes | None) -> str | None:
    """The event that a poller knows; None if it names none, or more than one. `""` names an event that no task has."""
    known = _etags(if_none_match)
    return known[0] if len(known) == 1 else None


def _etags(if_none_match: bytes | None) -> Sequence[str]:
    """The tags in an If-None-Match field (RFC 9110 section 13.1.2). Weak tags compare as strong ones."""
    if not if_none_match:
        return ()
    tags = if_none_match.decode("latin-1").split(",")
    return [tag.strip().removeprefix("W/").strip('"') for tag in tags if tag.strip()]


def page_body(found: Iterable[Found], cursor: str | None, skipped: int = 0) -> bytes:
    """A page of documents, newest first; `cursor` names the next page."""
    documents = [document for document, _ in found]
    next_cursor = b"null" if cursor is None else b'"%b"' % cursor.encode()
    more = b',"skipped":%d' % skipped if skipped else b""
    items = b",".join(documents)
    return b'{"items":[%b],"count":%d,"next_cursor":%b%b}' % (items, len(documents), next_cursor, more)


def page_tag(found: Sequence[Found], cursor: str | None, skipped: int = 0) -> str:
    """A page's ETag, made of the digests of its documents."""
    digest = hashlib.blake2b(b"".join([summary.digest for _, summary in found]), digest_size=12)
    digest.update(f"{cursor} {skipped}".encode())
    return digest.hexdigest()


def not_found(task_id: str) -> str:
    """Why there is no status of that id."""
    return f"no task {task_id!r}; it never was, or its status has expired"


def store_is_away(error: StoreUnavailable) -> str:
    """Why there is no answer now."""
    return str(error) if isinstance(error, ListIncomplete | PartlyCancelled) else f"the status store is away: {error}"


def _problem(text: str) -> bytes:
    """An error as FastAPI's routes have it."""
    return orjson.dumps({"detail": text})
