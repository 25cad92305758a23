"""`ollama-gateway nodes`: one line for each gateway that shares the store. Its looks at each width: test_widths.py."""

from __future__ import annotations

import json
import re
from typing import Any

import httpx
import pytest

from gateway.cli import AWAY, DONE, main, show
from tests.unit.cli.test_terminal import HOSTILE


def node(instance: str, **more: Any) -> dict[str, Any]:
    """A gateway as `GET /nodes` tells of it."""
    return {
        "instance": instance, "version": "1.0.0", "started_ms": 1000, "running": 3, "waiting": 12, "max_running": 4,
        "models": ["llama3.2:3b", "qwen2.5-coder:32b-instruct-q4_K_M"], "store": "up", "state": "up", "age_sec": 2.4,
        **more,
    }  # fmt: skip


NODES = [
    node("gateway-0.gateway:11535"),
    node("gateway-1.gateway:11535", running=0, waiting=0, max_running=0, models=[], store="down", state="draining"),
    node("a-very-long-host-name.rack-12.example.internal:11535", state="lost", age_sec=432),
]


def answers(monkeypatch: pytest.MonkeyPatch, status: int, content: object) -> None:
    """Every request of a command gets this answer."""
    monkeypatch.setattr(httpx.Client, "request", lambda *_, **__: httpx.Response(status, json=content))


def test_each_gateway_is_a_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """State, store, requests with their bound, the age of its last word, and models; `--json` prints the answer."""
    answers(monkeypatch, 200, {"items": NODES})
    assert main(["nodes"]) == DONE
    out = capsys.readouterr().out
    assert re.search(
        r"^gateway-0\S+ +up +up +3 of 4 +12 +2 s ago +llama3.2:3b, qwen2.5-coder:32b-instruct-q4_K_M$",
        out,
        re.MULTILINE,
    )
    assert re.search(r"^gateway-1\S+ +draining +down +0 +0 +2 s ago +- *$", out, re.MULTILINE)
    assert re.search(r"^a-very\S+ +lost +up +3 of 4 +12 +432 s ago ", out, re.MULTILINE)
    assert main(["nodes", "--json"]) == DONE
    assert json.loads(capsys.readouterr().out) == {"items": NODES}


@pytest.mark.parametrize("hostile", HOSTILE)
def test_text_of_others_cannot_drive_the_terminal(hostile: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Any client of the store can pretend to be a gateway: its names are printed with control characters escaped."""
    show.print_nodes([node(hostile, models=[hostile], store=hostile, state=hostile)])
    out = capsys.readouterr().out
    assert out.replace("\n", "").isprintable()
    assert out.count(HOSTILE[hostile]) == 4


@pytest.mark.parametrize("odd", [None, "x", [], {}, True])
def test_values_of_another_shape_are_not_shown(odd: object, capsys: pytest.CaptureFixture[str]) -> None:
    """A later gateway may tell other things: what is no number or word is a dash."""
    names = ("running", "waiting", "max_running", "models", "age_sec")
    show.print_nodes([node("one", store=None, state=None, **dict.fromkeys(names, odd))])
    assert re.search(r"^one +- +- +-", capsys.readouterr().out, re.MULTILINE)


@pytest.mark.parametrize("content", [{"items": [{}]}, {"items": ["x"]}, {"items": 1}, {"items": [{"instance": 1}]}, {}])
def test_another_answer_is_5(
    content: object, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What does not answer as a gateway does is refused."""
    answers(monkeypatch, 200, content)
    assert main(["nodes"]) == AWAY
    assert capsys.readouterr().out == ""


def test_a_key_that_may_not_see_them_is_5(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """With API keys only `admin` may: the gateway's words are on standard error."""
    answers(monkeypatch, 403, {"detail": "only the key named admin may see the gateways"})
    assert main(["nodes"]) == AWAY
    assert "answers 403: only the key named admin" in capsys.readouterr().err
