"""Which columns fit, how wide they are, and how a text is cut: widths in, columns out."""

from __future__ import annotations

import pytest
from rich.cells import cell_len

from gateway.cli.columns import GAP, Demand, cut_end, cut_middle, fit, rows_that_fit

TASK = Demand("task", 0, 9, 16, 36)
STATE = Demand("state", 0, 7, 7, 7)
STAGE = Demand("stage", 1, 8, 20, 20)
REQUEST = Demand("request", 3, 12, 14, 25)
AGE = Demand("age", 2, 7, 7, 7)
ALL = [TASK, STATE, STAGE, REQUEST, AGE]


@pytest.mark.parametrize(
    ("width", "names"),
    [
        (20, ["task", "state"]),
        (35, ["task", "state", "stage"]),  # its least width is free
        (49, ["task", "state", "stage"]),
        (58, ["task", "state", "stage", "age"]),
        (70, ["task", "state", "stage", "request", "age"]),
        (400, ["task", "state", "stage", "request", "age"]),
    ],
)
def test_columns_leave_in_their_order_of_worth(width: int, names: list[str]) -> None:
    """Those that stay keep their order; the first two never leave."""
    assert list(fit(ALL, width)) == names


@pytest.mark.parametrize("is_chosen", [True, False])
def test_they_are_never_wider_than_the_window(is_chosen: bool) -> None:
    """Each has at least its least width, none more than its text takes, and no cell is wasted while a text is cut."""
    by_name = {demand.name: demand for demand in ALL}
    for width in range(18, 200):
        widths = fit(ALL, width, is_chosen=is_chosen)
        total = sum(widths.values()) + GAP * (len(widths) - 1)
        assert total <= width
        assert all(by_name[name].least <= cells <= by_name[name].whole for name, cells in widths.items())
        assert total == width or all(cells == by_name[name].whole for name, cells in widths.items())


def test_chosen_columns_stay_while_their_least_width_fits() -> None:
    """Texts are cut harder before a chosen column leaves."""
    least = sum(demand.least for demand in ALL) + GAP * 4
    assert list(fit(ALL, least, is_chosen=True)) == [demand.name for demand in ALL]
    assert len(fit(ALL, least)) < len(ALL)
    assert list(fit(ALL, least - 1, is_chosen=True)) == ["task", "state", "stage", "age"]


def test_one_column_always_stays() -> None:
    """Also if it is wider than the window."""
    assert fit([REQUEST, AGE], 3, is_chosen=True) == {"age": 7}


@pytest.mark.parametrize(
    ("text", "width", "cut"),
    [
        ("batch-2026-11-30-run-0042", 25, "batch-2026-11-30-run-0042"),
        ("batch-2026-11-30-run-0042", 16, "batch-2026…-0042"),
        ("batch-2026-11-30-run-0042", 9, "batc…0042"),
        ("batch-2026-11-30-run-0042", 1, "…"),
        ("batch-2026-11-30-run-0042", 0, ""),
        ("漢字漢字漢字漢字", 9, "漢字…漢字"),
        ("漢字漢字漢字漢字", 8, "漢字…字"),
        ("e\u0301" * 12, 9, "e\u0301" * 4 + "…" + "e\u0301" * 4),
        ("🚀" * 12, 10, "🚀🚀…🚀🚀"),
    ],
)
def test_ids_are_cut_in_the_middle(text: str, width: int, cut: str) -> None:
    """Beginning and end stay visible; a wide character is never halved, and a mark never loses its letter."""
    assert cut_middle(text, width, cell_len) == cut
    assert cell_len(cut) <= width


@pytest.mark.parametrize(
    ("text", "width", "cut"),
    [
        ("upstream_unavailable", 20, "upstream_unavailable"),
        ("upstream_unavailable", 12, "upstream_un…"),
        ("漢字漢字", 6, "漢字…"),
        ("漢字漢字", 1, "…"),
        ("x", 0, ""),
    ],
)
def test_other_texts_keep_their_beginning(text: str, width: int, cut: str) -> None:
    """They are cut at the end."""
    assert cut_end(text, width, cell_len) == cut
    assert cell_len(cut) <= width


@pytest.mark.parametrize(
    ("count", "height", "others", "shown"),
    [(20, 40, 2, 20), (20, 22, 2, 20), (20, 21, 2, 18), (20, 5, 2, 2), (20, 3, 2, 0), (20, 1, 2, 0), (0, 1, 2, 0)],
)
def test_a_low_window_shows_the_first_rows(count: int, height: int, others: int, shown: int) -> None:
    """One line is kept for the number of those that do not fit."""
    assert rows_that_fit(count, height, others) == shown
