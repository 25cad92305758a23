"""The keys in Redis, and the Lua scripts that know them. Sends nothing itself.

At load, the scripts get ranks and limits from gateway/tasks, so that each is defined once. Each script begins with
lists.lua, which describes the lists; those that read documents have documents.lua behind it. The scripts of kept
answers begin with answers.lua instead, which describes their keys; those that change answers have counts.lua behind it.
nodes.lua and publish.lua stand alone.
"""

from hashlib import sha1
from importlib.resources import files

from gateway.tasks.options import MAX_LABEL
from gateway.tasks.stages import FINAL_RANK, MAX_ATTEMPT, PRESUMED_MS, Stage, State

DOCUMENT_PREFIX = "ts:ollama:"
OWN_PREFIX = "tsx:ollama:"
LIST_PREFIX = OWN_PREFIX + "2:"  # the second layout; the first was {index}:
LISTS, EXPIRY, BEATS, CANCELS = (LIST_PREFIX + name for name in ("lists", "expiry", "beats", "cancels"))
PRESUMED = LIST_PREFIX + "presumed"
LABELS, LABEL_EXPIRY = LIST_PREFIX + "labels", LIST_PREFIX + "label-expiry"
ANSWERS, ANSWER_BYTES = LIST_PREFIX + "answers", LIST_PREFIX + "answer-bytes"
NODES = LIST_PREFIX + "nodes"
MAX_NODES, MAX_INSTANCE, MAX_RECORD_BYTES = 256, 128, 32_768  # what may be in it: more is another program's
ANSWER_PREFIX, BODY_PREFIX = LIST_PREFIX + "answer:", LIST_PREFIX + "body:"
_BEFORE = {  # what a script begins with, if that is not lists.lua alone
    **dict.fromkeys(("status", "lost", "page", "relist", "rebuild", "watch"), ("lists", "documents")),
    "answer_save": ("answers", "documents", "counts"),
    "answer_read": ("answers", "documents"),
    "answer_drop": ("answers", "documents", "counts"),
    "answer_mend": ("answers",),
    "nodes": (),
    "publish": (),
}
# Scripts name these two as keys, beside documents. They are in other slots, so a Redis Cluster refuses the scripts.
SHARED_KEYS = (LISTS, EXPIRY)
SHARED_ANSWER_KEYS = (ANSWERS, ANSWER_BYTES)  # the same for the scripts of kept answers


def list_names(state: State | None, owner: str | None) -> list[str]:
    """The names of the lists with the tasks of `state` (None: of all states, in the order in which tasks move)."""
    states = list(State) if state is None else [state]
    return [f"{which}@{owner}" if owner else str(which) for which in states]


def label_list_name(label: str, owner: str | None) -> str:
    """The name of the list with the tasks of `label`. No two are the same: the name of an owner has no ":"."""
    return f"label:{owner or ''}:{label}"


def _of_tasks() -> str:
    """Lua code that defines the names of keys, and what the scripts need from gateway/tasks."""
    ranks = ", ".join(f"{stage} = {stage.rank}" for stage in Stage if stage.rank < FINAL_RANK)
    states = ", ".join(f"{state} = true" for state in State)
    return (
        f"local DOCUMENT, PREFIX = '{DOCUMENT_PREFIX}', '{LIST_PREFIX}'\n"
        f"local LISTS, EXPIRY, BEATS, CANCELS = '{LISTS}', '{EXPIRY}', '{BEATS}', '{CANCELS}'\n"
        f"local PRESUMED, PRESUMED_MS = '{PRESUMED}', {PRESUMED_MS}\n"
        f"local LABELS, LABEL_EXPIRY = '{LABELS}', '{LABEL_EXPIRY}'\n"
        f"local ANSWERS, ANSWER_BYTES = '{ANSWERS}', '{ANSWER_BYTES}'\n"
        f"local ANSWER, BODY, COPY = '{ANSWER_PREFIX}', '{BODY_PREFIX}', '{LIST_PREFIX}copy'\n"
        f"local NODES, MAX_NODES = '{NODES}', {MAX_NODES}\n"
        f"local MAX_INSTANCE, MAX_RECORD_BYTES = {MAX_INSTANCE}, {MAX_RECORD_BYTES}\n"
        f"local FINAL_RANK, MAX_ATTEMPT, MAX_LABEL = {FINAL_RANK}, {MAX_ATTEMPT}, {MAX_LABEL}\n"
        f"local STATES, RANKS = {{ {states} }}, {{ {ranks} }} -- a final stage has FINAL_RANK\n"
    )


class Script:
    """A Lua script of this package, called by its digest."""

    def __init__(self, name: str) -> None:
        here = files("gateway.store")
        parts = [here.joinpath(f"{part}.lua").read_text() for part in (*_BEFORE.get(name, ("lists",)), name)]
        self.text = _of_tasks() + "".join(parts)
        self.digest = sha1(self.text.encode(), usedforsecurity=False).hexdigest()
