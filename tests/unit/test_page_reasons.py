"""Compares what the page says of each reason with docs/polling.md: the same reasons, and the same next steps."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from gateway.tasks.task import Reason

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "gateway" / "dashboard" / "reasons.js").read_text()
ROW = re.compile(r"^\| `(\w+)` \| (.+) \| (.+) \|$", re.MULTILINE)
ENTRY = re.compile(r'^  (\w+):\s+("(?:[^"\\]|\\.)*"),$', re.MULTILINE)

# What both have to say about the reason, and what to do. A bar separates two ways to say the same.
MEANS = {
    Reason.UPSTREAM_STATUS: ["Ollama answered with a status other than 2xx"],
    Reason.UPSTREAM_UNAVAILABLE: ["connect", "starting"],
    Reason.UPSTREAM_ERROR: ["connection", "before"],
    Reason.UPSTREAM_TRUNCATED: ["the connection to Ollama broke inside the answer"],
    Reason.STREAM_INCOMPLETE: ["without its end event"],
    Reason.STREAM_ERROR: ["event", "error"],
    Reason.TIMEOUT: ["a time limit was over"],
    Reason.QUEUE_FULL: ["the queue was full", "a request of another key took"],
    Reason.RESPONSE_TOO_LARGE: ["client had left", "too large|longer than"],
    Reason.CLIENT_DISCONNECT: ["the client closed its connection"],
    Reason.CANCELLED: ["cancelled", "by its id|by id", "label", "does not record"],
    Reason.SHUTDOWN: ["the gateway was stopped"],
    Reason.LOST: ["gateway was killed, or has been silent for too long"],
    Reason.GATEWAY_ERROR: ["refused", "half-way", "or the gateway itself failed"],
}
STEPS = {
    Reason.UPSTREAM_STATUS: ["400 or 404", "correct the request", "missing", "5xx", "try again", "read Ollama's log"],
    Reason.UPSTREAM_UNAVAILABLE: ["try again after a few seconds"],
    Reason.UPSTREAM_ERROR: ["try again once", "if it repeats, read Ollama's log", "not enough memory"],
    Reason.UPSTREAM_TRUNCATED: ["try again", "the client got only a part of the answer"],
    Reason.STREAM_INCOMPLETE: ["try again", "only a part", "change the prompt or the model's parameters"],
    Reason.STREAM_ERROR: ["read", "event", "the client has it"],
    Reason.TIMEOUT: ["UPSTREAM_IDLE_TIMEOUT_SEC", "raise", "to 0|set 0"],
    Reason.QUEUE_FULL: ["try again after", "429", "Retry-After"],
    Reason.RESPONSE_TOO_LARGE: ["raise", "ask for a shorter answer"],
    Reason.CLIENT_DISCONNECT: [
        "did not want that",
        "outlive its client",
        "raise the time limits of the client",
        "proxy",
    ],
    Reason.CANCELLED: ["if", "send the request again"],
    Reason.SHUTDOWN: ["try again when the next gateway is ready"],
    Reason.LOST: ["send the request again|try again"],
    Reason.GATEWAY_ERROR: ["correct the request", "report what the", "log says"],
}


def page(name: str) -> dict[str, str]:
    """A table of the page, by reason."""
    table = PAGE.split(f"export const {name} = {{\n")[1].split("\n};")[0]
    return {reason: json.loads(text) for reason, text in ENTRY.findall(table)}


def docs() -> dict[str, tuple[str, str]]:
    """The table of docs/polling.md, by reason: what it means and what to do, without code marks and links."""
    section = (ROOT / "docs" / "polling.md").read_text().split("\n## How a task ended\n")[1].split("\n## ")[0]
    plain = re.sub(r"\[([^\]]+)\]\([^)]+\)", r"\1", section)
    return {reason: (means.replace("`", ""), step.replace("`", "")) for reason, means, step in ROW.findall(plain)}


def test_both_have_each_reason() -> None:
    """The page explains the reasons that the gateway has, and so does the table; neither has another."""
    reasons = {str(reason) for reason in Reason}
    assert set(page("REASONS")) == set(page("NEXT_STEPS")) == set(docs()) == reasons


@pytest.mark.parametrize("reason", list(Reason))
def test_both_say_the_same(reason: Reason) -> None:
    """What the page says of a reason and tells to do is in the table, too."""
    means, step = docs()[reason]
    for words, texts in (
        (MEANS[reason], (page("REASONS")[reason], means)),
        (STEPS[reason], (page("NEXT_STEPS")[reason], step)),
    ):
        for word in words:
            assert all(any(way.lower() in text.lower() for way in word.split("|")) for text in texts), (word, texts)
