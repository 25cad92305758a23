"""The keys in Redis, and the Lua scripts that know them. Sends nothing itself.

At load, the scripts get ranks and limits from gateway/tasks, so that each is defined once. Each script begins with
lists.lua, which describes the lists.
"""

from hashlib import sha1
from importlib.resources import files

from gateway.tasks.task import FINAL_RANK, MAX_ATTEMPT, Stage, State

DOCUMENT_PREFIX = "ts:ollama:"
OWN_PREFIX = "tsx:ollama:"
LIST_PREFIX = OWN_PREFIX + "2:"  # the second layout; the first was {index}:
BEATS, CANCELS = LIST_PREFIX + "beats", LIST_PREFIX + "cancels"
# Scripts name these two as keys, beside documents. They are in other slots, so a Redis Cluster refuses the scripts.
SHARED_KEYS = (LIST_PREFIX + "lists", LIST_PREFIX + "expiry")


def list_names(state: State | None, owner: str | None) -> list[str]:
    """The names of the lists with the tasks of `state` (None: of all states, in the order in which tasks move)."""
    states = list(State) if state is None else [state]
    return [f"{which}@{owner}" if owner else str(which) for which in states]


def _of_tasks() -> str:
    """Lua code that defines what the scripts need from gateway/tasks."""
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
        here = files("gateway.store")
        parts = [here.joinpath(f"{part}.lua").read_text() for part in ("lists", name)]
        self.text = _of_tasks() + "".join(parts)
        self.digest = sha1(self.text.encode(), usedforsecurity=False).hexdigest()
