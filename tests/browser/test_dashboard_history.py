"""Which lists the dashboard asks for and what it makes of them, in gateway/dashboard/history.js, with made-up pages."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tests.browser.watched import Watched


# A gateway with `total` tasks, `perTurn` of which come before each list; the page asks `turns` times.
SIMULATE = """
async ({ total, perTurn, turns, running, windowMs }) => {
  const { History } = await import("/dashboard/history.js");
  const history = new History();
  const start = 1_800_000_000_000;
  const all = [];
  let now = start;
  const make = () => {
    const number = all.length;
    const state = running.includes(number) ? "RUNNING" : "SUCCESS";
    const stage = state === "RUNNING" ? "streaming" : "done";
    const extensions = { attempt: 1, created_ms: now - Math.max(total - number, 0) * 10 };
    all.push({ task_id: `t${number}`, state, stage, timestamp: now / 1000, extensions });
  };
  while (all.length < total) make();
  const kinds = [];
  for (let turn = 0; turn < turns; turn += 1) {
    now += 2000;
    for (let more = 0; more < perTurn; more += 1) make();
    const sinceMs = now - windowMs;
    const list = history.nextList(now, { sinceMs });
    const { kind, name, path } = list;
    const query = new URLSearchParams(path.split("?")[1]);
    const state = query.get("state");
    const end = query.get("cursor") ? Number(query.get("cursor")) : all.length;
    const found = all.slice(0, end).filter((task) => !state || task.state === state).reverse();
    const items = found.slice(0, Number(query.get("limit")));
    const last = items.length < found.length ? String(all.indexOf(items.at(-1))) : null;
    history.take(list, { items, next_cursor: last }, now);
    kinds.push(name);
  }
  const known = history.since(now - windowMs).length;
  const gap = history.gapBefore(now - windowMs);
  const walking = history.isWalking(now - windowMs);
  return { kinds, known, all: all.length, gap, walking, inFlight: history.inFlight.length };
}
"""


async def simulate(page: Watched, **given: Any) -> dict[str, Any]:
    """What the page knows after so many turns."""
    await page.open()
    found: dict[str, Any] = await page.evaluate(SIMULATE, {"perTurn": 0, "running": [], "windowMs": 900_000, **given})
    return found


async def test_few_tasks_take_one_list(page: Watched) -> None:
    """Where one page holds all tasks, no other list is asked for."""
    found = await simulate(page, total=50, turns=6, running=[3])
    assert set(found["kinds"]) == {"newest"}
    assert (found["known"], found["inFlight"], found["gap"]) == (50, 1, None)


async def test_many_tasks_are_walked_through(page: Watched) -> None:
    """Older tasks of the 15 minutes are loaded page by page, once, between lists of the newest."""
    found = await simulate(page, total=3800, turns=20, running=[3])
    assert (found["known"], found["gap"], found["walking"], found["inFlight"]) == (3800, None, False, 1)
    assert found["kinds"].count("walk") == 4
    assert found["kinds"][:4] == ["newest", "walk", "RUNNING", "PENDING"]
    assert found["kinds"].count("newest") >= 8


async def test_a_rush_leaves_no_gap(page: Watched) -> None:
    """Tasks that come faster than a page of the newest shows are walked through as well."""
    found = await simulate(page, total=100, perTurn=120, turns=30, running=[])
    assert found["all"] == 3700
    assert found["all"] - found["known"] <= 5 * 120  # of the last turns
    assert found["gap"] is None


async def test_too_many_tasks_are_told(page: Watched) -> None:
    """Beyond 20,000 tasks the page knows a part, says since when it knows all, and stops asking for more."""
    found = await simulate(page, total=40_000, turns=90, running=[3])
    assert 19_000 <= found["known"] <= 20_001
    assert found["gap"] is not None
    assert not found["walking"]
    assert found["inFlight"] == 1  # the oldest of all
    assert found["kinds"][-6:].count("walk") == 0
