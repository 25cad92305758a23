"""Metrics count right, with labels from closed sets."""

from __future__ import annotations

import re
from itertools import pairwise
from typing import TYPE_CHECKING

import pytest

from gateway import errors
from gateway.kept.head import End
from gateway.metrics import counts
from gateway.metrics.counts import FAMILIES, SIZE, Counts
from gateway.metrics.exposition import Metrics, ModelMemory
from gateway.metrics.text import MAX_MODELS
from gateway.store.memory import MemoryStore
from gateway.tasks.stages import Stage
from gateway.tasks.task import Kept, Reason, Task
from gateway.tracking.tracker import Tracker
from tests.support.exposition import Scrape
from tests.support.keeping import keeping_of
from tests.support.process import ROOT

if TYPE_CHECKING:
    from collections.abc import Sequence

CHAT = "/v1/chat/completions"


class Owned:
    """An exchange that does nothing when its answer is dropped."""

    def on_dropped(self, why: Kept) -> None:
        """The answer is kept no longer."""


def tracker_of(row: Counts, store: MemoryStore | None = None) -> Tracker:
    """A tracker that counts in this row."""
    return Tracker(
        store or MemoryStore(),
        algorithm_id="a",
        instance="i",
        boot="b",
        ttl_running_seconds=60,
        ttl_done_seconds=60,
        heartbeat_seconds=10,
        counts=row,
    )


def ended(
    path: str = CHAT, method: str = "POST", status: int | None = 200, reason: Reason | None = None, end_ms: int = 1_040
) -> Task:
    """A task that was created at 1,000 ms and ended at `end_ms`."""
    task = Task("a", method, path, "", 1_000)
    task.forward(min(1_002, end_ms))
    if status is not None:
        task.answer(status, False, min(1_030, end_ms))
    task.finish(reason, "", end_ms)
    return task


def scraped(
    row: Counts, accept: str = "", models: Sequence[ModelMemory] = (), has_store: bool = True, has_gpu: bool = True
) -> Scrape:
    """What a scrape of this row says."""
    tracker = tracker_of(row)
    metrics = Metrics(row, tracker, None, keeping_of(tracker), has_store=has_store, has_gpu=has_gpu)
    text, content_type = metrics.render(accept, is_upstream_up=True, models=models)
    return Scrape(text.decode(), content_type)


@pytest.mark.parametrize(("end_ms", "bound"), [(1_005, "0.005"), (1_006, "0.01"), (61_000, "60"), (61_001, "120"),
                                               (1_801_000, "1800"), (9_999_999, "+Inf")])  # fmt: skip
async def test_a_time_counts_in_every_bucket_from_its_own_on(end_ms: int, bound: str) -> None:
    """A duration is in the first bucket that is not below it, and in all above."""
    row = Counts()
    row.ended(ended(end_ms=end_ms))
    buckets = [sample for sample in scraped(row).families["ollama_gateway_request_duration_seconds"].samples
               if sample.name.endswith("_bucket")]  # fmt: skip
    assert [float(sample.labels["le"]) for sample in buckets if sample.value == 0] == [
        number for number in counts.LONG if number < float(bound)
    ]


async def test_sums_and_counts_go_with_the_buckets() -> None:
    """A histogram's count is its last bucket, its sum what was observed."""
    row = Counts()
    for end_ms in (1_500, 2_000):
        row.ended(ended(end_ms=end_ms))
    seen = scraped(row)
    name, path = "request_duration_seconds", "chat_completions"
    assert seen(f"{name}_count", path=path) == seen(f"{name}_bucket", path=path, le="+Inf") == 2
    assert seen(f"{name}_sum", path=path) == 1.5
    assert seen("first_byte_seconds_sum", path=path) == pytest.approx(0.06)
    assert seen("handover_seconds_sum") == pytest.approx(0.004)


def test_buckets_rise_up_to_thirty_minutes() -> None:
    """Times are told apart from milliseconds to half an hour."""
    assert counts.LONG[-1] == 1800
    for family in FAMILIES:
        assert all(low < high for low, high in pairwise(family.buckets)), family.name


