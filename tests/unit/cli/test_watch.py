"""How often the terminal asks while it watches: one question after the other, with what it knows, and never busily."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from gateway.cli import AWAY, DONE, NOT_ENDED, main
from gateway.cli.client import Client
from gateway.cli.watch import Pace, follow
from gateway.tasks.stages import Stage
from tests.support.forged import document

if TYPE_CHECKING:
    from collections.abc import Callable

    from gateway.cli.client import Page

QUEUED, RUNNING, ENDED = (document("one", stage) for stage in (Stage.QUEUED, Stage.STREAMING, Stage.DONE))


def waiting(position: int) -> dict[str, Any]:
    """A task in the queue. Its event does not tell its position."""
    return QUEUED | {"extensions": QUEUED["extensions"] | {"queue_position": position, "queue_length": 9}}


class Gateway:
    """Stands for the HTTP client of a command: answers one question after the other, on a clock of its own.

    An answer is how long it takes, and its content: None is 304.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 100.0
        self.answers: list[tuple[float, dict[str, Any] | None]] = []
        self.asked: list[tuple[float, str, str]] = []  # when, `wait`, the event in If-None-Match
        monkeypatch.setattr(time, "monotonic", lambda: self.now)
        monkeypatch.setattr(time, "sleep", self.sleep)
        monkeypatch.setattr(httpx.Client, "request", self.request)

    def sleep(self, seconds: float) -> None:
        """A pause of the command."""
        assert seconds > 0
        self.now += seconds

    def request(
        self, _: str, __: str, *, params: dict[str, str], headers: dict[str, str], **___: Any
    ) -> httpx.Response:
        """The next answer; the last one again and again."""
        known = headers.get("If-None-Match", "")
        self.asked.append((self.now - 100, params.get("wait", ""), known.strip('"')))
        seconds, content = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        self.now += seconds
        if content is None:
            return httpx.Response(304)
        return httpx.Response(200, json=content, headers={"ETag": '"a-page"'})

    @property
    def times(self) -> list[float]:
        """When the questions were asked."""
        return [at for at, _, _ in self.asked]


@pytest.fixture
def gateway(monkeypatch: pytest.MonkeyPatch) -> Gateway:
    """The gateway that a command asks."""
    return Gateway(monkeypatch)


def test_a_question_waits_for_another_event(gateway: Gateway) -> None:
    """Each question after the first names the known event and waits; after a full wait the next one follows at once."""
    gateway.answers = [(0.0, RUNNING), (30.0, None), (12.0, None), (7.0, ENDED)]
    assert main(["status", "one", "--wait"]) == DONE
    known = RUNNING["event_id"]
    assert gateway.asked == [(at, wait, known if wait else "") for at, wait in
                             [(0, ""), (0, "30.000"), (30, "30.000"), (42, "30.000")]]  # fmt: skip


def test_news_are_followed_at_once(gateway: Gateway) -> None:
    """A short task costs no pause: its end is known when it comes."""
    forwarding = document("one", Stage.FORWARDING)
    gateway.answers = [(0.0, QUEUED), (0.1, forwarding), (0.1, RUNNING), (0.1, ENDED)]
    assert main(["status", "one", "--wait"]) == DONE
    assert gateway.now == pytest.approx(100.3)


@pytest.mark.parametrize("answer", [None, RUNNING])
def test_an_answer_before_its_time_is_followed_by_a_pause(gateway: Gateway, answer: dict[str, Any] | None) -> None:
    """If too many clients wait, the gateway answers at once: 304, or the known event. Then questions are 2 s apart."""
    gateway.answers = [(0.0, RUNNING), (0.1, answer)]
    assert main(["status", "one", "--wait", "19"]) == NOT_ENDED
    assert gateway.times == pytest.approx([0, 0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 19])


def test_a_waiting_task_is_asked_for_every_two_seconds(gateway: Gateway) -> None:
    """Its position is no event, so the question names none and waits for two seconds; also if the answer is early."""
    gateway.answers = [(0.0, waiting(3)), (2.0, waiting(2)), (0.1, waiting(2)), (0.1, waiting(1)), (0.5, ENDED)]
    assert main(["status", "one", "--wait"]) == DONE
    assert gateway.asked == [(0, "", ""), (0, "2.000", ""), (2, "2.000", ""), (4, "2.000", ""), (6, "2.000", "")]


def test_news_again_and_again_do_not_make_it_busy(gateway: Gateway) -> None:
    """Where each answer comes at once with another event, a few questions follow at once, then one every 2 s."""
    gateway.answers = [(0.0, RUNNING | {"event_id": f"{number}"}) for number in range(99)]
    assert main(["status", "one", "--wait", "20"]) == NOT_ENDED
    assert len(gateway.asked) == 15
    assert gateway.times[5:] == [2.0 * number for number in range(1, 11)]


def test_the_last_question_comes_at_the_end_of_the_time(gateway: Gateway) -> None:
    """A pause that reaches the end of `--wait` is followed by one question more: the task may have ended meanwhile."""
    gateway.answers = [(0.0, RUNNING), (0.0, None), (0.0, ENDED)]
    assert main(["status", "one", "--wait", "1"]) == DONE
    assert gateway.asked[-1] == (1.0, "", RUNNING["event_id"])


def test_304_to_a_question_that_knows_nothing_is_no_answer(
    gateway: Gateway, capsys: pytest.CaptureFixture[str]
) -> None:
    """A server that answers so is no gateway: 5, in words."""
    gateway.answers = [(0.0, None)]
    assert main(["status", "one", "--wait"]) == AWAY
    assert "answers 304" in capsys.readouterr().err


def test_a_long_wait_lets_questions_follow_at_once_again() -> None:
    """The count of questions at once begins anew when an answer took its time."""
    pace = Pace()
    pauses = [pace.pause_seconds(took, is_new=True) for took in (0.0, 0.0, 0.0, 0.5, 1.5, 2.0, 0.0, 0.0, 0.0, 0.0)]
    assert pauses == [0.0, 0.0, 0.0, 1.5, 0.5, 0.0, 0.0, 0.0, 0.0, 2.0]


class Shown:
    """Takes the pages of a watched list, and ends the watching after a number of them."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.pages: list[tuple[list[str], str]] = []

    def __enter__(self) -> None:
        pass

    def __exit__(self, *error: object) -> None:
        pass

    def show(self, page: Page, trouble: str) -> None:
        """The next page."""
        self.pages.append(([task["state"] for task in page.tasks], trouble))
        if len(self.pages) == self.most:
            raise KeyboardInterrupt


def test_the_list_is_asked_for_with_what_is_known(gateway: Gateway) -> None:
    """304 keeps the page. Questions are at least two seconds apart, also from answers that take long."""
    page: Callable[..., dict[str, Any]] = lambda *items: {"items": list(items), "count": len(items)}  # noqa: E731
    gateway.answers = [(0.0, page(RUNNING)), (0.0, None), (3.0, None), (0.0, page(ENDED)), (0.0, None)]
    shown = Shown(5)
    with Client("http://gateway.test", None) as client, pytest.raises(KeyboardInterrupt):
        follow(client, 5, {}, shown)
    assert shown.pages == [(["RUNNING"], "")] * 3 + [(["SUCCESS"], "")] * 2
    assert gateway.asked == [(0, "", ""), (2, "", "a-page"), (4, "", "a-page"), (9, "", "a-page"), (11, "", "a-page")]
