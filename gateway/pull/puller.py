"""`python -m gateway.pull`: pulls the models of OLLAMA_PULL_MODELS that Ollama lacks, and ends when Ollama has all.

A model that fails is retried. It does not end the program, delay other models, or affect the gateway. The program must
not start or stop anything. supervisord starts it once, beside the gateway. The gateway reads the progress from a file.
On a terminal the program shows a progress bar. It connects only to Ollama, and uses no proxy.
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
_SILENCE_SECONDS = 1800.0  # Ollama sends nothing while it verifies a model, for minutes if the model is large
_MAX_ANSWER_BYTES = 4_194_304
_MAX_ERROR_CHARACTERS = 300
# Parts of the registry's errors for an unknown name, and for a model that needs a newer Ollama.
_LASTING_ERRORS = ("file does not exist", "newer version of Ollama")


class PullFailed(Exception):
    """Ollama does not answer, or answers with an error. The message is Ollama's reason, or ours."""

    @property
    def is_lasting(self) -> bool:
        """Whether a retry soon would fail again."""
        return any(words in str(self) for words in _LASTING_ERRORS)


class NoOllama(PullFailed):
    """The server has no `/api/tags`, so it is no Ollama and can pull nothing."""


class Ollama:
    """Sends the two requests of this program to Ollama. Raises PullFailed for every failure."""

    def __init__(self, host: str, port: int) -> None:
        self._host = host
        self._port = port

    def models(self) -> list[str]:
        """The names of the models that Ollama has."""
        with self._asked("GET", "/api/tags", None, _LIST_TIMEOUT_SECONDS) as answer:
            if answer.status == 404:
                raise NoOllama(
                    f"the server at {self._host}:{self._port} has no /api/tags (404): it is no Ollama and cannot pull; "
                    "without OLLAMA_PULL_MODELS it is not asked"
                )
            if answer.status != 200:
                raise PullFailed(f"/api/tags answers {answer.status}")
            return listed_models(answer.read(_MAX_ANSWER_BYTES))

    def pull(self, name: str) -> Iterator[dict[str, Any]]:
        """Pulls a model. Yields each message of `/api/pull`, up to the success."""
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
        except (OSError, HTTPException, ValueError) as error:  # ValueError: malformed JSON
            raise PullFailed(f"{type(error).__name__}: {error}") from error
        finally:
            connection.close()


def _event(line: bytes) -> dict[str, Any]:
    event = json.loads(line)
    if not isinstance(event, dict):
        raise ValueError("not a message of /api/pull")
    return event


class Meter:
    """Adds up the progress of one model over its layers. Ollama reports a layer only once it pulls it."""

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
        """0 to 100; None while no size is known."""
        return 100 * self.completed_bytes // self.total_bytes if self.total_bytes else None


Show = Callable[[Meter], None]


@contextmanager
def lines(name: str) -> Iterator[Show]:
    """Logs progress: at once when a size is known, then every few seconds."""
    last = float("-inf")

    def show(meter: Meter) -> None:
        nonlocal last
        if meter.percent is not None and time.monotonic() - last >= _LINE_EVERY_SECONDS:
            last = time.monotonic()
            log.info("%s: %d %% of %.1f MB", name, meter.percent, meter.total_bytes / 1e6)

    yield show


@contextmanager
def bar(name: str) -> Iterator[Show]:
    """Shows progress as a bar on a terminal."""
    from rich import progress  # imported only here, because under supervisord there is no terminal

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
class _Pending:
    """A model that Ollama lacks. `due` is the time of the next attempt, in seconds of the monotonic clock."""

    name: str
    failures: int = 0
    due: float = 0.0


def pause_seconds(failures: int, *, is_lasting: bool = False) -> float:
    """The pause after `failures` failures in a row: doubles up to a minute; an hour for a lasting failure."""
    return _RARE_PAUSE_SECONDS if is_lasting else min(_MAX_PAUSE_SECONDS, 2.0 ** min(failures - 1, 16))


class Puller:
    """Pulls one model after another. A model that fails waits for its next attempt, behind the others."""

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
        self._reported: Progress | None = None

    def run(self) -> None:
        """Pulls all models. Returns when Ollama has them."""
        pending = [_Pending(name) for name in self._missing()]
        while pending:
            model = min(pending, key=lambda model: model.due)
            self._sleep(max(0.0, model.due - time.monotonic()))
            if self._try(model):
                pending.remove(model)
        log.info("all models are there: %s", " ".join(self._names))

    def _missing(self) -> list[str]:
        """The models that Ollama lacks. Waits until Ollama answers.

        Also waits for a server that is no Ollama, because a proxy may be there before its Ollama. Logs that once.
        """
        failures, said = 0, set[type[PullFailed]]()
        while True:
            try:
                return missing_models(self._names, self._ollama.models())
            except PullFailed as error:
                failures += 1
                if type(error) not in said:
                    said.add(type(error))
                    _say_waiting(error)
                self._sleep(min(pause_seconds(failures), _MAX_WAIT_FOR_OLLAMA_SECONDS))

    def _try(self, model: _Pending) -> bool:
        """Tries once. If that fails, logs the reason and the time of the next attempt, and returns False."""
        try:
            self._pull(model.name)
        except PullFailed as error:
            model.failures += 1
            pause = pause_seconds(model.failures, is_lasting=error.is_lasting)
            model.due = time.monotonic() + pause
            log.warning("%s: %s; trying again in %.0f s", model.name, _shortened(error), pause)
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
                    self._report(Progress(os.getpid(), name, meter.percent))
        finally:
            self._report(None)
        log.info("%s: pulled", name)

    def _report(self, progress: Progress | None) -> None:
        """Writes the progress file for the gateway, once for each percent; removes it for None."""
        if self._progress_file is None or progress == self._reported:
            return
        self._reported = progress
        with suppress(OSError):  # for example a full disk: pulling matters more than reporting
            if progress:
                progress.write(self._progress_file)
            else:
                self._progress_file.unlink(missing_ok=True)


def _say_waiting(error: PullFailed) -> None:
    if isinstance(error, NoOllama):
        log.warning("%s", _shortened(error))
    else:
        log.info("waiting for Ollama: %s", _shortened(error))


def _shortened(error: PullFailed) -> str:
    return readable(str(error))[:_MAX_ERROR_CHARACTERS]


def main() -> int:
    """Pulls all models. Returns the exit code: 0 if Ollama has them, 2 for wrong settings."""
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
