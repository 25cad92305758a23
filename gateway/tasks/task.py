"""A task: its states and stages, which may follow which, and the document that tells of it.

Pure: time comes in as an argument. Everything that decides what a status may become lives in this file and, for
races between instances, in transition.lua. Made and advanced by tracker, told what happened by proxy; document reads
what was written.
"""

import re
import secrets
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from urllib.parse import unquote

import orjson

from gateway.errors import InvalidTaskId

VERSION = "1.0"
EVENT_TYPE = "task.status.update"

ID_PATTERN = r"[A-Za-z0-9][A-Za-z0-9._:@-]{0,127}"
_ID = re.compile(ID_PATTERN)
# The short ones count as words of their own (`connect.sid`, `sk`), or `inside` and `risk` were such, too.
_CREDENTIAL_KEY = re.compile(
    r"(?i)key|token|secret|pass|pwd|auth|signature|credential|session|jwt|bearer|hmac|cookie"
    r"|(?<![a-z0-9])(?:sig|sid|sk)(?![a-z0-9])|^code$"
)
REDACTED = "REDACTED"
TARGET_CHARACTERS = 2048  # of path and query together, as a status has them
CUT = "\u2026"  # an ellipsis; no target has one, since its characters are the wire's bytes
_SPLIT_ESCAPE = re.compile(r"%[0-9A-Fa-f]?$")


class State(StrEnum):
    """What a poller acts on."""

    PENDING = "PENDING"
    RUNNING = "RUNNING"
    SUCCESS = "SUCCESS"
    FAILED = "FAILED"


class Stage(StrEnum):
    """Where in its state a task is. A status never goes to a lower rank, and never changes at FINAL_RANK."""

    rank: int
    state: State

    def __new__(cls, value: str, rank: int, state: State) -> "Stage":
        stage = str.__new__(cls, value)
        stage._value_, stage.rank, stage.state = value, rank, state
        return stage

    QUEUED = "queued", 0, State.PENDING
    FORWARDING = "forwarding", 1, State.RUNNING  # handed over, nothing back yet
    STREAMING = "streaming", 2, State.RUNNING  # the response head has come
    DONE = "done", 3, State.SUCCESS
    ERROR = "error", 3, State.FAILED
    CANCELLED = "cancelled", 3, State.FAILED  # the client left, or a cancel call
    SHUTDOWN = "shutdown", 3, State.FAILED  # the gateway was stopped
    LOST = "lost", 3, State.FAILED  # the gateway that ran it is gone


FINAL_RANK = 3
MAX_ATTEMPT = 2**31  # where the count of an id's attempts stays


class Reason(StrEnum):
    """Why a task is FAILED."""

    UPSTREAM_STATUS = "upstream_status"
    UPSTREAM_UNAVAILABLE = "upstream_unavailable"
    UPSTREAM_ERROR = "upstream_error"  # broke before its head
    UPSTREAM_TRUNCATED = "upstream_truncated"  # broke after its head
    STREAM_INCOMPLETE = "stream_incomplete"  # a clean end without the stream's own end event
    STREAM_ERROR = "stream_error"  # the stream ended with an error event
    CLIENT_DISCONNECT = "client_disconnect"
    CANCELLED = "cancelled"
    TIMEOUT = "timeout"
    SHUTDOWN = "shutdown"
    LOST = "lost"
    GATEWAY_ERROR = "gateway_error"


_STAGE_OF_REASON = {
    Reason.CLIENT_DISCONNECT: Stage.CANCELLED,
    Reason.CANCELLED: Stage.CANCELLED,
    Reason.SHUTDOWN: Stage.SHUTDOWN,
    Reason.LOST: Stage.LOST,
}


def failed_stage(reason: Reason) -> Stage:
    """The stage that a failure for `reason` ends in."""
    return _STAGE_OF_REASON.get(reason, Stage.ERROR)


def can_follow(now: Stage, then: Stage) -> bool:
    """Whether a task at `now` may become `then`: always forward, never from a final stage."""
    return now.rank < FINAL_RANK and then.rank > now.rank


def is_valid_id(text: str) -> bool:
    """Whether a client may call its task `text` (contract 4.1)."""
    return _ID.fullmatch(text) is not None


def chosen_id(values: Sequence[bytes]) -> str | None:
    """The id that a client chose in its X-Task-Id fields, None where it left that to us. Raises InvalidTaskId."""
    if len(values) > 1:
        raise InvalidTaskId("X-Task-Id was sent more than once; allowed: one")
    text = values[0].decode("latin-1") if values else ""
    if text and not is_valid_id(text):
        raise InvalidTaskId(f"X-Task-Id is not valid; allowed: {ID_PATTERN}, or none to get one")
    return text or None


def named_id(values: Sequence[bytes]) -> str | None:
    """The same for an answer that names the task: None also where what was sent is no id."""
    with suppress(InvalidTaskId):
        return chosen_id(values)
    return None


def new_id() -> str:
    """A random UUID (version 4, RFC 9562 section 5.4), written down directly: uuid.uuid4() costs five times as much."""
    text = secrets.token_bytes(16).hex()
    return f"{text[:8]}-{text[8:12]}-4{text[13:16]}-{_VARIANTS[text[16]]}{text[17:20]}-{text[20:]}"


_VARIANTS = {digit: "89ab"[int(digit, 16) & 3] for digit in "0123456789abcdef"}


def redact_query(query: str) -> str:
    """`query` as on the wire, the values of keys that look like credentials replaced."""
    if "=" not in query:
        return query
    return "&".join(map(_redact_pair, query.split("&")))


