"""The fields by which a client asks something for its task: which values are taken, and what the errors say."""

from __future__ import annotations

import pytest

from gateway.errors import InvalidHeader
from gateway.tasks.options import TaskOptions, is_label, options_of

LABEL, PRIORITY = b"x-task-label", b"x-task-priority"
START, WHOLE = b"x-task-start-timeout", b"x-task-timeout"


def options(*fields: tuple[bytes, bytes]) -> TaskOptions:
    """Those of a request with these fields."""
    return options_of(dict(fields), lambda name: [value for key, value in fields if key == name])


def test_without_the_fields_nothing_is_asked_for() -> None:
    """Fields with similar names are the client's own."""
    assert options((b"x-task-colour", b"red")) is options() == TaskOptions()


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ([(LABEL, b"nightly")], TaskOptions(label="nightly")),
        ([(LABEL, b"")], TaskOptions()),
        ([(LABEL, b"!" + b"x" * 126 + b"~")], TaskOptions(label="!" + "x" * 126 + "~")),
        ([(PRIORITY, b"low"), (LABEL, b"a:b@c,d")], TaskOptions(label="a:b@c,d", is_low=True)),
        ([(PRIORITY, b"normal")], TaskOptions()),
        ([(START, b"1")], TaskOptions(start_timeout=1)),
        ([(START, b"0030"), (WHOLE, b"86400")], TaskOptions(start_timeout=30, timeout=86_400)),
    ],
)
def test_values_that_are_taken(fields: list[tuple[bytes, bytes]], expected: TaskOptions) -> None:
    """An empty label counts as none."""
    assert options(*fields) == expected


@pytest.mark.parametrize(
    ("field", "words"),
    [
        ((LABEL, b"two words"), "X-Task-Label is not valid; allowed: 1 to 128 characters from '!' to '~'"),
        ((LABEL, b"x" * 129), "allowed: 1 to 128 characters"),
        ((LABEL, "ü".encode()), "allowed: 1 to 128 characters"),
        ((PRIORITY, b"high"), "X-Task-Priority is not valid; allowed: normal, low"),
        ((PRIORITY, b"LOW"), "allowed: normal, low"),
        ((PRIORITY, b""), "allowed: normal, low"),
        *(((START, value), "X-Task-Start-Timeout is not valid; allowed: whole seconds from 1 to 86400")
          for value in (b"0", b"-1", b"1.5", b"86401", b"1e3", b"+1", b"", b"9" * 400, "\u0661".encode())),
        ((WHOLE, b"soon"), "X-Task-Timeout is not valid"),
    ],
)  # fmt: skip
def test_other_values_are_refused_with_what_is_allowed(field: tuple[bytes, bytes], words: str) -> None:
    """The error names the field."""
    with pytest.raises(InvalidHeader) as refused:
        options(field)
    assert words in str(refused.value)


@pytest.mark.parametrize("name", [LABEL, PRIORITY, START, WHOLE])
def test_a_field_that_is_sent_twice_is_refused(name: bytes) -> None:
    """Also with the same value twice."""
    with pytest.raises(InvalidHeader, match="more than once; allowed: one"):
        options((name, b"1"), (name, b"1"))


@pytest.mark.parametrize(
    ("text", "is_valid"), [("job-7", True), ("", False), ("a b", False), ("ü", False), ("x" * 129, False)]
)
def test_what_a_label_is(text: str, *, is_valid: bool) -> None:
    """The same rule for the field, the filter of the list, and the cancel call."""
    assert is_label(text) is is_valid
