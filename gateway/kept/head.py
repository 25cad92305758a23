"""What is known of a kept answer beside its body: whose it is, which request it answers, its HTTP head, how it ended.

Pure. The store has it as a JSON text. Any client of the store can write there, so `head_in` checks all of it.
"""

import hashlib
import re
from dataclasses import asdict, dataclass
from enum import StrEnum

import orjson

from gateway.http.head import Fields

# Not kept: fields for one client alone, fields that each answer has of its own, and those of a connection or of CORS.
# The relay removes the last two; a text in the store could bring them back, and so break the framing of an answer.
_NOT_KEPT = frozenset(
    {
        "set-cookie", "set-cookie2", "authentication-info", "content-length", "date", "x-task-id",
        "connection", "keep-alive", "te", "trailer", "transfer-encoding", "upgrade",
    }
)  # fmt: skip
_NOT_KEPT_PREFIXES = ("proxy-", "access-control-")
_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9a-z-]+")  # a token (RFC 9110 section 5.6.2), in lower case
_UNSAFE = re.compile("[\r\n\0\u0100-\U0010ffff]")  # would end a field, or is no byte
_DIGEST = re.compile(r"(?:[0-9a-f]{64})?")
_MOST_BYTES = 2**53


class End(StrEnum):
    """How the message ended."""

    WHOLE = "whole"
    BROKEN = "broken"


@dataclass(frozen=True, slots=True)
class Refusal:
    """The error that the client got, because no answer came."""

    status: int
    code: str
    message: str
    retry_after_seconds: int | None = None


@dataclass(frozen=True, slots=True)
class KeptHead:
    """`status` 0: the answer has not begun. `length` is its Content-Length, None without one. Sizes are body bytes."""

    name: str  # of the request
    method: str
    digest: str = ""  # of the request, see `digest_of`; "" while its body is still coming
    request_bytes: int = 0
    status: int = 0
    fields: tuple[tuple[str, str], ...] = ()
    length: int | None = None
    end: End | None = None
    total: int = 0  # once it has ended: the size of what there is of the body
    refusal: Refusal | None = None

    def as_text(self) -> str:
        return orjson.dumps(asdict(self)).decode()

    @property
    def wire_fields(self) -> Fields:
        """The header fields of the answer, as on the wire."""
        return [(name.encode("latin-1"), value.encode("latin-1")) for name, value in self.fields]


def kept_fields(fields: Fields) -> tuple[tuple[str, str], ...]:
    """Those of the fields that the client gets (lower-case names) that are kept."""
    texts = ((name.decode("latin-1"), value.decode("latin-1")) for name, value in fields)
    return tuple((name, value) for name, value in texts if _is_kept(name))


def _is_kept(name: str) -> bool:
    return name not in _NOT_KEPT and not name.startswith(_NOT_KEPT_PREFIXES)


def head_in(text: str) -> KeptHead | None:
    """The head that `as_text` has written; None for any other text."""
    try:
        found = orjson.loads(text)
        refusal, fields = found.pop("refusal"), found.pop("fields")
        end = found.pop("end")
        head = KeptHead(
            **found,
            fields=tuple((_text(name), _text(value)) for name, value in fields),
            end=None if end is None else End(end),
            refusal=None if refusal is None else _refusal(**refusal),
        )
    except (orjson.JSONDecodeError, AttributeError, KeyError, TypeError, ValueError):
        return None
    return head if _is_right(head) else None


def digest_of(task_id: str, method: str, target: bytes) -> "hashlib._Hash":
    """A SHA-256 that the body of the request is to be added to. The id and the target salt it."""
    return hashlib.sha256(b"%b\n%b %b\n" % (task_id.encode(), method.encode(), target))


def _refusal(*, status: int, code: str, message: str, retry_after_seconds: int | None) -> Refusal:
    _count(status)
    if retry_after_seconds is not None:
        _count(retry_after_seconds)
    for text in (code, message):
        _text(text)
    if not 400 <= status <= 599:
        raise ValueError(status)
    return Refusal(status, code, message, retry_after_seconds)


def _is_right(head: KeptHead) -> bool:
    try:
        for text in (head.name, head.method):
            _text(text)
        if not _DIGEST.fullmatch(_text(head.digest)):
            return False
        for number in (head.request_bytes, head.status, head.total, 0 if head.length is None else head.length):
            _count(number)
        for name, value in head.fields:
            if not (_NAME.fullmatch(name) and _is_kept(name)) or _UNSAFE.search(value):
                return False
    except (TypeError, ValueError):
        return False
    return head.status == 0 or 200 <= head.status <= 599


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(value)
    return value


def _count(value: object) -> None:
    if type(value) is not int or not 0 <= value <= _MOST_BYTES:
        raise TypeError(value)
