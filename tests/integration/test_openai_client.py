"""Owns the promise that OpenAI clients work unchanged: the official client and httpx against a real model.

The model is the embedded one, behind the gateway; what it says does not matter, only that it arrives as it
was and that the task tells the truth about it.
"""

from __future__ import annotations

import asyncio
import re
from typing import TYPE_CHECKING, Any

import httpx
import openai
import pytest

from tests.support.outcome import CLIENT_LEFT, DONE, failed, outcome

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.support.gateway import Gateway
    from tests.support.model import EmbeddedModel

pytestmark = [pytest.mark.model, pytest.mark.timeout(300)]

HELLO: list[Any] = [{"role": "user", "content": "Say hello."}]
STORY: list[Any] = [{"role": "user", "content": "Tell me a long story about a river."}]
NONSENSE: Any = "none"
TOOLS: list[Any] = [
    {
        "type": "function",
        "function": {
            "name": "weather",
            "description": "The weather in a city",
            "parameters": {
                "type": "object",
                "properties": {"city": {"type": "string"}},
                "required": ["city"],
            },
        },
    }
]


@pytest.fixture
async def client(live: Gateway, fresh_id: str) -> AsyncIterator[openai.AsyncOpenAI]:
    """The official client, as its documentation makes it, with a task id on each request."""
    async with openai.AsyncOpenAI(
        base_url=live.base_url,
        api_key="unused",
        max_retries=0,
        default_headers={"X-Task-Id": fresh_id},
        http_client=openai.DefaultAsyncHttpxClient(trust_env=False),
    ) as client:
        yield client


async def test_chat(live: Gateway, client: openai.AsyncOpenAI, model: EmbeddedModel, fresh_id: str) -> None:
    """A chat completion has text, and its task is SUCCESS."""
    answer = await client.chat.completions.create(model=model.name, messages=HELLO, max_tokens=16, temperature=0)
    assert answer.choices[0].message.content
    document = await live.status(fresh_id)
    assert (outcome(document), document["extensions"]["stream"]) == (DONE, False)


async def test_chat_streams(live: Gateway, client: openai.AsyncOpenAI, model: EmbeddedModel, fresh_id: str) -> None:
    """A streamed chat is RUNNING streaming while it speaks and SUCCESS after it, on the last piece."""
    pieces: list[Any] = []

    stream = await client.chat.completions.create(
        model=model.name, messages=STORY, max_tokens=100, temperature=0, stream=True
    )
    async for piece in stream:
        if not pieces:
            running = await live.status(fresh_id)
            assert (running["state"], running["stage"]) == ("RUNNING", "streaming")
        pieces.append(piece)
    text = "".join(piece.choices[0].delta.content or "" for piece in pieces if piece.choices)
    assert text
    assert len(pieces) > 3
    document = await live.status(fresh_id)
    assert (outcome(document), document["extensions"]["stream"]) == (DONE, True)


async def test_leaving_a_stream_stops_the_model(
    live: Gateway, client: openai.AsyncOpenAI, model: EmbeddedModel, fresh_id: str
) -> None:
    """A client that closes its stream early leaves a cancelled task."""
    stream = await client.chat.completions.create(
        model=model.name, messages=STORY, max_tokens=400, temperature=0, stream=True
    )
    async for _ in stream:
        break
    await stream.close()
    assert outcome(await live.ended(fresh_id)) == CLIENT_LEFT


async def test_a_request_with_tools(
    live: Gateway, client: openai.AsyncOpenAI, model: EmbeddedModel, fresh_id: str
) -> None:
    """A request that offers tools is answered, with text or a call."""
    answer = await client.chat.completions.create(
        model=model.name, messages=HELLO, max_tokens=16, temperature=0, tools=TOOLS, tool_choice="auto"
    )
    message = answer.choices[0].message
    assert message.content is not None or message.tool_calls
    assert outcome(await live.status(fresh_id)) == DONE


async def test_completions(live: Gateway, client: openai.AsyncOpenAI, model: EmbeddedModel, fresh_id: str) -> None:
    """A plain completion has text."""
    answer = await client.completions.create(model=model.name, prompt="One, two,", max_tokens=8, temperature=0)
    assert answer.choices[0].text
    assert outcome(await live.status(fresh_id)) == DONE


