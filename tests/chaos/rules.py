"""Owns what holds in every failure of the store, one rule per test; test_store_faults.py has a class for each fault.

The two rules on delays compare with requests through the same gateway while its store was well, and take the best of
up to three trials, for the machine has other work, too. For the same reason the store may have been away before the
fault: its two lines then stand for those of the fault, and the rule on them needs a trial without that. All other
rules hold for each trial.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from tests.chaos.trial import REQUESTS, Trial

if TYPE_CHECKING:
    from tests.support.faults import Fault

ONSET_SECONDS = 0.3  # added at most while the gateway does not know yet
KNOWN_SECONDS = 0.05  # added at most from then on
STATUS_SECONDS = 0.25  # an answer about a task
SLACK_SECONDS = 0.1  # of one HTTP exchange on a busy machine
RETURN_SECONDS = 5.0
LOG_LINES = 10


def is_calm(trial: Trial) -> bool:
    """Whether no further trial is needed to tell the machine's noise from the gateway's delays."""
    is_quick = trial.onset_added_seconds <= ONSET_SECONDS and trial.known_added_seconds <= KNOWN_SECONDS
    return is_quick and trial.was_well


class StoreFaultRules:
    """The rules; `trials` is the fixture that lets the fault happen."""

    fault: ClassVar[type[Fault]]
    is_at_start: ClassVar[bool] = False

    def test_every_request_is_served(self, trials: list[Trial]) -> None:
        """200 of 200 requests are relayed whole from the fault's beginning on, and 200 of 200 once it is known."""
        for trial in trials:
            for round_ in (trial.onset, *trial.known):
                assert round_.failures == []
                assert len(round_.task_ids) == REQUESTS

    def test_the_first_requests_are_hardly_slower(self, trials: list[Trial]) -> None:
        """Before the fault is known it adds at most 300 ms to a request, at the 99th percentile."""
        assert min(trial.onset_added_seconds for trial in trials) <= ONSET_SECONDS

    def test_later_requests_are_as_fast_as_ever(self, trials: list[Trial]) -> None:
        """Once the fault is known it adds at most 50 ms to a request, at the 99th percentile."""
        assert min(trial.known_added_seconds for trial in trials) <= KNOWN_SECONDS

    def test_the_log_stays_short(self, trials: list[Trial]) -> None:
        """From the fault's beginning until it is over the gateway logs ten lines at most, not one per request."""
        for trial in trials:
            assert len(trial.log.splitlines()) <= LOG_LINES, trial.log

    def test_the_log_tells_once(self, trials: list[Trial]) -> None:
        """One line says that the store is away and one that it is back: its condition has changed twice, not more."""
        well = [trial for trial in trials if trial.was_well]
        assert well, "in each trial the store was away before the fault"
        for trial in well:
            assert trial.log.count("the store is away") == 1, trial.log
            assert trial.log.count("the store is back") == 1, trial.log

    def test_the_process_goes_on(self, trials: list[Trial]) -> None:
        """The process that served before the fault serves after it."""
        for trial in trials:
            assert trial.is_alive
            assert len(trial.boots) == 1

    def test_nothing_unforeseen_happens(self, trials: list[Trial]) -> None:
        """The log holds no traceback, and when the process is told to stop at last, it exits with 0."""
        for trial in trials:
            for trace in ("Traceback", "never retrieved"):
                assert trace not in trial.whole_log, trial.whole_log[-6000:]
            assert trial.exit_code == 0

    def test_own_tasks_are_answered(self, trials: list[Trial]) -> None:
        """A poll for a task of this gateway, running or ended during the fault, has its true state, and soon."""
        for trial in trials:
            for name, state in (("running", "RUNNING"), ("ended early", "SUCCESS"), ("ended late", "SUCCESS")):
                poll = trial.polls[name]
                assert (name, poll.answer.status_code) == (name, 200)
                assert (name, poll.answer.json()["state"]) == (name, state)
                assert poll.seconds <= STATUS_SECONDS + SLACK_SECONDS, name

    def test_no_list_contradicts_a_status(self, trials: list[Trial]) -> None:
        """A list is 503 with Retry-After meanwhile, or says of each task what the status route says."""
        assert [trial.contradictions for trial in trials] == [[]] * len(trials)

    def test_an_unknown_task_is_not_denied(self, trials: list[Trial]) -> None:
        """A poll for a task this gateway does not know gets 503 with Retry-After, never 404."""
        for trial in trials:
            answer = trial.polls["unknown"].answer
            assert answer.status_code == 503, answer.text
            assert int(answer.headers["Retry-After"]) > 0

    def test_an_unknown_task_is_answered_soon(self, trials: list[Trial]) -> None:
        """A poll for a task this gateway does not know waits no longer for the store than 250 ms."""
        assert min(trial.polls["unknown"].seconds for trial in trials) <= STATUS_SECONDS + SLACK_SECONDS

    def test_everything_is_written_afterwards(self, trials: list[Trial]) -> None:
        """Within 5 s of the fault's end the store has the true state of every task of that time."""
        for trial in trials:
            assert trial.missing == {}
            assert trial.return_seconds <= RETURN_SECONDS

    def test_readers_may_rely_on_the_store_again(self, trials: list[Trial]) -> None:
        """A stream that outlives the fault is SUCCESS in the store when its client has its end."""
        assert [trial.end_state for trial in trials] == ["SUCCESS"] * len(trials)
