"""The record that a gateway writes of itself: written, checked, and what it says of the gateway's state."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.metrics.counts import NODE_STATES
from gateway.nodes.node import MAX_NAMES, NodeState, Outage, parse
from gateway.store.layout import MAX_INSTANCE, MAX_RECORD_BYTES
from tests.support.forged import MISSING, SHAPES
from tests.support.nodes import NODE, node

FIELDS = list(json.loads(NODE.text()))


def test_a_record_says_what_the_gateway_said() -> None:
    """What a gateway writes of itself is read as it was, by its instance."""
    for one in (NODE, node(is_draining=True, models=(), store="down"), node(instance="x" * MAX_INSTANCE)):
        assert parse(one.instance, one.text()) == one


def test_later_versions_may_say_more() -> None:
    """A field that this version does not know is ignored."""
    assert parse("gw-1", json.dumps(json.loads(NODE.text()) | {"gpu": [1]})) == NODE


def test_a_record_has_a_bounded_size() -> None:
    """However many models have however long names, the record fits into the table."""
    one = node(models=tuple("語" * 1_000 + str(n) for n in range(100)))
    assert len(one.text().encode()) < MAX_RECORD_BYTES
    read = parse("gw-1", one.text())
    assert read is not None
    assert len(read.models) == MAX_NAMES


@pytest.mark.parametrize("name", FIELDS)
@pytest.mark.parametrize("shape", SHAPES)
def test_a_field_of_another_shape_is_no_record(name: str, shape: str) -> None:
    """A record in which any field is missing or has another form counts as malformed."""
    fields = json.loads(NODE.text())
    right: dict[str, list[Any]] = {
        "version": ["word"], "models": ["list"], "is_draining": ["true"],
    }  # fmt: skip
    if shape in right.get(name, []):
        return
    if SHAPES[shape] is MISSING:
        del fields[name]
    else:
        fields[name] = SHAPES[shape]
    assert parse("gw-1", json.dumps(fields)) is None


@pytest.mark.parametrize("text", ["", "x", "null", "3", "[]", "{}", '"{}"', "{", "\udcff", "[" * 10_000])
def test_another_text_is_no_record(text: str) -> None:
    """What is not such a JSON object counts as malformed."""
    assert parse("gw-1", text) is None


@pytest.mark.parametrize("instance", ["", "x" * (MAX_INSTANCE + 1), "\x1b[31m", "\udcff", "gw\n1", "é"])
def test_another_name_is_no_instance(instance: str) -> None:
    """A record whose name no setting could give a gateway counts as malformed."""
    assert parse(instance, NODE.text()) is None


@given(st.text(), st.text())
def test_no_text_breaks_the_check(instance: str, text: str) -> None:
    """Whatever stands there, the check answers."""
    assert parse(instance, text) is None


def test_the_state_is_that_of_the_last_word() -> None:
    """A gateway is up or draining as it said, and lost once it has been silent for longer than it may."""
    assert node().state(30_000) is NodeState.UP
    assert node(is_draining=True).state(30_000) is NodeState.DRAINING
    for one in (node(), node(is_draining=True)):
        assert one.state(30_001) is NodeState.LOST


def test_the_metric_has_all_states() -> None:
    """The label of the metric takes each state, and no other value."""
    assert tuple(NodeState) == NODE_STATES


def test_silence_is_the_time_since_the_last_word() -> None:
    """Without an outage of the store all of the time counts."""
    outage = Outage()
    assert outage.silence_ms(5_000, now=100) == 5_000
    outage.answered(100)
    assert outage.silence_ms(5_000, now=100) == 5_000


def test_an_outage_is_no_silence() -> None:
    """The time for which the store was away does not count: no gateway could say anything then."""
    outage = Outage()
    outage.answered(100)
    outage.failed()
    outage.answered(160)
    assert outage.silence_ms(62_000, now=161) == 2_000  # said at 99
    assert outage.silence_ms(1_062_000, now=161) == 1_002_000  # it was lost before the outage
    assert outage.silence_ms(31_000, now=161) == 1_000  # said at 130: this gateway alone was cut off
    assert outage.silence_ms(500, now=161) == 500  # said after it


def test_a_store_that_was_never_there_excuses_no_silence() -> None:
    """A gateway that starts while the store is away knows nothing of an outage before."""
    outage = Outage()
    outage.failed()
    outage.answered(100)
    assert outage.silence_ms(5_000, now=101) == 5_000