async def test_completions_stream(
    live: Gateway, client: openai.AsyncOpenAI, model: EmbeddedModel, fresh_id: str
) -> None:
    """A streamed completion has several pieces and ends as a success."""
    stream = await client.completions.create(
        model=model.name, prompt="One, two,", max_tokens=8, temperature=0, stream=True
    )
    assert len([piece async for piece in stream]) > 2
    assert outcome(await live.status(fresh_id)) == DONE


async def test_responses(live: Gateway, client: openai.AsyncOpenAI, model: EmbeddedModel, fresh_id: str) -> None:
    """A response of the Responses API has output text."""
    answer = await client.responses.create(model=model.name, input="Say hello.", max_output_tokens=16, temperature=0)
    assert answer.output_text
    assert outcome(await live.status(fresh_id)) == DONE


async def test_responses_stream(live: Gateway, client: openai.AsyncOpenAI, model: EmbeddedModel, fresh_id: str) -> None:
    """A streamed response ends with its own end event and is a success."""
    stream = await client.responses.create(
        model=model.name, input="Hello", max_output_tokens=16, temperature=0, stream=True
    )
    kinds = [event.type async for event in stream]
    assert "response.output_text.delta" in kinds
    assert kinds[-1] in ("response.completed", "response.incomplete")
    assert outcome(await live.status(fresh_id)) == DONE


async def test_models(live: Gateway, client: openai.AsyncOpenAI, model: EmbeddedModel, fresh_id: str) -> None:
    """The models list names the model, and is a task as well."""
    assert model.name in [entry.id async for entry in client.models.list()]
    assert outcome(await live.status(fresh_id)) == DONE


async def test_an_upstream_error_is_the_clients_error(
    live: Gateway, client: openai.AsyncOpenAI, model: EmbeddedModel, fresh_id: str
) -> None:
    """What the server refuses is raised by the client as its own kind of error, with the server's words."""
    with pytest.raises(openai.APIStatusError) as caught:
        await client.chat.completions.create(model=model.name, messages=NONSENSE)
    assert 400 <= caught.value.status_code < 600
    assert outcome(await live.status(fresh_id)) == failed("upstream_status")


async def test_the_sync_client_works_too(live: Gateway, model: EmbeddedModel) -> None:
    """The synchronous client lists models through the gateway."""

    def models() -> list[str]:
        with openai.OpenAI(
            base_url=live.base_url,
            api_key="unused",
            max_retries=0,
            http_client=openai.DefaultHttpxClient(trust_env=False),
        ) as client:
            return [entry.id for entry in client.models.list()]

    assert model.name in await asyncio.to_thread(models)


SAME = [
    ("GET", "/v1/models", None),
    ("GET", "/v1/models?x=%2F", None),
    ("POST", "/v1/embeddings", {"input": "hello"}),
    ("POST", "/v1/chat/completions", {"messages": "none"}),
    ("GET", "/v1/no/such/route", None),
]


@pytest.mark.parametrize(("method", "target", "body"), SAME)
async def test_answers_are_the_same_as_without_the_gateway(
    live: Gateway, model: EmbeddedModel, method: str, target: str, body: dict[str, Any] | None
) -> None:
    """Status, type and bytes through the gateway equal those of the server asked directly."""
    payload = None if body is None else {"model": model.name, **body}
    async with httpx.AsyncClient(trust_env=False, timeout=120) as http:
        direct = await http.request(method, model.base + target, json=payload)
        relayed = await http.request(method, f"http://127.0.0.1:{live.port}{target}", json=payload)
    assert relayed.status_code == direct.status_code
    assert relayed.headers.get("content-type") == direct.headers.get("content-type")
    assert relayed.headers.get_list("x-task-id") != []
    assert without_clock(relayed.content) == without_clock(direct.content)


def without_clock(content: bytes) -> bytes:
    """The bytes, with the one number aside that the server takes from its clock."""
    return re.sub(rb'"created":\d+', b'"created":0', content)
