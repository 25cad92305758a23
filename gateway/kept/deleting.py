"""Deletes a kept answer for good, wherever it is and whether or not its task still runs."""

from gateway.errors import StoreAway
from gateway.kept.keeping import Keeping
from gateway.kept.looking import Looking
from gateway.store.interface import StoreError, name_in, public_reason
from gateway.tasks.document import fields_of, has_ended
from gateway.tasks.task import Kept, new_id


async def delete(keeping: Keeping, looking: Looking, task_id: str, reader: str | None) -> None:
    """Deletes the answer of a task. A task that still runs goes on, if its client is there.

    Raises what `Looking.look` raises.
    """
    look = await looking.look(task_id, reader)
    if look.answer is not None:
        look.answer.drop(Kept.DELETED)
        await keeping.until_dropped()
    elif keeping.store is not None:
        event_id, name, was_there = new_id(), name_in(fields_of(look.document) or {}), False
        try:
            if look.generation:
                was_there = await keeping.store.drop(task_id, look.generation, event_id)
            if not has_ended(look.document):
                await keeping.tasks.ask_to_drop(name)
        except StoreError as error:
            raise StoreAway(f"the status store is away: {public_reason(error)}") from error
        if was_there:  # else the status there has another event_id, or says why it is not kept
            keeping.note_deleted(task_id, name, event_id)
