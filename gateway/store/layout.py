"""What Redis holds: the keys, and the Lua scripts that know them. Sends nothing itself.

The scripts take ranks and limits from gateway/tasks at load, so that each stands in one place. lists.lua is the
beginning of each script, and describes the lists.
"""

from hashlib import sha1
from importlib.resources import files

from gateway.tasks.task import FINAL_RANK, MAX_ATTEMPT, Stage, State

DOCUMENT_PREFIX = "ts:ollama:"
OWN_PREFIX = "tsx:ollama:"
LIST_PREFIX = OWN_PREFIX + "2:"  # the second layout; the first was {index}:
BEATS, CANCELS = LIST_PREFIX + "beats", LIST_PREFIX + "cancels"
# Scripts name these two as their keys, beside documents: a Redis Cluster then refuses them.
SHARED_KEYS = (LIST_PREFIX + "lists", LIST_PREFIX + "expiry")


def list_names(state: State | None, owner: str | None) -> list[str]:
    """The lists that hold the tasks of a state (None: of all states, which only move forward in this order)."""
    states = list(State) if state is None else [state]
    return [f"{which}@{owner}" if owner else str(which) for which in states]


def _of_tasks() -> str:
    """What the scripts take from gateway/tasks, as Lua."""
    ranks = ", ".join(f"{stage} = {stage.rank}" for stage in Stage)
    states = " or ".join(f"state == '{state}'" for state in State)
    return (
        f"local DOCUMENT, PREFIX = '{DOCUMENT_PREFIX}', '{LIST_PREFIX}'\n"
        f"local FINAL_RANK, MAX_ATTEMPT = {FINAL_RANK}, {MAX_ATTEMPT}\n"
        f"local function is_state(state) return {states} end\n"
        f"local function rank_of(stage) return ({{ {ranks} }})[stage] or FINAL_RANK end\n"
    )


class Script:
    """A Lua script of this package, called by its digest."""

    def __init__(self, name: str) -> None:
        self.name = name
        here = files("gateway.store")
        parts = [here.joinpath(f"{part}.lua").read_text() for part in ("lists", name)]
        self.text = _of_tasks() + "".join(parts)
        self.digest = sha1(self.text.encode(), usedforsecurity=False).hexdigest()
