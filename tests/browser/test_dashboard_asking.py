"""How the page asks: with what it knows, one question at a time, and never faster than the answers come."""

from __future__ import annotations

import time
from functools import partial
from itertools import cycle, pairwise
from typing import TYPE_CHECKING, Any

import pytest
from playwright.async_api import expect

from gateway.tasks.stages import Stage
from tests.browser.test_dashboard_page import RECORD, SEEN, turn
from tests.support.forged import document, lost_document
from tests.support.scripted import EVENTS
from tests.support.waiting import GUARD_SECONDS, until

if TYPE_CHECKING:
    from playwright.async_api import Request, Route

    from tests.browser.watched import Watched
    from tests.support.gateway import Gateway
    from tests.support.scripted import Upstream

CHAT = "/v1/chat/completions"
DONE_EVENT = b"data: [DONE]\n\n"
# How many questions with `wait` are in the air, and how many there were at most.
AIR = """
window.air = { now: 0, most: 0 };
const fetched = window.fetch;
window.fetch = async (path, options) => {
  if (!path.includes("?wait=")) return fetched(path, options);
  air.most = Math.max(air.most, (air.now += 1));
  try { return await fetched(path, options); } finally { air.now -= 1; }
};
"""


async def start(gateway: Gateway, task_id: str) -> None:
    """Send a request and leave its answer unread."""
    await gateway.send("POST", CHAT, (b"X-Task-Id", task_id.encode()), body=b"{}")
    await gateway.at(task_id, "forwarding")


def questions(page: Watched, task_id: str) -> list[Request]:
    """The requests that wait for another event of a task."""
    return [request for request in page.asked(f"/tasks/status/{task_id}") if "?wait=" in request.url]


async def air(page: Watched, number: int) -> None:
    """Wait until so many questions are in the air; there was never more than one."""

    async def found() -> bool:
        assert await page.evaluate("air.most") <= 1
        return bool(await page.evaluate("air.now") == number)

    await until(found, what=f"{number} questions are in the air")


async def test_304_keeps_the_page(page: Watched, beating: Gateway, fresh_id: str) -> None:
    """The browser hands a 304 to the script, and what is shown stays."""
    await beating.ask("POST", "/v1/embeddings", (b"X-Task-Id", fresh_id.encode()), body=b"{}")
    await page.open()
    await expect(page.row("recent", fresh_id)).to_contain_text("SUCCESS")

    async def unchanged() -> bool:
        answers = [await request.response() for request in page.asked("/tasks/status")[:-1]]
        return sum(answer is not None and answer.status == 304 for answer in answers) >= 3

    await until(unchanged, what="three lists are unchanged")
    await expect(page.row("recent", fresh_id)).to_contain_text("SUCCESS")
    await page.shows("#problems", "All is well.")


async def test_an_open_task_is_one_question_in_the_air(
    page: Watched, beating: Gateway, upstream: Upstream, fresh_id: str
) -> None:
    """It names the known event, ends when the view closes or the tab is hidden, and comes again with the tab."""
    upstream.gated()
    await start(beating, fresh_id)
    await page.page.add_init_script(AIR)
    await page.open()
    await page.shows("#in-flight", fresh_id)
    for _ in range(3):
        await page.go(fresh_id)
        await page.shows("#task-id", fresh_id)
        await air(page, 1)
        await page.page.keyboard.press("Escape")
        await air(page, 0)
    await page.go(fresh_id)
    await air(page, 1)
    await page.evaluate(SEEN, False)
    await air(page, 0)
    await page.evaluate(SEEN, True)
    await air(page, 1)
    event = (await beating.status(fresh_id))["event_id"]
    asked = questions(page, fresh_id)
    assert len(asked) == 5
    assert {(await request.all_headers())["if-none-match"] for request in asked} == {f'"{event}"'}
    await page.shoot("detail-running")


async def test_an_ended_task_is_asked_for_no_more(
    page: Watched, beating: Gateway, upstream: Upstream, fresh_id: str
) -> None:
    """With its end the view shows it, and from then on the page asks only for the gateway's condition."""
    gated = upstream.gated(EVENTS)
    await start(beating, fresh_id)
    await page.page.add_init_script(AIR)
    await page.open()
    await page.go(fresh_id)
    await page.shows("#task-fields", "RUNNING, forwarding")
    gated.head()
    await page.shows("#task-fields", "RUNNING, streaming")
    gated.piece(DONE_EVENT)
    gated.end()
    await page.shows("#task-fields", "SUCCESS, done")
    await air(page, 0)
    await page.shoot("detail-ended")
    before, conditions = len(page.asked("/tasks/")), len(page.asked("/readyz"))
    await until(lambda: len(page.asked("/readyz")) >= conditions + 3, what="the condition is requested")
    assert len(page.asked("/tasks/")) == before


