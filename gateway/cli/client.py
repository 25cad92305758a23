"""Asks a gateway for tasks over HTTP, for the terminal's commands. The only module that knows httpx.

All failures are one of two errors, with texts for people. The client follows no redirect and uses no proxy, so the key
goes only to the named gateway.
"""

import ssl
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import TracebackType
from typing import Any, NamedTuple, Self
from urllib.parse import quote

import httpx

from gateway.tasks.document import is_document, is_presumed
from gateway.tasks.stages import State

Document = dict[str, Any]


class Page(NamedTuple):
    """A list: the gateway's answer, the tasks in it, and how many malformed records are left out."""

    content: Document
    tasks: list[Document]
    left_out: int


class Nodes(NamedTuple):
    """The gateways that share a store: the gateway's answer, and the gateways in it."""

    content: Document
    nodes: list[Document]


class KeptAnswer(NamedTuple):
    """A kept answer from an offset on. `pieces` raises Broken; it ends where the answer ends."""

    generation: str
    pieces: Iterator[bytes]


_TIMEOUT_SECONDS = 10.0
_ENDED = (State.SUCCESS, State.FAILED)
_NOT_KEPT = frozenset({"response_not_kept", "response_gone"})
_SHORT = frozenset({502, 503, 504})  # also what a balancer answers while a gateway restarts


class Away(Exception):
    """The gateway does not answer, or refuses. `code` is the error's stable name, "" without one.

    `is_short`: the same request may succeed soon.
    """

    def __init__(self, text: str, code: str = "", *, is_short: bool = False) -> None:
        super().__init__(text)
        self.code = code
        self.is_short = is_short


class UnknownTask(Exception):
    """The gateway has no such task."""


class NotKept(Exception):
    """The answer of the task is not kept, or is no longer."""


class Broken(Exception):
    """The connection broke inside a kept answer. `is_silent`: nothing came for a while, so the command closed it."""

    def __init__(self, text: str, *, is_silent: bool = False) -> None:
        super().__init__(text)
        self.is_silent = is_silent