async def test_a_clock_set_back_makes_nothing_negative() -> None:
    """A task that ended before it began took no time."""
    row = Counts()
    row.ended(ended(end_ms=500))
    assert scraped(row)("request_duration_seconds_sum", path="chat_completions") == 0


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/v1/chat/completions", "chat_completions"),
        ("/v1/completions", "completions"),
        ("/v1/responses", "responses"),
        ("/v1/embeddings", "embeddings"),
        ("/v1/messages", "messages"),
        ("/v1/models", "models"),
        ("/v1/models/qwen3:0.6b", "models"),
        ("/v1/audio/transcriptions", "other"),
        ("/v1/chat%2Fcompletions", "other"),
        ("/v1/modelsque", "other"),
        ("/v1/", "other"),
    ],
)
async def test_paths_count_by_class(path: str, name: str) -> None:
    """The known paths have a label each, all others share one."""
    row = Counts()
    row.ended(ended(path))
    assert scraped(row).series("requests_total") == {("POST", name, "2xx"): 1}


@pytest.mark.parametrize(
    ("status", "name"), [(200, "2xx"), (204, "2xx"), (304, "3xx"), (499, "4xx"), (503, "5xx"), (None, "none"),
                         (0, "none"), (999, "none")]
)  # fmt: skip
async def test_statuses_count_by_class(status: int | None, name: str) -> None:
    """A status counts by its first digit; none, or one of no class, is a class too."""
    row = Counts()
    row.ended(ended(status=status))
    assert scraped(row).series("requests_total") == {("POST", "chat_completions", name): 1}


async def test_hostile_requests_do_not_make_the_series_grow() -> None:
    """A thousand unknown methods and paths make no more series than one does."""
    row = Counts()
    row.ended(ended("/v1/x", "X"))
    few = scraped(row)
    for number in range(1000):
        row.ended(ended(f'/v1/{number}"}}\n\\{{', f"M{number}", 200))
    many = scraped(row)
    assert many.samples.keys() == few.samples.keys()
    assert many.series("requests_total") == {("other", "other", "2xx"): 1001}


@pytest.mark.parametrize("reason", [None, *(reason for reason in Reason if reason is not Reason.LOST)])
async def test_every_end_counts_by_state_and_reason(reason: Reason | None) -> None:
    """SUCCESS has no reason, FAILED has each of them."""
    row = Counts()
    row.ended(ended(reason=reason))
    assert scraped(row).series("tasks_total") == {(reason or "", "SUCCESS" if reason is None else "FAILED"): 1}


async def test_what_was_found_lost_counts() -> None:
    """A task of another gateway counts at the gateway that made it lost."""
    row = Counts()
    store = MemoryStore()
    store.lost = 2
    tracker = tracker_of(row, store)
    metrics = Metrics(row, tracker, None, keeping_of(tracker), has_store=True, has_gpu=False)
    text, _ = metrics.render("", is_upstream_up=True, models=())
    assert Scrape(text.decode()).series("tasks_total") == {("lost", "FAILED"): 2}


def test_every_code_of_ours_can_be_counted() -> None:
    """Every GatewayError that refuses a request has a counter; so have the server's own refusals."""
    row = Counts()
    kinds = [errors.GatewayError]
    for kind in kinds:
        kinds += kind.__subclasses__()
        row.refused(kind.code)
    for status in (400, 408, 431, 501, 505, 418):
        row.refused_by_server(status)
    assert sum(row.row[counts.REFUSED.start : counts.REFUSED.end]) == len(kinds) + 6


async def test_models_are_bounded_and_their_names_are_only_text() -> None:
    """At most 32 models are shown, the largest; a name cannot break out of its label."""
    names = ['a"} 1\nollama_gateway_store_up 7 #\\', *(f"m{number}" for number in range(40)), "n" * 5000]
    models = [ModelMemory(name, 10_000 - at, at) for at, name in enumerate(names)]
    seen = scraped(Counts(), models=models).series("model_memory_bytes")
    assert list(seen) == [(name,) for name in names[:MAX_MODELS]]
    long = scraped(Counts(), models=[models[-1]]).series("model_memory_bytes")
    assert [len(name) for (name,) in long] == [200]


async def test_openmetrics_where_it_is_asked_for() -> None:
    """`Accept` chooses between the two formats, and whatever else it says changes nothing."""
    asked = "application/openmetrics-text;version=1.0.0;q=0.75,text/plain;version=0.0.4;q=0.5,*/*;q=0.1"
    assert scraped(Counts(), asked).text.endswith("# EOF\n")
    for other in ("", "*/*", "text/plain", "application/json; version=\r\nx: y"):
        assert "# EOF" not in scraped(Counts(), other).text


