"""A request to keep the answer of an id that its client chose: it begins, or it joins the request that has the id.

So a client library that tries again by itself gets the generation that is already under way, and pays for one. It
joins if method, target and body are the same. The store is asked before anything is claimed.
"""

import asyncio
import time
from collections.abc import Callable, Coroutine
from typing import Any, Protocol

from gateway.errors import (
    GatewayError,
    NotFound,
    ResponseGone,
    ResponseNotKept,
    StartTimeout,
    StoreAway,
    TaskIdInUse,
    TaskIdReused,
    TaskTimeout,
)
from gateway.http import limits
from gateway.http.background import Background
from gateway.http.head import Target
from gateway.http.request import Request
from gateway.kept.head import KeptHead, digest_of
from gateway.kept.looking import Look, Looking
from gateway.kept.reading import Reading, Wish, accept
from gateway.metrics.counts import JOINED, Counts
from gateway.tasks.options import TaskOptions
from gateway.tasks.stages import State
from gateway.tracking.tracked import MAX_WAIT_SECONDS

_CLAIM_SECONDS = 1.0  # how long a request waits for the end of one that has its id and cannot be joined
_AGAIN_SECONDS = 0.1


class Admission(Protocol):
    """What begins a request that joins no other."""

    def begin_kept(
        self, request: Request, on_refused: Callable[[], None], waited_seconds: float, seen_attempt: int | None
    ) -> None:
        """Begins it. It has waited so long for the store. Raises GatewayError.

        Calls `on_refused` if its id turns out to be in flight elsewhere, or if the newest attempt is not `seen_attempt`
        any more (0: there was none; None: any).
        """

    def refuse(self, request: Request, error: GatewayError) -> None:
        """Answers a request that does not become a task."""


class Joining(Background):
    """One request with a chosen id that is to be kept."""

    def __init__(
        self,
        admission: Admission,
        looking: Looking,
        counts: Counts,
        request: Request,
        target: Target,
        task_id: str,
        options: TaskOptions,
        *,
        is_async: bool,
    ) -> None:
        super().__init__(request)
        self._admission = admission
        self._looking = looking
        self._counts = counts
        self._task_id = task_id
        self._options = options
        self._is_async = is_async
        self._began = time.monotonic()
        self._digest = digest_of(task_id, request.method, target.wire)
        self._hashed_bytes = 0
        self._seen_attempt: int | None = None  # the newest one at the last look, if that is known
        self._looked_seconds = 0.0  # how long the request has waited for the store before its claim, at most 250 ms

    def open(self) -> None:
        """Begins to look for an earlier request with the id."""
        self._work_on(self._run_once())

    def _work_on(self, work: Coroutine[Any, Any, None]) -> None:
        self.begin(work)
        self.limit(self._options.start_timeout, _start_timeout, self._began)
        self.limit(self._options.timeout, _timeout, self._began)

    def refuse(self, error: GatewayError) -> None:
        """Answers with an error. The request is no task."""
        self._admission.refuse(self.request, error)

    async def _run_once(self, *, is_overdue: bool = False) -> None:
        """Joins or begins. `is_overdue`: it may not begin any more, for its claim was refused too long."""
        self.request.read_ahead()
        while True:
            known = self._looking.newest(self._task_id)
            earlier = await self._look_in_time()
            if earlier is None:
                if self._looking.newest(self._task_id) is known:
                    if is_overdue:
                        raise TaskIdInUse.in_store(self._task_id)
                    self._admission.begin_kept(self.request, self._on_refused, self._looked_seconds, self._seen_attempt)
                    return
                continue  # another request has begun here during the look
            head = await self._whole_request(earlier)
            if head is not None:
                await self._check_same(head)
                await self._join()
                return

    def _on_refused(self) -> None:
        """The id is in flight at another gateway. The request there may have begun only now, or may be about to end."""
        if not self.request.has_client:
            return
        self._work_on(self._again(is_overdue=time.monotonic() - self._began > _CLAIM_SECONDS))

    async def _again(self, *, is_overdue: bool) -> None:
        await asyncio.sleep(_AGAIN_SECONDS)
        await self._run_once(is_overdue=is_overdue)

    # -- the earlier request --

    async def _look_in_time(self) -> Look | None:
        """As `_earlier`, and None if the store takes too long: relaying waits for no store that is away."""
        if self._looking.holds(self._task_id):  # then the store is not asked
            return await self._earlier()
        began = time.monotonic()
        try:
            async with asyncio.timeout(MAX_WAIT_SECONDS if self._looking.is_store_up else 0):
                return await self._earlier()
        except TimeoutError:
            self._seen_attempt = 0  # if there is one, the claim is refused, and the next look knows it
            return None
        finally:
            self._looked_seconds = time.monotonic() - began

    async def _earlier(self) -> Look | None:
        """A look at the answer of an earlier request that may be joined. None if there is none.

        Raises TaskIdInUse if it is another key's.
        """
        self._seen_attempt = None
        try:
            look = await self._looking.look_together(self._task_id)
        except NotFound:
            self._seen_attempt = 0
            return None
        except (ResponseNotKept, ResponseGone, StoreAway):
            return None  # whether it holds the id is for the claim to say
        owner, state = self._looking.owner_and_state(look)
        if owner != self.request.owner:
            raise TaskIdInUse.in_store(self._task_id)
        self._seen_attempt = self._looking.attempt(look)
        if state is State.FAILED or (look.end is not None and not (look.head and look.head.digest)):
            return None  # one that ended before its request was whole cannot be compared
        return look

    async def _whole_request(self, look: Look) -> KeptHead | None:
        """Waits until the earlier request is whole, so that it can be compared. None if it ends before."""
        earlier: Look | None = look
        while earlier is not None:
            if earlier.head is not None and earlier.head.digest:
                return earlier.head
            await self._looking.wait(earlier, self._began)
            earlier = await self._earlier()
        return None

    async def _check_same(self, head: KeptHead) -> None:
        """Reads this request to its end. Raises TaskIdReused if it is another one. What was compared is dropped."""
        request = self.request
        if request.is_held_back:
            request.send_continue()
        while True:
            came = request.body_bytes - self._hashed_bytes
            self._digest.update(request.newest(came))
            self._hashed_bytes += came
            if request.is_whole or request.body_bytes > head.request_bytes:
                break
            if request.wire.is_read_paused or request.waiting_bytes >= limits.QUEUED_BODY_BYTES:
                request.take()
            await self.changed()
        if not request.is_whole or self._digest.hexdigest() != head.digest:
            raise TaskIdReused(
                f"the task id {self._task_id!r} belongs to a request with another method, target or body; "
                "each kept call needs an id of its own"
            )

    async def _join(self) -> None:
        self._counts.add(JOINED)
        if self._is_async:
            look = await self._looking.look(self._task_id, None)
            accept(self.request, self._task_id, self._looking.document(look))
            return
        wish = Wish(self._task_id, self.request.owner or None, is_joined=True)
        reading = Reading(self._looking, self.request, wish)
        reading.begin(reading.run())
        reading.limit(self._options.start_timeout, _start_timeout, self._began, is_for_start=True)
        reading.limit(self._options.timeout, _timeout, self._began)


def _start_timeout(seconds: int) -> StartTimeout:
    return StartTimeout(f"the request was not with Ollama within X-Task-Start-Timeout, {seconds} seconds")


def _timeout(seconds: int) -> TaskTimeout:
    return TaskTimeout(f"the task did not end within X-Task-Timeout, {seconds} seconds")
