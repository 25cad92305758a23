"""Owns what several test files say about a task's end, in one assertion each."""

from __future__ import annotations

from typing import Any


def outcome(document: dict[str, Any]) -> tuple[str, str, str | None]:
    """State, stage and reason of a document."""
    return document["state"], document["stage"], document["extensions"].get("reason")


def has_ended(document: dict[str, Any], attempt: int) -> bool:
    """Whether a task has ended, in this attempt or a later one. An answer that is no status has not."""
    return document.get("state") in ("SUCCESS", "FAILED") and document["extensions"]["attempt"] >= attempt


DONE = ("SUCCESS", "done", None)
CLIENT_LEFT = ("FAILED", "cancelled", "client_disconnect")


def failed(reason: str) -> tuple[str, str, str]:
    """The outcome of a task that failed for `reason`."""
    return ("FAILED", "error", reason)
