"""A task: the record of one request, its ids and reasons.

Pure: time is an argument. stages.py has the states and stages. document.py writes and reads its status document.
"""

import re
import secrets
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple
from urllib.parse import unquote

from gateway.errors import InvalidTaskId
from gateway.tasks.stages import Stage, State

ID_PATTERN = r"[A-Za-z0-9][A-Za-z0-9._:@-]{0,127}"
_ID = re.compile(ID_PATTERN)
# The short ones have to be whole words (`connect.sid`, `sk`). Otherwise `inside` and `risk` would match, too.
_CREDENTIAL_KEY = re.compile(
    r"(?i)key|token|secret|pass|pwd|auth|signature|credential|session|jwt|bearer|hmac|cookie"
    r"|(?<![a-z0-9])(?:sig|sid|sk)(?![a-z0-9])|^code$"
)
REDACTED = "REDACTED"
TARGET_CHARACTERS = 2048  # the most of path and query together that a status has
CUT = "\u2026"  # an ellipsis; no target has one, because a target is bytes, decoded as Latin-1
_SPLIT_ESCAPE = re.compile(r"%[0-9A-Fa-f]?$")


# Requests with these methods only read: they neither wait for a place nor take one (docs/behaviour.md, "The queue").
READING_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})


class Reason(StrEnum):
    """Why a task is FAILED."""

    UPSTREAM_STATUS = "upstream_status"
    UPSTREAM_UNAVAILABLE = "upstream_unavailable"
    UPSTREAM_ERROR = "upstream_error"  # the answer broke off before its head was complete
    UPSTREAM_TRUNCATED = "upstream_truncated"  # the answer broke off after its head
    STREAM_INCOMPLETE = "stream_incomplete"  # the message is complete, but the stream's own end event is missing
    STREAM_ERROR = "stream_error"  # the stream ended with an error event
    CLIENT_DISCONNECT = "client_disconnect"
    CANCELLED = "cancelled"
    TIMEOUT = "timeout"
    SHUTDOWN = "shutdown"
    LOST = "lost"
    GATEWAY_ERROR = "gateway_error"
    QUEUE_FULL = "queue_full"  # a request of another key took its place in a full queue
    RESPONSE_TOO_LARGE = "response_too_large"  # its client had left, and its answer could not be kept


class Kept(StrEnum):
    """What became of an answer that the client asked to keep."""

    KEPT = "kept"  # or being kept, while the task runs
    DELETED = "deleted"  # by a call of the client
    TOO_LARGE = "too_large"  # longer than MAX_RESPONSE_BYTES
    NO_ROOM = "no_room"  # too much else is kept


_STAGE_OF_REASON = {
    Reason.CLIENT_DISCONNECT: Stage.CANCELLED,
    Reason.CANCELLED: Stage.CANCELLED,
    Reason.SHUTDOWN: Stage.SHUTDOWN,
    Reason.LOST: Stage.LOST,
}


def failed_stage(reason: Reason) -> Stage:
    """The final stage of a task that fails for `reason`."""
    return _STAGE_OF_REASON.get(reason, Stage.ERROR)


def is_valid_id(text: str) -> bool:
    """Whether `text` is valid as a task's id (docs/behaviour.md, "Tasks")."""
    return _ID.fullmatch(text) is not None


def chosen_id(values: Sequence[bytes]) -> str | None:
    """The id that a client chose. `values` are its X-Task-Id fields. None if it chose none. Raises InvalidTaskId."""
    if len(values) > 1:
        raise InvalidTaskId("X-Task-Id was sent more than once; allowed: one")
    text = values[0].decode("latin-1") if values else ""
    if text and not is_valid_id(text):
        raise InvalidTaskId(f"X-Task-Id is not valid; allowed: {ID_PATTERN}, or none to get one")
    return text or None


def named_id(values: Sequence[bytes]) -> str | None:
    """As `chosen_id`, for an answer that names the task: None also if the id is not valid."""
    with suppress(InvalidTaskId):
        return chosen_id(values)
    return None


def new_id() -> str:
    """A random UUID (version 4, RFC 9562 section 5.4). uuid.uuid4() takes ten times as long.

    Many are made at once: to ask the system for a few random bytes takes as long as for many.
    """
    if not _spare_ids:
        digits = secrets.token_hex(16 * _IDS_AT_ONCE)
        for at in range(0, len(digits), 32):
            text = digits[at : at + 32]
            _spare_ids.append(f"{text[:8]}-{text[8:12]}-4{text[13:16]}-{_VARIANTS[text[16]]}{text[17:20]}-{text[20:]}")
    return _spare_ids.pop()


_VARIANTS = {digit: "89ab"[int(digit, 16) & 3] for digit in "0123456789abcdef"}
_IDS_AT_ONCE = 32
_spare_ids: list[str] = []


def redact_query(query: str) -> str:
    """`query` as on the wire, with the values of keys that look like credentials replaced by REDACTED."""
    if "=" not in query:
        return query
    return "&".join(map(_redact_pair, query.split("&")))


def _redact_pair(pair: str) -> str:
    """`pair`, redacted from a credential's value on. Some servers also split at `;`, so a part after `;` may be a pair
    of its own, or belong to the value.
    """
    start = 0
    for part in pair.split(";"):
        key, mark, _ = part.partition("=")
        value_at = start + len(key) + len(mark)
        if mark and value_at < len(pair) and _CREDENTIAL_KEY.search(unquote(key)):
            return pair[:value_at] + REDACTED
        start += len(part) + 1
    return pair


