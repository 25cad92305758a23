"""Asks Redis for documents, and runs scripts there, for all but the writer: a pool of redis-py's connections.

Tells the clock of each time that Redis says.
"""

import time
from collections.abc import Coroutine, Sequence
from contextlib import suppress
from typing import Any, TypeVar

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import NoScriptError, ResponseError

from gateway.store.clock import StoreClock
from gateway.store.connecting import Connector
from gateway.store.interface import StoreError
from gateway.store.layout import DOCUMENT_PREFIX, Script, list_names
from gateway.store.malformed import Malformed
from gateway.store.pipeline import COMMAND_TIMEOUT_SECONDS, CONNECT_TIMEOUT_SECONDS, mapped, uncancelled
from gateway.store.reasons import LIBRARY_ERRORS, is_wrong_type
from gateway.tasks.document import fields_of

_MAX_CONNECTIONS = 32
_WAIT_SECONDS = 5.0
MALFORMED = ""  # in the place of a document: something stands there that is none

T = TypeVar("T")


class Reader:
    """The connections that reads share; `redis` is for commands that have no method here.

    `clock` is the server's; after a step it is unsteady for `grace_seconds`. If `is_raw`, replies are bytes:
    `documents` and `evaluate` need text, `run` does not.
    """

    def __init__(
        self, connector: Connector, malformed: Malformed, *, is_raw: bool = False, grace_seconds: float = 0
    ) -> None:
        self.clock = StoreClock(grace_seconds)
        self._malformed = malformed
        self._mend = Script("mend")
        # A burst of polls waits for one of these for a moment, instead of opening a connection each.
        self._pool = connector.blocking_pool(
            timeout=_WAIT_SECONDS,
            decode_responses=not is_raw,
            encoding_errors="surrogateescape",  # a foreign value is no reason to fail, and goes back as it came
            socket_timeout=COMMAND_TIMEOUT_SECONDS,
            max_connections=_MAX_CONNECTIONS,
            socket_connect_timeout=CONNECT_TIMEOUT_SECONDS,
            retry=Retry(NoBackoff(), 1, supported_errors=(RedisConnectionError, RuntimeError)),  # type: ignore[arg-type]
        )
        self.redis = Redis(connection_pool=self._pool)

    async def asked(self, answer: Coroutine[Any, Any, T]) -> T:
        """Awaits `answer`. Raises StoreError. If the cause is an error of the library, closes idle connections, too:
        they may be as dead as the one that failed.
        """
        try:
            return await uncancelled(mapped(answer))
        except StoreError as error:
            if error.__cause__ is not None:  # else the server has answered
                with suppress(*LIBRARY_ERRORS):  # one that does not close in time is given up
                    await self._pool.disconnect(inuse_connections=False)
            raise

    async def evaluate(
        self, script: Script, keys: Sequence[str], arguments: Sequence[str | int], names: Sequence[str] = ()
    ) -> Any:
        """Runs a script and returns its reply. Raises the library's errors.

        If a key has another type, deletes the key and runs the script again: a key that every script uses, or one of
        the lists in `names`.
        """
        try:
            return await self.run(script, keys, arguments)
        except ResponseError as error:
            if not is_wrong_type(error):
                raise
        for key in await self.run(self._mend, [], [*list_names(None, None), *names]):
            self._malformed.report(key)
        return await self.run(script, keys, arguments)

    async def run(self, script: Script, keys: Sequence[str], arguments: Sequence[str | int]) -> Any:
        """Runs a script and returns its reply. Raises the library's errors, also that of a key of another type."""
        try:
            return await self.redis.evalsha(script.digest, len(keys), *keys, *map(str, arguments))
        except NoScriptError:
            return await self.redis.eval(script.text, len(keys), *keys, *map(str, arguments))

    async def timed(self, script: Script, keys: Sequence[str], arguments: Sequence[str | int], place: int) -> Any:
        """As `evaluate`, for a script whose reply has the server's clock (Unix ms) at `place`."""
        asked_at = time.monotonic()
        reply = await self.evaluate(script, keys, arguments)
        self.clock.heard(reply[place], asked_at)
        return reply

    async def documents(self, task_ids: Sequence[str]) -> tuple[int, list[str | None]]:
        """The server's time in Unix ms, and the documents of `task_ids` at that time.

        None for a missing document, MALFORMED for a text or key that is not a document. Raises the library's errors.
        """
        pipe = self.redis.pipeline(transaction=False)
        pipe.time()
        for task_id in task_ids:
            pipe.get(DOCUMENT_PREFIX + task_id)
        asked_at = time.monotonic()
        (seconds, microseconds), *replies = await pipe.execute(raise_on_error=False)
        now_ms = seconds * 1000 + microseconds // 1000
        self.clock.heard(now_ms, asked_at)
        documents = [self.checked(task_id, reply) for task_id, reply in zip(task_ids, replies, strict=True)]
        return now_ms, documents

    def checked(self, task_id: str, reply: str | int | Exception | None) -> str | None:
        """The document in a reply to GET, as `documents` returns it; any number stands for a key of another type.

        Raises an error reply, except that of a key of another type.
        """
        if reply is None:
            return None
        if isinstance(reply, str) and fields_of(reply, task_id) is not None:
            return reply
        if isinstance(reply, Exception) and not is_wrong_type(reply):
            raise reply
        self._malformed.report(DOCUMENT_PREFIX + task_id)
        return MALFORMED

    async def close(self) -> None:
        """Closes all connections."""
        await self.redis.aclose()
        await self._pool.disconnect()
