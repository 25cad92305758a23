"""The owner with the most tasks loses tasks first at a bound: this finds that owner."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from gateway.tasks.shares import Shares


@given(st.lists(st.tuples(st.sampled_from("abcd"), st.booleans()), max_size=60))
def test_the_largest_has_the_most(steps: list[tuple[str, bool]]) -> None:
    """After any additions and removals no owner has more tasks than the one that is named."""
    shares, counts = Shares(), Counter[str]()
    for owner, is_added in steps:
        if is_added:
            shares.add(owner)
            counts[owner] += 1
        elif counts[owner]:
            shares.remove(owner)
            counts[owner] -= 1
        if any(counts.values()):
            assert counts[shares.largest] == max(counts.values())
