"""Pages of other sites in a real browser: nothing they load becomes a task; a link to the dashboard goes on working."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest
from playwright.async_api import expect

from tests.browser.foreign import LEAVING, MARKUP, ForeignSite, foreign_site
from tests.support.scripted import answering
from tests.support.waiting import GUARD_SECONDS, until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from playwright.async_api import Browser, BrowserContext, Request

    from tests.conftest import Launch
    from tests.support.gateway import Gateway
    from tests.support.scripted import Upstream


# Another site, and the gateway's own with another port.
HOSTS = ["evil.localhost", "127.0.0.1"]


@pytest.fixture
async def site() -> AsyncIterator[ForeignSite]:
    """The other site's server."""
    async with foreign_site() as found:
        yield found


@pytest.fixture
async def context(chromium: Browser) -> AsyncIterator[BrowserContext]:
    """A browser that has stored nothing."""
    found = await chromium.new_context()
    found.set_default_timeout(GUARD_SECONDS * 1000)
    yield found
    await found.close()


@pytest.fixture
async def target(gateways: Launch) -> Gateway:
    """The gateway that is tried; it has no store and no task."""
    return await gateways(GATEWAY_INSTANCE="tried-by-others")


async def refused(gateway: Gateway) -> int:
    """How many requests it has refused for where they came from."""
    text = (await gateway.http.get("/metrics")).text
    found = re.search(r'^ollama_gateway_refused_total\{code="origin_not_allowed"\} (\d+)', text, re.MULTILINE)
    return int(found[1]) if found else 0


async def open_and_see_refused(context: BrowserContext, gateway: Gateway, page: str, ways: list[str]) -> None:
    """Opens the page, whose ways each ask for /v1/<its number>, until the gateway has refused them all."""
    prefix = f"http://127.0.0.1:{gateway.port}/v1/"
    ended: set[str] = set()

    def end(request: Request) -> None:
        if request.url.startswith(prefix):
            ended.add(ways[int(request.url.removeprefix(prefix).partition("?")[0])])

    context.on("requestfinished", end)  # the browser keeps from a page what is refused to it: a failure
    context.on("requestfailed", end)
    before = await refused(gateway)
    opened = await context.new_page()
    await opened.goto(page, wait_until="commit")
    try:
        await until(lambda: ended >= set(ways))
    except AssertionError:
        raise AssertionError(f"the browser did not ask by {set(ways) - ended}") from None
    assert await refused(gateway) - before >= len(ways)


@pytest.mark.parametrize("host", HOSTS)
async def test_what_a_foreign_page_loads_is_refused(
    target: Gateway, upstream: Upstream, context: BrowserContext, site: ForeignSite, host: str
) -> None:
    """Images, scripts, styles, media, frames and no-cors fetches get 403; Ollama sees nothing and there is no task."""
    ways = list(MARKUP)
    asked = f"http://127.0.0.1:{target.port}/v1/"
    site.put("/", "".join(markup.replace("@", f"{asked}{number}") for number, markup in enumerate(MARKUP.values())))
    await open_and_see_refused(context, target, site.address(host, "/"), ways)
    assert upstream.exchanges == []
    assert (await target.http.get("/tasks/status")).json()["items"] == []


@pytest.mark.parametrize("host", HOSTS)
@pytest.mark.parametrize("way", LEAVING)
async def test_a_foreign_page_that_leads_to_v1_is_refused(
    target: Gateway, upstream: Upstream, context: BrowserContext, site: ForeignSite, host: str, way: str
) -> None:
    """Links, forms, redirects by the page and new windows do not get to Ollama."""
    site.put("/", LEAVING[way].replace("@", f"http://127.0.0.1:{target.port}/v1/0"))
    await open_and_see_refused(context, target, site.address(host, "/"), [way])
    assert upstream.exchanges == []
    assert (await target.http.get("/tasks/status")).json()["items"] == []


@pytest.mark.parametrize("host", HOSTS)
async def test_a_link_to_the_dashboard_works(
    target: Gateway, upstream: Upstream, context: BrowserContext, site: ForeignSite, host: str
) -> None:
    """A wiki may link to the dashboard, which then asks for its data as ever, and to a task's status."""
    answer = await target.ask("POST", "/v1/own", (b"X-Task-Id", b"linked-to"))
    assert answer.status == 200
    own = f"http://127.0.0.1:{target.port}"
    site.put("/", f'<a id="page" href="{own}/">tasks</a> <a id="task" href="{own}/tasks/status/linked-to">it</a>')
    page = await context.new_page()
    await page.goto(site.address(host, "/"))
    await page.click("#page")
    await expect(page.locator("#recent")).to_contain_text("linked-to")
    await page.reload()
    await expect(page.locator("#recent")).to_contain_text("linked-to")
    await page.goto(site.address(host, "/"))
    await page.click("#task")
    await expect(page.locator("body")).to_contain_text('"task_id":"linked-to"')


@pytest.mark.parametrize("host", HOSTS)
@pytest.mark.parametrize("path", ["/", "/docs", "/tasks/status"])
async def test_no_foreign_page_frames_our_own(
    target: Gateway, upstream: Upstream, context: BrowserContext, site: ForeignSite, host: str, path: str
) -> None:
    """What a link may open, a frame may not show."""
    own = f"http://127.0.0.1:{target.port}{path}"
    site.put("/", f'<iframe src="{own}"></iframe>')
    page = await context.new_page()
    async with page.expect_response(own) as answer:
        await page.goto(site.address(host, "/"), wait_until="commit")
    assert (await answer.value).status == 403


async def test_an_answer_opened_as_a_page_cannot_act_as_ours(
    target: Gateway, upstream: Upstream, context: BrowserContext
) -> None:
    """A page that Ollama's side wrote runs no script under our name: it cannot read what our pages can."""
    body = b"<title>before</title><script>document.title = 'it ran'</script>"
    upstream.then(answering(200, (b"Content-Type", b"text/html"), body=body))
    page = await context.new_page()
    await page.goto(f"http://127.0.0.1:{target.port}/v1/page")
    assert await page.title() == "before"
