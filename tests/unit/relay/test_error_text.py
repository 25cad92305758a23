"""Owns what a status keeps of an error answer: so many bytes of it, as text that harms no terminal."""

from __future__ import annotations

import pytest

from gateway.relay.error_text import ErrorText, printable
from gateway.tasks.task import Task


def task() -> Task:
    """A task that has just begun."""
    return Task("t", "POST", "/v1/x", "", 1000)


@pytest.mark.parametrize("size", [1, 2, 3, 7, 100])
def test_the_pieces_do_not_matter(size: int) -> None:
    """However the body is cut into pieces, the text is that of its first bytes."""
    body = '{"error":{"message":"model “x” not found"}}'.encode()
    found = task()
    text = ErrorText(found, 40)
    for start in range(0, len(body), size):
        text.feed(body[start : start + size])
    text.at_end()
    assert found.error_text == printable(body[:40], 40)
    assert found.error_text is not None
    assert found.error_text.startswith('{"error":{"message":"model “x” not')


def test_without_a_body_there_is_no_text() -> None:
    """An empty body, or one of unprintable characters alone, leaves null."""
    for body in (b"", b"\r\n\t\x00 "):
        found = task()
        ErrorText(found, 10).feed(body)
        assert found.error_text is None


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (b" a\r\n\tb\x00\x1b[31mc ", "a b [31mc"),
        ("a\u202eb\u2028c\u200bd".encode(), "a b c d"),
        ("\N{GRINNING FACE}é".encode(), "\N{GRINNING FACE}é"),
        ("xé".encode()[:-1], "x"),  # cut inside a character
        (b"a\xff\xfeb", "a\ufffd\ufffdb"),
        (b"<script>\"'&", "<script>\"'&"),
    ],
)
def test_only_printable_characters_are_kept(body: bytes, text: str) -> None:
    """Control and format characters become spaces, bytes that are no UTF-8 a replacement character."""
    assert printable(body, 100) == text


@pytest.mark.parametrize("most_bytes", [1, 2, 3, 4, 5, 6, 7, 1024])
@pytest.mark.parametrize("body", [b"\xff" * 2000, b"a \xff" * 700, b"\xc3(" * 1000, "é €".encode() * 300])
def test_the_text_has_at_most_so_many_bytes(body: bytes, most_bytes: int) -> None:
    """Also where each byte that is no UTF-8 becomes three: what is kept is bounded, and ends with a whole character."""
    found = task()
    ErrorText(found, most_bytes).feed(body)
    text = found.error_text or ""
    assert most_bytes - 4 < len(text.encode()) <= most_bytes
    assert text == text.strip()