async def test_the_stores_metrics_need_a_store() -> None:
    """Without a store configured there are no metrics of one."""
    assert any("_store_" in name for name in scraped(Counts()).families)
    assert not any("_store_" in name for name in scraped(Counts(), has_store=False).families)


async def test_without_a_gpu_nothing_is_said_of_it() -> None:
    """A gateway that had no GPU at its start, and requires none, has no metrics of one."""
    assert not any("_gpu_" in name for name in scraped(Counts(), has_gpu=False).families)


async def test_the_tasks_in_flight_count_by_stage() -> None:
    """A task in flight is shown with its stage, and no longer once it has ended."""
    row = Counts()
    tracker = tracker_of(row)
    metrics = Metrics(row, tracker, None, keeping_of(tracker), has_store=True, has_gpu=False)
    tasks = [tracker.begin(None, "POST", CHAT, "") for _ in range(3)]
    tracker.forward(tasks[0])
    tracker.forward(tasks[1])
    tracker.answer(tasks[1], 200, is_stream=True)

    def in_flight() -> dict[tuple[str, ...], float]:
        return Scrape(metrics.render("", is_upstream_up=True, models=())[0].decode()).series("tasks_in_flight")

    assert in_flight() == {(Stage.QUEUED,): 1, (Stage.FORWARDING,): 1, (Stage.STREAMING,): 1}
    for task in tasks:
        tracker.finish(task, None, "")
    assert in_flight() == {}


async def test_kept_answers_count_by_what_became_of_them() -> None:
    """Each has its series."""
    row = Counts()
    row.kept(Kept.KEPT)
    row.kept(Kept.NO_ROOM)
    row.kept(Kept.NO_ROOM)
    counted = scraped(row).series("kept_answers_total")
    assert counted == {("kept",): 1, ("no_room",): 2}


async def test_what_is_held_of_kept_answers_is_shown_as_it_is_now() -> None:
    """The bytes in memory, and the tasks that run without their client, until they end."""
    row = Counts()
    tracker = tracker_of(row)
    keeping = keeping_of(tracker)
    metrics = Metrics(row, tracker, None, keeping, has_store=False, has_gpu=False)

    def shown() -> tuple[float, float]:
        scrape = Scrape(metrics.render("", is_upstream_up=True, models=())[0].decode())
        return scrape("kept_bytes"), scrape("detached_tasks")

    assert shown() == (0, 0)
    task = tracker.begin(None, "POST", CHAT, "")
    answer = keeping.begin(task, Owned())
    answer.granted()
    answer.add(b"12345")
    assert shown() == (5, 0)
    keeping.tasks.detach(task)
    assert shown() == (5, 1)
    answer.end(End.WHOLE)
    tracker.finish(task, None, "")
    assert shown() == (5, 0)
    answer.drop(Kept.DELETED)
    assert shown() == (0, 0)


def test_each_number_has_one_place() -> None:
    """The families lie one after another in the row, without a gap, under different names."""
    assert [family.start for family in FAMILIES] == [0, *(family.end for family in FAMILIES[:-1])]
    assert FAMILIES[-1].end == SIZE
    assert len({family.name for family in FAMILIES}) == len(FAMILIES)


# -- the page --


async def test_the_page_lists_the_metrics_that_there_are() -> None:
    """docs/metrics.md has every metric once, with its type, and no other."""
    page = (ROOT / "docs" / "metrics.md").read_text()
    rows = re.findall(r"^\| `((?:ollama_gateway|process)_\w+)` \| (\w+) \|", page, re.MULTILINE)
    there = [
        (name + "_total" if family.type == "counter" else name, family.type)
        for name, family in scraped(Counts()).families.items()
    ]
    assert sorted(rows) == sorted(there)


async def test_the_page_lists_the_labels_that_there_are() -> None:
    """docs/metrics.md names every value of path, method and status."""
    page = (ROOT / "docs" / "metrics.md").read_text()
    for label, values in (("path", counts.PATHS), ("method", counts.METHODS), ("status", counts.STATUSES)):
        (cell,) = re.findall(rf"^\| `{label}` \| (.*) \|$", page, re.MULTILINE)
        assert set(re.findall(r"`(\w+)`", cell)) == set(values)
