"""The phases of an exchange and their moves."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from gateway.http import closing, parser
from gateway.relay import base
from gateway.relay.base import MOVES, Phase
from gateway.relay.stream_end import ENDS
from gateway.upstream import connection

if TYPE_CHECKING:
    from enum import Enum
    from types import ModuleType


def reachable(phase: Phase) -> set[Phase]:
    """All that can follow, in any number of moves."""
    found: set[Phase] = set()
    todo = [phase]
    while todo:
        new = MOVES[todo.pop()] - found
        found |= new
        todo += new
    return found


def test_every_phase_follows_from_the_first() -> None:
    """No phase is out of reach."""
    assert reachable(Phase.CLAIMING) == set(Phase) - {Phase.CLAIMING}


@pytest.mark.parametrize("phase", [phase for phase in Phase if phase is not Phase.OVER])
def test_any_phase_may_be_the_last(phase: Phase) -> None:
    """An exchange can break off at any moment, and nothing follows its end."""
    assert Phase.OVER in MOVES[phase]
    assert not MOVES[Phase.OVER]


@pytest.mark.parametrize("phase", [Phase.HEAD_HELD, Phase.END_HELD, Phase.LAST_HELD])
def test_what_is_held_can_only_go_on_or_be_dropped(phase: Phase) -> None:
    """From a phase that waits for the store the exchange goes on with the answer, or ends."""
    assert MOVES[phase] <= {Phase.FLOWING, Phase.OVER}


@pytest.mark.parametrize("path", ENDS)
def test_end_events_can_be_searched_for(path: bytes) -> None:
    """The word of each end event is a part of its name, and a path has two or three different words."""
    assert all(end.word in end.name for end in ENDS[path])
    assert len({end.word for end in ENDS[path]}) in (2, 3)


@pytest.mark.parametrize(
    ("module", "kind"),
    [(base, base.Phase), (connection, connection.ConnectionState), (parser, parser.Part), (closing, closing.Phase)],
)
def test_a_members_own_name_is_the_member(module: ModuleType, kind: type[Enum]) -> None:
    """Modules on the hot path name each member of their enum by itself."""
    assert all(getattr(module, member.name) is member for member in kind)