async def test_the_task_that_was_opened_last_is_shown(
    page: Watched, beating: Gateway, upstream: Upstream, fresh_id: str
) -> None:
    """A slow answer about an earlier task is not waited for, and takes no place."""
    upstream.gated()
    await start(beating, fresh_id)
    await page.page.route("**/tasks/status/slow", lambda route: None)  # never answered
    await page.open("/", "net::ERR_ABORTED")
    await page.go("slow")
    await until(lambda: page.asked("/tasks/status/slow"), what="the slow one is requested")
    await page.go(fresh_id)
    await page.shows("#task-id", fresh_id)
    (slow,) = page.asked("/tasks/status/slow")
    await until(lambda: slow.failure is not None, what="the page gave it up")
    await expect(page["#task-problem"]).to_have_text("")


async def served(route: Route, task: dict[str, Any], kind: str) -> None:
    """Answers a question about a task at once: a gateway where too many clients wait, or another server."""
    tag = {"ETag": f'"{task["event_id"]}"'}
    if "?wait=" not in route.request.url or kind == "known":
        await route.fulfill(status=200, json=task, headers=tag)
    elif kind == "304":
        await route.fulfill(status=304, headers=tag)
    else:
        event = f"event-{time.monotonic_ns()}"
        await route.fulfill(status=200, json=task | {"event_id": event}, headers={"ETag": f'"{event}"'})


@pytest.mark.parametrize("is_presumed", [False, True])
@pytest.mark.parametrize(("kind", "at_once"), [("304", 0), ("known", 0), ("news", 3)])
async def test_answers_before_their_time_do_not_make_it_busy(
    page: Watched, upstream: Upstream, kind: str, at_once: int, is_presumed: bool
) -> None:
    """Without news, questions are two seconds apart; news are followed by a question at once a few times only."""
    now_ms = int(time.time() * 1000)
    found = lost_document("one", is_presumed=True) if is_presumed else document("one", Stage.STREAMING)
    found["extensions"]["created_ms"] = now_ms
    await page.stop_clock()
    await page.page.add_init_script(RECORD)
    await page.page.route("**/tasks/status/one*", partial(served, task=found, kind=kind))
    await page.open(turns_clock=True)
    await page.go("one")
    await page.shows("#task-id", "one")
    times = await question_times(page, "/tasks/status/one?wait=", at_once + 6)
    waits = [later - earlier for earlier, later in pairwise(times)]
    assert max(waits[:at_once], default=0) < 1990
    assert 1990 <= min(waits[at_once:]) <= max(waits[at_once:]) < 4000  # the page's clocks are rounded


async def question_times(page: Watched, path: str, number: int) -> list[int]:
    """When the page asked, in milliseconds of its clock, which is turned on until there are so many questions."""

    async def enough() -> list[int]:
        await turn(page, 250)
        asked: list[list[Any]] = await page.evaluate("window.asked")
        times = [at for asked_path, at in asked if asked_path.startswith(path)]
        return times if len(times) >= number else []

    times: list[int] = await until(enough, 2 * GUARD_SECONDS, f"the page asks for {path}")
    return times


async def test_an_answer_that_is_cut_off_is_not_remembered(page: Watched, beating: Gateway, fresh_id: str) -> None:
    """Its ETag is not sent again, or the page would stay without that list until the next change."""
    await beating.ask("POST", "/v1/embeddings", (b"X-Task-Id", fresh_id.encode()), body=b"{}")

    async def cut(route: Route) -> None:
        etag = (await route.fetch()).headers["etag"]
        await route.fulfill(status=200, body='{"items":[{"task', headers={"ETag": etag})

    await page.page.route("**/tasks/status?*", cut, times=1)
    await page.open()
    await expect(page.row("recent", fresh_id)).to_contain_text("SUCCESS")
    await page.shows("#problems", "All is well.")
    for request in page.asked("/tasks/status")[:2]:
        assert "if-none-match" not in await request.all_headers()


async def test_gateways_that_differ_do_not_make_it_busy(page: Watched, beating: Gateway) -> None:
    """Behind a balancer each answer can be another gateway's, in another condition. The page keeps its intervals."""
    ready = (await beating.http.get("/readyz")).json()
    conditions = cycle(["up", "down"])

    async def other(route: Route) -> None:
        await route.fulfill(json=ready | {"upstream": next(conditions)})

    await page.stop_clock()
    await page.page.add_init_script(RECORD)
    await page.page.route("**/readyz", other)
    await page.open(turns_clock=True)
    times = await question_times(page, "/readyz", 5)
    assert min(later - earlier for earlier, later in pairwise(times)) >= 4990
