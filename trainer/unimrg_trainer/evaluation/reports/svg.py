"""Small drawings as SVG text: selectable words, a title and a description for those who do not see them.

Drawn for a width of 340 units, a phone's. Colours are classes of the page's style sheet (page.css), so that one drawing
serves light, dark and print; every series has a marker of its own besides.
"""

from __future__ import annotations

import html
import math
from collections.abc import Sequence

WIDTH = 340
SERIES = 7
"""Colours, and as many markers."""


_MARKERS: dict[int, list[tuple[float, float]]] = {
    1: [(-1, -1), (1, -1), (1, 1), (-1, 1)],
    2: [(0, -1.2), (1.15, 0.9), (-1.15, 0.9)],
    3: [(0, -1.35), (1.35, 0), (0, 1.35), (-1.35, 0)],
    4: [(0, 1.2), (1.15, -0.9), (-1.15, -0.9)],
    5: [(-1.2, -0.5), (1.2, -0.5), (1.2, 0.5), (-1.2, 0.5)],
    6: [(-0.5, -1.2), (0.5, -1.2), (0.5, 1.2), (-0.5, 1.2)],
}
"""Corners of the marker of each series but 0, which is a circle."""


class Drawing:
    """Collects the elements of one drawing."""

    def __init__(self, height: int, title: str, description: str) -> None:
        self.height = height
        self._title, self._description = title, description
        self._parts: list[str] = []

    def line(self, x1: float, y1: float, x2: float, y2: float, style: str = "axis") -> None:
        """Draw a straight line of a class of the style sheet."""
        self._parts.append(f'<line class="{style}" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>')

    def path(self, points: Sequence[tuple[float, float]], style: str) -> None:
        """Draw a line through points."""
        places = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        self._parts.append(f'<polyline class="{style}" points="{places}"/>')

    def text(self, x: float, y: float, text: str, anchor: str = "start", style: str = "") -> None:
        """Write text whose start, middle or end is at x."""
        kind = f' class="{style}"' if style else ""
        self._parts.append(
            f'<text{kind} x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{html.escape(text, quote=False)}</text>'
        )

    def marker(self, x: float, y: float, series: int, words: str = "") -> None:
        """Draw a series' marker; `words` are shown by a browser that points at it."""
        size = 4.2
        corners = _MARKERS.get(series % SERIES)
        inner = f"<title>{html.escape(words, quote=False)}</title>" if words else ""
        kind = f'class="mark s{series % SERIES}"'
        if corners is None:
            self._parts.append(f'<circle {kind} cx="{x:.1f}" cy="{y:.1f}" r="{size}">{inner}</circle>')
        else:
            places = " ".join(f"{x + size * dx:.1f},{y + size * dy:.1f}" for dx, dy in corners)
            self._parts.append(f'<polygon {kind} points="{places}">{inner}</polygon>')

    def arrow(self, x1: float, y1: float, x2: float, y2: float, series: int) -> None:
        """Draw an arrow that ends a little before its target."""
        length = math.hypot(x2 - x1, y2 - y1)
        if length < 14:
            return
        dx, dy = (x2 - x1) / length, (y2 - y1) / length
        x, y = x2 - 7 * dx, y2 - 7 * dy
        style = f"curve s{series % SERIES}"
        self.line(x1 + 5 * dx, y1 + 5 * dy, x, y, style)
        self.path(
            [(x - 5 * dx - 3 * dy, y - 5 * dy + 3 * dx), (x, y), (x - 5 * dx + 3 * dy, y - 5 * dy - 3 * dx)], style
        )

    def render(self) -> str:
        """Return the element."""
        head = (
            f'<svg viewBox="0 0 {WIDTH} {self.height}" role="img">'
            f"<title>{html.escape(self._title, quote=False)}</title>"
            f"<desc>{html.escape(self._description, quote=False)}</desc>"
        )
        return f"{head}{''.join(self._parts)}</svg>"


class Scale:
    """Maps values to places, with a margin around the values and round ticks."""

    def __init__(self, values: Sequence[float], first: float, last: float) -> None:
        low, high = min(values), max(values)
        margin = 0.06 * (high - low) or max(abs(high) * 0.05, 0.5)
        self._low, self._high = low - margin, high + margin
        self._first, self._last = first, last

    def __call__(self, value: float) -> float:
        """Return the place of a value."""
        share = (value - self._low) / (self._high - self._low)
        return self._first + share * (self._last - self._first)

    def ticks(self, most: int = 5) -> list[float]:
        """Return at most so many round values within the scale, about."""
        span = (self._high - self._low) / most
        power = 10.0 ** math.floor(math.log10(span))
        step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= span)
        first = math.ceil(self._low / step)
        return [step * number for number in range(first, math.floor(self._high / step) + 1)]


def tick_text(value: float) -> str:
    """Return a tick's label."""
    return f"{value:.6g}".replace("-", "−")