class Client:
    """One gateway. Raises ValueError or httpx.InvalidURL if `url` or `key` is malformed."""

    def __init__(self, url: str, key: str | None) -> None:
        parts = httpx.URL(url)
        if parts.scheme not in ("http", "https") or not parts.host:
            raise ValueError(f"{url!r}; allowed: http://host[:port] or https://host[:port]")
        self._name = f"{parts.scheme}://{parts.netloc.decode()}"  # netloc has no user and password
        self._http = httpx.Client(
            base_url=parts,
            headers={"Authorization": f"Bearer {key}"} if key else {},
            timeout=_TIMEOUT_SECONDS,
            verify=ssl.create_default_context(),  # this machine's certificates
            trust_env=False,
        )
        self._page_etag = ""
        self._page = Page({}, [], 0)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._http.close()

    def page_of(self, task_id: str) -> str:
        """The address of a task on the dashboard."""
        return f"{self._name}/#/tasks/{quote(task_id, safe='')}"

    def page(self, limit: int, only: Mapping[str, str]) -> Page:
        """The newest tasks. `only` is the list's filter: a `state` or a `label`.

        If the page has not changed since the last call, the gateway sends only its ETag.
        """
        query = {"limit": str(limit), **only}
        answer = self._ask("GET", "/tasks/status", query, self._page_etag)
        if answer.status_code != 304:
            self._page_etag, self._page = answer.headers.get("etag", ""), _page(self._json(answer, "items"))
        return self._page

    def document(self, task_id: str, wait_seconds: float = 0) -> Document:
        """A task's status: after `wait_seconds`, or when there is another event. Raises UnknownTask and Away."""
        return self._task(self._ask_status(task_id, wait_seconds))

    def news(self, task_id: str, wait_seconds: float, known: str) -> Document | None:
        """A task's status. None if it still is the event `known` after `wait_seconds`. Raises UnknownTask and Away."""
        answer = self._ask_status(task_id, wait_seconds, f'"{known}"')
        return None if answer.status_code == 304 else self._task(answer)

    def _ask_status(self, task_id: str, wait_seconds: float, etag: str = "") -> httpx.Response:
        query = {"wait": f"{wait_seconds:.3f}"} if wait_seconds else {}
        return self._ask("GET", f"/tasks/status/{task_id}", query, etag, wait_seconds)

    def nodes(self) -> Nodes:
        """The gateways that share the store. Raises Away, also if the key may not see them."""
        content = self._json(self._ask("GET", "/nodes", {}), "items")
        items = content["items"] if isinstance(content["items"], list) else [content["items"]]
        if not all(isinstance(item, dict) and isinstance(item.get("instance"), str) for item in items):
            raise Away(f"{self._name} answers gateways that are none: {str(items)[:80]!r}")
        return Nodes(content, items)

    def cancel(self, task_id: str) -> Document:
        """Cancels a task. Returns its status then, ended or not yet. Raises UnknownTask and Away."""
        return self._task(self._ask("POST", f"/tasks/{task_id}/cancel", {}))

    def cancel_label(self, label: str) -> Document:
        """Cancels all tasks of a label. Returns the gateway's answer, which has their number. Raises Away."""
        answer = self._json(self._ask("POST", "/tasks/cancel", {"label": label}), "cancelled")
        if type(answer["cancelled"]) is not int:
            raise Away(f"{self._name} answers a number that is none: {str(answer)[:80]!r}")
        return answer

    @contextmanager
    def response(self, task_id: str, offset: int, generation: str, wait_seconds: float) -> Iterator[KeptAnswer | None]:
        """The kept answer of a task from a byte on. None if it is not that far after `wait_seconds`.

        `generation` "": any. Raises UnknownTask, NotKept and Away.
        """
        query = {"from": str(offset), "wait": f"{wait_seconds:g}"}
        headers = {"If-Match": f'"{generation}"'} if generation else {}
        timeout = _TIMEOUT_SECONDS + wait_seconds
        try:
            with self._http.stream(
                "GET", f"/tasks/{task_id}/response", params=query, headers=headers, timeout=timeout
            ) as answer:
                etag = answer.headers.get("etag", "")
                if etag and answer.headers.get("x-task-id") == task_id:  # an error has no ETag
                    yield KeptAnswer(etag.strip('"'), _pieces(answer))
                    return
                answer.read()
                if answer.status_code != 202:
                    raise self._refusal(answer)
                yield None
        except httpx.HTTPError as error:
            raise self._unreachable(error) from error

    def delete_response(self, task_id: str) -> None:
        """Deletes the kept answer of a task. Raises UnknownTask, NotKept and Away."""
        try:
            answer = self._http.request("DELETE", f"/tasks/{task_id}/response")
        except httpx.HTTPError as error:
            raise self._unreachable(error) from error
        if answer.status_code != 204:
            raise self._refusal(answer)

    def _ask(
        self, method: str, path: str, query: dict[str, str], etag: str = "", wait_seconds: float = 0
    ) -> httpx.Response:
        headers = {"If-None-Match": etag} if etag else {}
        timeout = _TIMEOUT_SECONDS + wait_seconds
        try:
            answer = self._http.request(method, path, params=query, headers=headers, timeout=timeout)
        except httpx.HTTPError as error:
            raise self._unreachable(error) from error
        if answer.status_code in (200, 202) or (etag and answer.status_code == 304):
            return answer
        raise self._refusal(answer)

    def _unreachable(self, error: httpx.HTTPError) -> Away:
        return Away(
            f"{self._name} does not answer: {error or type(error).__name__} (--url names another gateway)",
            is_short=True,
        )

    def _refusal(self, answer: httpx.Response) -> Exception:
        """What an error answer means."""
        status, text, code = answer.status_code, _words(answer), _code(answer)
        if status == 404 and text.startswith("no task "):
            return UnknownTask(text)
        if code in _NOT_KEPT:
            return NotKept(text)
        hint = "; set OLLAMA_GATEWAY_KEY or --key-file" if status == 401 else ""
        is_short = code == "store_unavailable" or (not code and status in _SHORT)
        return Away(f"{self._name} answers {status}: {text}{hint}", code, is_short=is_short)

    def _task(self, answer: httpx.Response) -> Document:
        document = self._json(answer, "state")
        if not is_document(document):
            raise Away(f"{self._name} answers a status that is none: {answer.text[:80]!r}")
        return document

    def _json(self, answer: httpx.Response, field: str) -> Document:
        try:
            content = answer.json()
        except ValueError:
            content = None
        if not (isinstance(content, dict) and field in content):
            raise Away(f"{self._name} is no gateway: it answers {answer.text[:80]!r}")
        return content


def _page(content: Document) -> Page:
    """The page in an answer. `left_out` counts malformed items, and the records that the gateway itself left out."""
    items = content["items"] if isinstance(content["items"], list) else [content["items"]]
    tasks = [item for item in items if is_document(item)]
    skipped = content.get("skipped", 0)
    return Page(content, tasks, len(items) - len(tasks) + (skipped if type(skipped) is int else 0))


def _words(answer: httpx.Response) -> str:
    """The server's text in an error answer."""
    try:
        match answer.json():
            case {"detail": str(text)} | {"error": {"message": str(text)}}:
                return text
    except ValueError:
        pass
    return answer.text[:200]


def _code(answer: httpx.Response) -> str:
    """The stable name of a gateway's error. Empty if the answer has none."""
    try:
        match answer.json():
            case {"error": {"type": "gateway_error", "code": str(code)}}:
                return code
    except ValueError:
        pass
    return ""


def _pieces(answer: httpx.Response) -> Iterator[bytes]:
    try:
        yield from answer.iter_raw()
    except httpx.ReadTimeout as error:
        raise Broken("nothing came for a while", is_silent=True) from error
    except httpx.HTTPError as error:
        raise Broken(str(error) or type(error).__name__) from error


def has_ended(document: Document) -> bool:
    """Whether the status is final. A presumed loss is not: the task can be RUNNING again, or get its real end."""
    return document["state"] in _ENDED and not is_presumed(document)
