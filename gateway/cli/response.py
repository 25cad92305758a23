"""Reads a kept answer: what there is of it, or live to its end. If the connection breaks, it reads on where it stopped.

Each request after the first names the answer's generation, so parts of two answers are never joined. A gateway breaks
off the answer of a task that is presumed lost where it knows no more of it: that is its present end, and the reader of
all of it waits there. Knows nothing of terminals: the bytes go to a function. Owns the rules of `-o FILE`.
"""

import time
from collections.abc import Callable
from contextlib import suppress
from enum import Enum, auto
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from gateway.cli.client import Away, Broken, Client, Document, has_ended
from gateway.cli.watch import AGAIN_SECONDS
from gateway.tasks.document import is_presumed

_WAIT_SECONDS = 30.0  # for the head of the answer, in one request: many proxies close a connection that is idle longer
_TRIES = 5  # one after the other, none with a new byte
_PAUSE_SECONDS = 1.0
_NO_ANSWER = "the task has ended without an answer"
# Errors that say what is wrong with the request. Other errors of the gateway are what the task's client got.
_OF_REQUEST = frozenset({"unauthorized", "generation_changed", "offset_not_satisfiable", "invalid_parameter"})


class Reached(Enum):
    """Where a reader has stopped."""

    END = auto()
    BROKEN_END = auto()  # the answer itself was broken off there
    NO_ANSWER = auto()  # the task has ended without one
    PRESENT = auto()  # all that there was when it began; the task goes on


class Reader:
    """Reads the answer of one task from the byte `offset` on. `generation` "": of the newest one.

    `write` gets each piece, first an empty one; `tell` gets a line for people when the connection breaks.
    """

    def __init__(
        self,
        client: Client,
        task_id: str,
        write: Callable[[bytes], None],
        tell: Callable[[str], None],
        *,
        offset: int = 0,
        generation: str = "",
    ) -> None:
        self.offset = offset
        self.generation = generation
        self._client = client
        self._task_id = task_id
        self._write = write
        self._tell = tell
        self._tries = 0

    def read(self, *, to_end: bool) -> Reached:
        """Reads to the end of the answer. Without `to_end`, a task that runs is read only as far as it is now.

        Raises UnknownTask, NotKept and Away.
        """
        while True:
            document = self._document()
            present = None if to_end or has_ended(document) else document["extensions"].get("response_bytes") or 0
            reached = self._read(present)
            if reached is not Reached.PRESENT or not has_ended(self._document()):
                return reached

    def _read(self, present: int | None) -> Reached:
        while True:
            before, asked_at = self.offset, time.monotonic()
            try:
                reached = self._one_connection(present)
                if reached is None:  # the gateway may say so before its time, if too many clients wait
                    time.sleep(max(asked_at + AGAIN_SECONDS - time.monotonic(), 0.0))
            except (Broken, Away) as error:
                reached = self._after(error, present, is_new=self.offset > before)
            if reached is not None:
                return reached

    def _one_connection(self, present: int | None) -> Reached | None:
        """Reads as long as the connection lasts. None if the answer is not as far as `offset` yet."""
        wait_seconds = _WAIT_SECONDS if present is None else 0.0
        with self._client.response(self._task_id, self.offset, self.generation, wait_seconds) as answer:
            if answer is None:
                return None if present is None else Reached.PRESENT
            self.generation = answer.generation
            self._write(b"")
            if present is not None and self.offset >= present:
                return Reached.PRESENT
            for piece in answer.pieces:
                self._write(piece)
                self.offset += len(piece)
                if present is not None and self.offset >= present:
                    return Reached.PRESENT
        return Reached.END

    def _after(self, error: Broken | Away, present: int | None, *, is_new: bool) -> Reached | None:
        """What follows an error: where the answer ends, None to read on, or Away. `is_new`: there were new bytes."""
        if isinstance(error, Away) and not error.is_short:
            return self._without_answer(error, present)
        if isinstance(error, Broken) and error.is_silent:
            return None if present is None else Reached.PRESENT  # to_end: a silent task, asked for again
        if is_new:
            self._tries = 0
            self._tell(f"the connection broke after {self.offset} bytes ({error}); reading on")
            return None
        self._tries += 1
        if isinstance(error, Broken):
            document = self._known()
            if document is not None and is_presumed(document):
                return self._at_present_end(present)
            if document is not None and (end := self._end_here(document)) is not None:
                return end
        if self._tries >= _TRIES:
            raise Away(f"gave up after {self.offset} bytes and {_TRIES} tries: {error}") from error
        time.sleep(_PAUSE_SECONDS)
        return None

    def _end_here(self, document: Document) -> Reached | None:
        """Whether the answer ends where its last connection broke without a new byte; None if it goes on."""
        is_all = self.offset >= (document["extensions"].get("response_bytes") or 0)
        if has_ended(document) and (is_all or self._tries >= _TRIES):
            return Reached.END if is_all and document["state"] == "SUCCESS" else Reached.BROKEN_END
        return None

    def _at_present_end(self, present: int | None) -> Reached | None:
        """Where the answer of a task that is presumed lost stops. To read all of it, waits for word of the task."""
        if present is not None:
            return Reached.PRESENT
        self._tell(f"no word from the task's gateway after {self.offset} bytes; it may still run the task: waiting")
        while (document := self._known()) is not None and is_presumed(document):
            time.sleep(AGAIN_SECONDS)
        self._tries = 0
        return None

    def _without_answer(self, error: Away, present: int | None) -> Reached | None:
        """The gateway's error is what the task's client got, if the task has ended. Raises it otherwise."""
        if not error.code or error.code in _OF_REQUEST:
            raise error
        document = self._document()
        if is_presumed(document):
            return self._at_present_end(present)
        if not has_ended(document):
            raise error
        self._tell(f"{_NO_ANSWER}: {error}")
        return Reached.NO_ANSWER

    def _known(self) -> Document | None:
        """The task's status; None if the gateway is away."""
        with suppress(Away):
            return self._document()
        return None

    def _document(self) -> Document:
        document = self._client.document(self._task_id)
        assert document is not None, "a request without a known event is always answered with a status"
        return document


class UnusableFile(Exception):
    """The file of `-o` cannot take the answer."""


class File:
    """The file of `-o`. It is opened with the first piece, so that an error before the answer leaves it as it was.

    `offset` None: it is written anew. Else it must have exactly so many bytes, and the answer's follow them. Raises
    UnusableFile.
    """

    def __init__(self, path: Path, offset: int | None) -> None:
        self._path = path
        self._is_continued = offset is not None
        self._file: IO[bytes] | None = None
        if offset is not None and (size := self._size()) != offset:
            raise UnusableFile(f"{path} has {size} bytes: --from {offset} writes only to a file of {offset} bytes")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._file is not None:
            self._file.close()

    def write(self, piece: bytes) -> None:
        """Writes one piece at once."""
        try:
            if self._file is None:
                self._file = self._path.open("ab" if self._is_continued else "wb")
            self._file.write(piece)
            self._file.flush()
        except OSError as error:
            raise self._unusable(error) from error

    def _size(self) -> int:
        try:
            return self._path.stat().st_size
        except FileNotFoundError:
            return 0
        except OSError as error:
            raise self._unusable(error) from error

    def _unusable(self, error: OSError) -> UnusableFile:
        return UnusableFile(f"{self._path}: {error.strerror}")
