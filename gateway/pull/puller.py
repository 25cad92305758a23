"""`python -m gateway.pull`: pulls the models of OLLAMA_PULL_MODELS that Ollama lacks, and ends when all are there.

It goes on until then or until it is stopped: no model's failure ends it, holds up another model, or touches the
gateway. It must not start or stop anything. supervisord starts it once, beside the gateway, which learns of the
progress from a file; run by hand on a terminal it shows a bar. It talks to Ollama alone, heeding no proxy.
"""

import json
import logging
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException, HTTPResponse
from pathlib import Path
from typing import Any

from gateway import logs
from gateway.logs import readable
from gateway.settings import InvalidSettings, load, pull_progress_file
from gateway.upstream.models import Progress, listed_models, missing_models

log = logging.getLogger("gateway.pull")

_MAX_PAUSE_SECONDS = 60.0
_RARE_PAUSE_SECONDS = 3600.0
_MAX_WAIT_FOR_OLLAMA_SECONDS = 4.0
_LINE_EVERY_SECONDS = 5.0
_LIST_TIMEOUT_SECONDS = 10.0
_SILENCE_SECONDS = 1800.0  # Ollama says nothing while it verifies what it pulled, which takes minutes for large models
_MAX_ANSWER_BYTES = 4_194_304
_MAX_ERROR_CHARACTERS = 300
# What the registry says of a name that it does not have, and of a model that this Ollama is too old for.
_LASTING_ERRORS = ("file does not exist", "newer version of Ollama")


class PullFailed(Exception):
    """Ollama is away, or did not do what it was asked for."""

    @property
    def is_lasting(self) -> bool:
        """Whether trying again soon would be in vain."""
        return any(words in str(self) for words in _LASTING_ERRORS)


class Ollama:
    """The two questions of this program. Everything that goes wrong with them is PullFailed."""

    def __init__(self, host: str, port: int) -> None:
        self._host = host
        self._port = port

    def models(self) -> list[str]:
        """The names of what it has."""
        with self._asked("GET", "/api/tags", None, _LIST_TIMEOUT_SECONDS) as answer:
            if answer.status != 200:
                raise PullFailed(f"/api/tags answers {answer.status}")
            return listed_models(answer.read(_MAX_ANSWER_BYTES))

    def pull(self, name: str) -> Iterator[dict[str, Any]]:
        """Has it pull a model; gives what it tells of that, up to the success."""
        with self._asked("POST", "/api/pull", {"model": name, "stream": True}, _SILENCE_SECONDS) as answer:
            while line := answer.readline(_MAX_ANSWER_BYTES):
                event = _event(line)
                if answer.status != 200 or "error" in event:
                    raise PullFailed(str(event.get("error") or f"/api/pull answers {answer.status}"))
                yield event
                if event.get("status") == "success":
                    return
            raise PullFailed("the answer ended before the pull did")

    @contextmanager
    def _asked(self, method: str, path: str, body: object, timeout_seconds: float) -> Iterator[HTTPResponse]:
        connection = HTTPConnection(self._host, self._port, timeout=timeout_seconds)
        try:
            connection.request(method, path, json.dumps(body) if body else None, {"Content-Type": "application/json"})
            yield connection.getresponse()
        except (OSError, HTTPException, ValueError) as error:  # the last one: an answer of another shape
            raise PullFailed(f"{type(error).__name__}: {error}") from error
        finally:
            connection.close()


def _event(line: bytes) -> dict[str, Any]:
    event = json.loads(line)
    if not isinstance(event, dict):
        raise ValueError("not a message of /api/pull")
    return event


class Meter:
    """How much of one model is here, added up over its layers. Ollama names a layer when it comes to it."""

    def __init__(self) -> None:
        self._layers: dict[str, tuple[int, int]] = {}

    def feed(self, event: dict[str, Any]) -> None:
        """Takes one message of `/api/pull`."""
        match event:
            case {"digest": str(digest), "total": int(total)}:
                completed = event.get("completed")
                self._layers[digest] = min(completed if isinstance(completed, int) else 0, total), total

    @property
    def completed_bytes(self) -> int:
        return sum(completed for completed, _ in self._layers.values())

    @property
    def total_bytes(self) -> int:
        return sum(total for _, total in self._layers.values())

    @property
    def percent(self) -> int | None:
        """None while no size is known."""
        return 100 * self.completed_bytes // self.total_bytes if self.total_bytes else None


Show = Callable[[Meter], None]


