"""The states of a connection to Ollama and their moves."""

from __future__ import annotations

import pytest

from gateway.upstream.connection import MOVES, Connection, ConnectionState
from gateway.upstream.pool import AwaitedAnswer


@pytest.mark.parametrize("state", [state for state in ConnectionState if state is not ConnectionState.BROKEN])
def test_a_connection_may_break_in_any_state(state: ConnectionState) -> None:
    """A connection can be lost at any moment, and is of no use then."""
    assert ConnectionState.BROKEN in MOVES[state]
    assert not MOVES[ConnectionState.BROKEN]


def test_only_a_complete_answer_frees_a_connection() -> None:
    """The next exchange begins on a connection that is IDLE, and only COMPLETE leads there."""
    assert [state for state in ConnectionState if ConnectionState.IDLE in MOVES[state]] == [ConnectionState.COMPLETE]
    assert [state for state in ConnectionState if ConnectionState.HEAD in MOVES[state]] == [ConnectionState.IDLE]


async def test_one_exchange_at_a_time() -> None:
    """A second exchange on a connection that has one is a mistake, and is refused."""
    connection = Connection(idle_timeout_seconds=0)
    AwaitedAnswer(connection, "GET")
    with pytest.raises(RuntimeError, match="head cannot become head"):
        AwaitedAnswer(connection, "GET")
    assert not connection.leave(), "its answer is not complete"
    assert connection.state is ConnectionState.HEAD
