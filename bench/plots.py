"""Plots as SVG: one dot per variant on a logarithmic scale, with the range of its rounds; or lines from left to right.

Owns the drawing, which is readable on light and dark pages. Pure.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

_WIDTH = 760
_LEFT = 190  # where the scale begins
_RIGHT = 90  # what is left for the figure behind the last dot
_TOP = 58
_ROW = 26
_STYLE = """
text { font: 13px system-ui, sans-serif; fill: #24292f; }
.title { font-weight: 600; font-size: 15px; }
.note, .tick { fill: #57606a; font-size: 12px; }
.grid { stroke: #d0d7de; }
.other { fill: #6e7781; stroke: #6e7781; }
.ours { fill: #0969da; stroke: #0969da; }
text.ours { font-weight: 600; stroke: none; }
@media (prefers-color-scheme: dark) {
  text { fill: #e6edf3; }
  .note, .tick { fill: #9198a1; }
  .grid { stroke: #3d444d; }
  .other { fill: #9198a1; stroke: #9198a1; }
  .ours { fill: #4493f8; stroke: #4493f8; }
}
"""


_LINES_LEFT, _LINES_RIGHT, _LINES_HEIGHT = 40, 150, 260


@dataclass(frozen=True, slots=True)
class Dot:
    """One variant: the median of its rounds, the lowest and the highest. `is_ours` marks the gateway."""

    title: str
    middle: float
    lowest: float
    highest: float
    is_ours: bool


def dot_plot(title: str, unit: str, dots: Sequence[Dot]) -> str:
    """The plot; values have to be greater than 0. Each whole power of ten is marked."""
    first = math.floor(math.log10(min(dot.lowest for dot in dots)))
    last = max(math.ceil(math.log10(max(dot.highest for dot in dots))), first + 1)
    height = _TOP + _ROW * len(dots) + 12

    def x(value: float) -> float:
        return _LEFT + (math.log10(value) - first) / (last - first) * (_WIDTH - _LEFT - _RIGHT)

    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" role="img"',
        f' aria-label="{escape(title)}">',
        f"<style>{_STYLE}</style>",
        f'<text class="title" x="0" y="16">{escape(title)}</text>',
        f'<text class="note" x="0" y="34">{escape(unit)}; median, range of the rounds; logarithmic</text>',
    ]
    for power in range(first, last + 1):
        at = x(10**power)
        lines.append(f'<line class="grid" x1="{at:.1f}" y1="{_TOP - 6}" x2="{at:.1f}" y2="{height - 8}"/>')
        lines.append(f'<text class="tick" x="{at:.1f}" y="{_TOP - 10}" text-anchor="middle">{_tick(power)}</text>')
    for number, dot in enumerate(dots):
        lines += _row(dot, _TOP + _ROW * number + _ROW / 2, x(dot.lowest), x(dot.middle), x(dot.highest))
    return "\n".join([*lines, "</svg>", ""])


@dataclass(frozen=True, slots=True)
class Line:
    """One value per position, from 1 on."""

    title: str
    values: Sequence[float]


def line_plot(title: str, unit: str, lines: Sequence[Line]) -> str:
    """The plot, from 0 up. Each line has its title at its right end; all have the same number of values."""
    most, count = _round_up(max(max(line.values) for line in lines)), len(lines[0].values)
    bottom = _TOP + _LINES_HEIGHT

    def x(position: int) -> float:
        return _LINES_LEFT + (position - 1) / max(1, count - 1) * (_WIDTH - _LINES_LEFT - _LINES_RIGHT)

    def y(value: float) -> float:
        return bottom - max(0.0, value) / most * _LINES_HEIGHT

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {bottom + 28}" role="img"',
        f' aria-label="{escape(title)}">',
        f"<style>{_STYLE}</style>",
        f'<text class="title" x="0" y="16">{escape(title)}</text>',
        f'<text class="note" x="0" y="34">{escape(unit)}</text>',
    ]
    for number in range(5):
        value = most * number / 4
        parts += [
            f'<line class="grid" x1="{_LINES_LEFT}" y1="{y(value):.1f}" x2="{x(count):.1f}" y2="{y(value):.1f}"/>',
            f'<text class="tick" x="{_LINES_LEFT - 8}" y="{y(value) + 4:.1f}" text-anchor="end">{value:g}</text>',
        ]
    for position in (1, *range(10, count + 1, 10)):
        parts.append(
            f'<text class="tick" x="{x(position):.1f}" y="{bottom + 18}" text-anchor="middle">{position}</text>'
        )
    for line in lines:
        points = " ".join(f"{x(at):.1f},{y(value):.1f}" for at, value in enumerate(line.values, 1))
        parts += [
            f'<polyline class="ours" points="{points}" style="fill: none" stroke-width="2"/>',
            f'<text x="{x(count) + 10:.1f}" y="{y(line.values[-1]) + 4:.1f}">{escape(line.title)}</text>',
        ]
    return "\n".join([*parts, "</svg>", ""])


def _round_up(value: float) -> float:
    """The least of 1, 2, 4 or 10 times a power of ten that is not below the value: a fourth of it is a short number."""
    power: float = 10 ** math.floor(math.log10(value))
    return next(step * power for step in (1, 2, 4, 10) if value <= step * power)


def _tick(power: int) -> str:
    return f"{10**power:,}" if power >= 0 else f"{10**power:g}"


def _row(dot: Dot, y: float, left: float, middle: float, right: float) -> list[str]:
    kind = "ours" if dot.is_ours else "other"
    figure = f"{dot.middle:,.0f}" if dot.middle >= 100 else f"{dot.middle:.3g}"
    return [
        f'<text class="{"ours" if dot.is_ours else ""}" x="{_LEFT - 12}" y="{y + 4:.1f}" text-anchor="end">'
        f"{escape(dot.title)}</text>",
        f'<line class="{kind}" x1="{left:.1f}" y1="{y:.1f}" x2="{right:.1f}" y2="{y:.1f}" stroke-width="2"/>',
        f'<circle class="{kind}" cx="{middle:.1f}" cy="{y:.1f}" r="5"/>',
        f'<text x="{right + 10:.1f}" y="{y + 4:.1f}">{figure}</text>',
    ]