def stored_target(path: bytes, query: bytes | None) -> tuple[str, str]:
    """(path, query) as a status has them: without credentials, and cut to 2 KiB together.

    A text that was cut ends with CUT. Redaction comes first, because a cut may hide that a value is a credential.
    """
    whole = path.decode("latin-1"), redact_query(query.decode("latin-1")) if query else ""
    if len(whole[0]) + len(whole[1]) <= TARGET_CHARACTERS:
        return whole
    kept_path = _cut(whole[0], TARGET_CHARACTERS)
    return kept_path, _cut(whole[1], TARGET_CHARACTERS - len(kept_path))


def _cut(text: str, most: int) -> str:
    """The beginning of `text`, at most `most` characters including CUT. Splits no %-escape and no REDACTED."""
    if len(text) <= most:
        return text
    end = max(most - len(CUT), 0)
    redacted_at = text.rfind(REDACTED, max(end - len(REDACTED) + 1, 0), end + len(REDACTED) - 1)
    return _SPLIT_ESCAPE.sub("", text[: end if redacted_at < 0 else redacted_at]) + CUT


class Trace(NamedTuple):
    """The trace (OpenTelemetry) that a task belongs to. Ids are lower-case hexadecimal.

    `parent_id` is the client's span, None without one. Whether the client samples it, and its tracestate, are of no
    meaning then.
    """

    trace_id: str
    parent_id: str | None = None
    is_sampled: bool = True
    state: str = ""


@dataclass(slots=True, eq=False)
class Task:
    """One relayed request, as this gateway knows it. Times are Unix milliseconds, sizes are body bytes.

    `attempt` 0 means that the client chose the id, and the store has not yet said which attempt this is. The class has
    one field for each value of the status document.
    """

    task_id: str
    method: str
    path: str
    query: str
    created_ms: int
    attempt: int = 1
    owner: str = ""  # the name of the API key, "" without one
    label: str = ""  # what the client wants to find it by
    stage: Stage = Stage.QUEUED
    message: str = "waiting to be forwarded"
    event_id: str = ""  # of the present stage; created when a document first needs it
    is_stream: bool = False
    status_code: int | None = None
    reason: Reason | None = None
    error_text: str | None = None  # the beginning of Ollama's error answer; None unless that is to be kept
    started_ms: int | None = None
    first_byte_ms: int | None = None
    finished_ms: int | None = None
    queued_ms: int | None = None  # how long it waited for its place with Ollama; None without a queue
    request_bytes: int = 0
    response_bytes: int = 0
    is_detached: bool = False  # it goes on without a client
    response: Kept | None = None  # what became of its answer; None if that was not to be kept
    trace: Trace | None = None  # None without tracing

    @property
    def state(self) -> State:
        return self.stage.state

    @property
    def is_final(self) -> bool:
        return self.finished_ms is not None

    def forward(self, now_ms: int) -> bool:
        """The request is sent to Ollama. False if the task is past that stage."""
        moved_ms = self._advance(Stage.FORWARDING, "forwarded, waiting for the first byte", now_ms)
        if moved_ms is None:
            return False
        self.started_ms = moved_ms
        return True

    def answer(self, status_code: int, is_stream: bool, now_ms: int) -> bool:
        """The response head is here. False if the task is past that stage."""
        moved_ms = self._advance(Stage.STREAMING, f"the upstream answers with HTTP {status_code}", now_ms)
        if moved_ms is None:
            return False
        self.status_code, self.is_stream, self.first_byte_ms = status_code, is_stream, moved_ms
        return True

    def finish(self, reason: Reason | None, message: str, now_ms: int) -> bool:
        """Ends the task: SUCCESS without a reason, FAILED with one. False if it has ended already."""
        moved_ms = self._advance(Stage.DONE if reason is None else failed_stage(reason), message, now_ms)
        if moved_ms is None:
            return False
        self.reason, self.finished_ms = reason, moved_ms
        return True

    def detach(self) -> bool:
        """It goes on without its client. False if it did already, or has ended."""
        if self.is_detached or self.is_final:
            return False
        self.is_detached, self.event_id = True, ""
        return True

    def keep(self, response: Kept) -> bool:
        """Its answer is kept, or no longer. False if that is known already. The only change that may follow the end."""
        if self.response is response:
            return False
        self.response, self.event_id = response, ""
        return True

    def put_right(self) -> bool:
        """The store had it as presumed lost, and it runs: a new event. False if it has ended: its end is an event."""
        if self.is_final:
            return False
        self.event_id = ""
        return True

    def event(self) -> str:
        """The id of its present event."""
        self.event_id = self.event_id or new_id()
        return self.event_id

    def _advance(self, stage: Stage, message: str, now_ms: int) -> int | None:
        """Moves to `stage`. None if the task is past it, else the time of the move.

        That is `now_ms`, or the task's last time if the clock was set back since: so its times stay in order.
        """
        if stage.rank <= self.stage.rank:  # only forward, and nowhere from a final stage, whose rank is the highest
            return None
        self.stage, self.message, self.event_id = stage, message, ""
        return max(now_ms, self.first_byte_ms or self.started_ms or self.created_ms)