def _redact_pair(pair: str) -> str:
    """`pair` up to a credential's value. Some split at `;`, too: what is behind one may be of the value, or a pair."""
    start = 0
    for part in pair.split(";"):
        key, mark, _ = part.partition("=")
        value_at = start + len(key) + len(mark)
        if mark and value_at < len(pair) and _CREDENTIAL_KEY.search(unquote(key)):
            return pair[:value_at] + REDACTED
        start += len(part) + 1
    return pair


def stored_target(path: bytes, query: bytes | None) -> tuple[str, str]:
    """Path and query as a status tells them: without credentials, and cut where they are over 2 KiB together.

    What was cut ends with CUT. Redaction comes first: a cut may hide that a value is a credential's.
    """
    whole = path.decode("latin-1"), redact_query(query.decode("latin-1")) if query else ""
    if len(whole[0]) + len(whole[1]) <= TARGET_CHARACTERS:
        return whole
    kept_path = _cut(whole[0], TARGET_CHARACTERS)
    return kept_path, _cut(whole[1], TARGET_CHARACTERS - len(kept_path))


def _cut(text: str, most: int) -> str:
    """The beginning of `text`, with the mark no longer than `most`; no escape and no redaction is split."""
    if len(text) <= most:
        return text
    end = max(most - len(CUT), 0)
    redacted_at = text.rfind(REDACTED, max(end - len(REDACTED) + 1, 0), end + len(REDACTED) - 1)
    return _SPLIT_ESCAPE.sub("", text[: end if redacted_at < 0 else redacted_at]) + CUT


@dataclass(slots=True, eq=False)
class Task:
    """One relayed request, as this gateway knows it. Times are Unix milliseconds, sizes are body bytes.

    `attempt` 0 means that the store has not said yet which attempt this is (the id came from the client). It has one
    field for each value of the status document.
    """

    task_id: str
    method: str
    path: str
    query: str
    created_ms: int
    attempt: int = 1
    owner: str = ""  # the name of the API key, "" without one
    stage: Stage = Stage.QUEUED
    message: str = "waiting to be forwarded"
    event_id: str = ""  # of the present state and stage; made when a document first needs it
    is_stream: bool = False
    status_code: int | None = None
    reason: Reason | None = None
    started_ms: int | None = None
    first_byte_ms: int | None = None
    finished_ms: int | None = None
    request_bytes: int = 0
    response_bytes: int = 0

    @property
    def state(self) -> State:
        return self.stage.state

    @property
    def is_final(self) -> bool:
        return self.finished_ms is not None

    def forward(self, now_ms: int) -> bool:
        """Handed over to the upstream. False where the task is past that."""
        if not self._advance(Stage.FORWARDING, "forwarded, waiting for the first byte"):
            return False
        self.started_ms = self._not_before(now_ms)
        return True

    def answer(self, status_code: int, is_stream: bool, now_ms: int) -> bool:
        """The response head has come. False where the task is past that."""
        if not self._advance(Stage.STREAMING, f"the upstream answers with HTTP {status_code}"):
            return False
        self.status_code, self.is_stream = status_code, is_stream
        self.first_byte_ms = self._not_before(now_ms)
        return True

    def finish(self, reason: Reason | None, message: str, now_ms: int) -> bool:
        """The one end: SUCCESS without a reason, FAILED with one. False where the task has ended already."""
        if not self._advance(Stage.DONE if reason is None else failed_stage(reason), message):
            return False
        self.reason, self.finished_ms = reason, self._not_before(now_ms)
        return True

    def _not_before(self, now_ms: int) -> int:
        """`now_ms`, or the last moment of this task where the clock was set back since: its times stay in order."""
        return max(now_ms, self.first_byte_ms or self.started_ms or self.created_ms)

    def _advance(self, stage: Stage, message: str) -> bool:
        if not can_follow(self.stage, stage):
            return False
        self.stage, self.message, self.event_id = stage, message, ""
        return True

    def document_head(self, *, algorithm_id: str, instance: str, boot: str, now: float) -> str:
        """The status document (contract 4.3) up to its last two values, the attempt and `lost_after_ms`: the store's.

        `now` is Unix seconds. Complete it with `complete_document`.
        """
        self.event_id = self.event_id or new_id()
        extensions = {
            "method": self.method,
            "path": self.path,
            "query": self.query,
            "stream": self.is_stream,
            "status_code": self.status_code,
            "reason": self.reason,
            "created_ms": self.created_ms,
            "started_ms": self.started_ms,
            "first_byte_ms": self.first_byte_ms,
            "finished_ms": self.finished_ms,
            "request_bytes": self.request_bytes,
            "response_bytes": self.response_bytes,
            "instance": instance,
            "boot": boot,
            "owner": self.owner or None,
            "attempt": 0,
            "lost_after_ms": None,
        }
        document = {
            "version": VERSION,
            "event_type": EVENT_TYPE,
            "event_id": self.event_id,
            "algorithm_id": algorithm_id,
            "task_id": self.task_id,
            "state": self.state,
            "stage": self.stage,
            "message": self.message,
            "timestamp": int(now),  # whole: pollers in typed languages read an integer
            "extensions": extensions,
        }
        return orjson.dumps(document)[: -len(_STORES_TAIL)].decode()


_STORES_TAIL = '0,"lost_after_ms":null}}'


def complete_document(head: str, attempt: int) -> str:
    """The whole JSON document from what `Task.document_head` gave and the attempt's number."""
    return f'{head}{attempt},"lost_after_ms":null}}}}'
