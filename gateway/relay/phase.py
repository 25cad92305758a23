"""The phases of an exchange, and which phase may follow which. `Exchange` moves by this table alone."""

from enum import StrEnum


class Phase(StrEnum):
    """Where a relayed request stands."""

    CLAIMING = "claiming"  # the store is asked whether the task may have its id
    BODY = "body"  # the first piece of the request's body is still to come
    CONNECTING = "connecting"  # a new connection to Ollama is being opened
    HEAD = "head"  # the request goes up; the head of the answer is still to come
    HEAD_HELD = "head held"  # the head waits until the store has the task's stage
    FLOWING = "flowing"  # the answer goes to the client
    END_HELD = "end held"  # a piece with the stream's end event waits until the store has the task's end
    LAST_HELD = "last held"  # the last piece waits for the same
    OVER = "over"  # the exchange has no connection, and the task has its end


MOVES: dict[Phase, frozenset[Phase]] = {
    Phase.CLAIMING: frozenset({Phase.BODY, Phase.OVER}),
    Phase.BODY: frozenset({Phase.CONNECTING, Phase.HEAD, Phase.OVER}),
    Phase.CONNECTING: frozenset({Phase.HEAD, Phase.OVER}),
    # CONNECTING again: a kept-alive connection was dead. FLOWING at once: the answer is whole, so only its end waits.
    Phase.HEAD: frozenset({Phase.CONNECTING, Phase.HEAD_HELD, Phase.FLOWING, Phase.OVER}),
    Phase.HEAD_HELD: frozenset({Phase.FLOWING, Phase.OVER}),
    Phase.FLOWING: frozenset({Phase.END_HELD, Phase.LAST_HELD, Phase.OVER}),
    Phase.END_HELD: frozenset({Phase.FLOWING, Phase.OVER}),
    Phase.LAST_HELD: frozenset({Phase.OVER}),
    Phase.OVER: frozenset(),
}
