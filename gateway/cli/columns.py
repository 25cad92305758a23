"""Which columns of a table fit into a window, how wide each is, and how a text is cut. Pure: widths in, columns out.

A width is a number of cells: most characters take one, a wide one (CJK, an emoji) takes two. The caller passes the
function that measures a text in cells.
"""

from bisect import bisect_right
from collections.abc import Callable, Sequence
from typing import NamedTuple

GAP = 2  # cells between two columns
ELLIPSIS = "…"
_SHORTEST_END = 4  # characters that stay at the end of an id: `batch-20…0042`

Measure = Callable[[str], int]


class Demand(NamedTuple):
    """What one column needs, in cells.

    `leaves_at` is its turn to leave a narrow window: the highest number leaves first, and 0 never leaves. `least` is
    the narrowest that can be read, `good` is comfortable, `whole` holds its longest text and may be less than both.
    """

    name: str
    leaves_at: int
    least: int
    good: int
    whole: int


def fit(demands: Sequence[Demand], width: int, *, is_chosen: bool = False) -> dict[str, int]:
    """The columns that fit into `width` cells, in the given order, each with its width. One column always stays.

    Columns of least worth leave until the others have a good width; the last one that left comes back if its least
    width is free. If the reader chose the columns, they leave until the others have their least width. What is left
    over goes first to those that have no good width, then to all that are cut.
    """
    kept, left = list(demands), []
    needed = _least if is_chosen else _good
    while len(kept) > 1 and _total(kept, needed) > width and (others := [d for d in kept if d.leaves_at]):
        left.append(max(others, key=lambda demand: demand.leaves_at))
        kept.remove(left[-1])
    if left and _total(kept, needed) + GAP + _least(left[-1]) <= width:
        kept = [demand for demand in demands if demand not in left[:-1]]
    widths = {demand.name: _least(demand) for demand in kept}
    spare = width - sum(widths.values()) - GAP * (len(kept) - 1)
    for demand in sorted(kept, key=lambda demand: demand.leaves_at):
        more = max(0, min(spare, _good(demand) - widths[demand.name]))
        widths[demand.name] += more
        spare -= more
    _share(kept, widths, spare)
    return widths


def _least(demand: Demand) -> int:
    return min(demand.least, demand.whole)


def _good(demand: Demand) -> int:
    return min(demand.good, demand.whole)


def _total(demands: Sequence[Demand], needed: Callable[[Demand], int]) -> int:
    return sum(map(needed, demands)) + GAP * (len(demands) - 1)


def _share(demands: Sequence[Demand], widths: dict[str, int], spare: int) -> None:
    """Gives `spare` cells to the columns that are cut, one cell to each in turn."""
    while spare > 0 and (cut := [demand for demand in demands if widths[demand.name] < demand.whole]):
        for demand in cut[:spare]:
            widths[demand.name] += 1
        spare -= len(cut)


def cut_end(text: str, width: int, measure: Measure) -> str:
    """`text` in at most `width` cells: its beginning."""
    if measure(text) <= width:
        return text
    return _beginning(text, width - 1, measure) + ELLIPSIS[: max(width, 0)]


def cut_middle(text: str, width: int, measure: Measure) -> str:
    """`text` in at most `width` cells: its beginning and its end, which tell ids apart."""
    if measure(text) <= width:
        return text
    room = max(width - 1, 0)
    end = _end(text, max(room // 3, min(_SHORTEST_END, room // 2)), measure)
    return _beginning(text, room - measure(end), measure) + ELLIPSIS[: max(width, 0)] + end


def _beginning(text: str, width: int, measure: Measure) -> str:
    size = bisect_right(range(1, len(text) + 1), max(width, 0), key=lambda size: measure(text[:size]))
    return text[:size]


def _end(text: str, width: int, measure: Measure) -> str:
    size = bisect_right(range(1, len(text) + 1), max(width, 0), key=lambda size: measure(text[-size:]))
    end = text[len(text) - size :]
    while end and measure(end[0]) == 0:  # a mark that belongs to the character that was cut off
        end = end[1:]
    return end


def rows_that_fit(count: int, height: int, others: int) -> int:
    """How many of `count` rows a window of `height` lines shows beside `others` other lines.

    If that is not all, one line more is for how many there are beyond.
    """
    room = height - others
    return count if count <= room else max(room - 1, 0)