@contextmanager
def lines(name: str) -> Iterator[Show]:
    """Shows progress in the log: at once when there is any, then every few seconds."""
    last = float("-inf")

    def show(meter: Meter) -> None:
        nonlocal last
        if meter.percent is not None and time.monotonic() - last >= _LINE_EVERY_SECONDS:
            last = time.monotonic()
            log.info("%s: %d %% of %.1f MB", name, meter.percent, meter.total_bytes / 1e6)

    yield show


@contextmanager
def bar(name: str) -> Iterator[Show]:
    """Shows progress on a terminal."""
    from rich import progress  # only here: under supervisord there is no terminal

    columns = (
        progress.TextColumn("{task.description}", markup=False),
        progress.BarColumn(),
        progress.DownloadColumn(),
        progress.TransferSpeedColumn(),
        progress.TimeRemainingColumn(),
    )
    with progress.Progress(*columns) as shown:
        task = shown.add_task(name, total=None)
        yield lambda meter: shown.update(task, completed=meter.completed_bytes, total=meter.total_bytes or None)


@dataclass(slots=True)
class Wish:
    """A model that is not there yet, and when to try next, in seconds of the monotonic clock."""

    name: str
    failures: int = 0
    due: float = 0.0


def pause_seconds(failures: int, *, is_lasting: bool = False) -> float:
    """How long to wait after so many failures in a row."""
    return _RARE_PAUSE_SECONDS if is_lasting else min(_MAX_PAUSE_SECONDS, 2.0 ** min(failures - 1, 16))


class Puller:
    """Pulls one model after another; what fails goes to the back until its time has come."""

    def __init__(
        self,
        ollama: Ollama,
        names: tuple[str, ...],
        view: Callable[[str], AbstractContextManager[Show]] = lines,
        progress_file: Path | None = None,
        sleep: Callable[[float], object] = time.sleep,
    ) -> None:
        self._ollama = ollama
        self._names = names
        self._view = view
        self._progress_file = progress_file
        self._sleep = sleep
        self._told: Progress | None = None

    def run(self) -> None:
        """Returns when all are there."""
        wishes = [Wish(name) for name in self._missing()]
        while wishes:
            wish = min(wishes, key=lambda wish: wish.due)
            self._sleep(max(0.0, wish.due - time.monotonic()))
            if self._fulfil(wish):
                wishes.remove(wish)
        log.info("all models are there: %s", " ".join(self._names))

    def _missing(self) -> list[str]:
        """What Ollama lacks, as soon as it can be asked."""
        failures = 0
        while True:
            try:
                return missing_models(self._names, self._ollama.models())
            except PullFailed as error:
                failures += 1
                if failures == 1:
                    log.info("waiting for Ollama: %s", _shortened(error))
                self._sleep(min(pause_seconds(failures), _MAX_WAIT_FOR_OLLAMA_SECONDS))

    def _fulfil(self, wish: Wish) -> bool:
        """Try once; where it fails, say why and when it is tried again."""
        try:
            self._pull(wish.name)
        except PullFailed as error:
            wish.failures += 1
            pause = pause_seconds(wish.failures, is_lasting=error.is_lasting)
            wish.due = time.monotonic() + pause
            log.warning("%s: %s; trying again in %.0f s", wish.name, _shortened(error), pause)
            return False
        return True

    def _pull(self, name: str) -> None:
        log.info("%s: pulling", name)
        meter = Meter()
        try:
            with self._view(name) as show:
                for event in self._ollama.pull(name):
                    meter.feed(event)
                    show(meter)
                    self._tell(Progress(os.getpid(), name, meter.percent))
        finally:
            self._tell(None)
        log.info("%s: pulled", name)

    def _tell(self, progress: Progress | None) -> None:
        """Lets the gateway know, once for each percent."""
        if self._progress_file is None or progress == self._told:
            return
        self._told = progress
        with suppress(OSError):  # no room: pulling matters more than telling
            if progress:
                progress.write(self._progress_file)
            else:
                self._progress_file.unlink(missing_ok=True)


def _shortened(error: PullFailed) -> str:
    return readable(str(error))[:_MAX_ERROR_CHARACTERS]


def main() -> int:
    """Pulls; gives the exit code: 0 when all is there, 2 for wrong settings."""
    try:
        settings = load()
    except InvalidSettings:
        print("pull: the settings are wrong; the gateway names them", file=sys.stderr)
        return 2
    logs.set_up(settings.log_level, settings.log_format)
    if settings.pull_models:
        ollama = Ollama(settings.upstream_host, settings.upstream_port)
        view = bar if sys.stdout.isatty() else lines
        Puller(ollama, settings.pull_models, view, pull_progress_file()).run()
    return 0
