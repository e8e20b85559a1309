"""Line plots as SVG without a plotting library. The x axis is logarithmic, the y axis starts at 0."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from html import escape
from math import log10
from typing import Any

WIDTH, HEIGHT = 640, 360
LEFT, RIGHT, TOP, BOTTOM = 64, 150, 40, 48
LABEL_WIDTH = 40  # width in pixels reserved for a label of the x axis
COLOURS = ("#1f6feb", "#d1242f", "#1a7f37", "#9a6700", "#8250df", "#57606a")


@dataclass(frozen=True, kw_only=True, slots=True)
class Curve:
    """A named line through points (x, y)."""

    name: str
    points: tuple[tuple[float, float], ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Plot:
    """Curves over one pair of axes; `name` is the name of the file without its suffix."""

    name: str
    title: str
    x: str
    y: str
    curves: tuple[Curve, ...]

    def as_json(self) -> dict[str, Any]:
        """Return the plot for the JSON file."""
        return asdict(self)

    def svg(self) -> str:
        """Return the plot as an SVG document."""
        xs = sorted({x for curve in self.curves for x, _ in curve.points})
        top = max(y for curve in self.curves for _, y in curve.points) * 1.1 or 1.0
        low, high = log10(xs[0]), log10(xs[-1])

        def x_position(x: float) -> float:
            part = (log10(x) - low) / (high - low) if high > low else 0.5
            return LEFT + part * (WIDTH - LEFT - RIGHT)

        def y_position(y: float) -> float:
            return HEIGHT - BOTTOM - y / top * (HEIGHT - TOP - BOTTOM)

        parts = [_text(LEFT, 20, self.title, size=14), _text(LEFT, HEIGHT - 8, self.x), _text(4, 34, self.y)]
        for part in range(5):
            y = top * part / 4
            parts += [
                _line(LEFT, y_position(y), WIDTH - RIGHT, y_position(y)),
                _text(4, y_position(y) + 4, _short(y)),
            ]
        free_from = 0.0
        for x in xs:
            if x_position(x) >= free_from:
                parts.append(_text(x_position(x) - 12, HEIGHT - BOTTOM + 16, _short(x)))
                free_from = x_position(x) + LABEL_WIDTH
        for number, curve in enumerate(self.curves):
            colour = COLOURS[number % len(COLOURS)]
            points = " ".join(f"{x_position(x):.1f},{y_position(y):.1f}" for x, y in curve.points)
            parts.append(f'<polyline fill="none" stroke="{colour}" stroke-width="2" points="{points}"/>')
            parts += [
                f'<circle cx="{x_position(x):.1f}" cy="{y_position(y):.1f}" r="3" fill="{colour}"/>'
                for x, y in curve.points
            ]
            parts.append(_text(WIDTH - RIGHT + 12, TOP + 16 * number + 8, curve.name, colour=colour))
        body = "\n".join(parts)
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif"'
            f' role="img" aria-label="{escape(self.title)}">\n<rect width="100%" height="100%" fill="#ffffff"/>\n'
            f"{body}\n</svg>\n"
        )


def _text(x: float, y: float, text: str, *, size: int = 11, colour: str = "#24292f") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" fill="{colour}">{escape(text)}</text>'


def _line(x: float, y: float, to_x: float, to_y: float) -> str:
    return f'<line x1="{x:.1f}" y1="{y:.1f}" x2="{to_x:.1f}" y2="{to_y:.1f}" stroke="#d0d7de"/>'


def _short(value: float) -> str:
    for limit, unit in ((1e6, "M"), (1e3, "k")):
        if value >= limit:
            return f"{value / limit:.3g} {unit}"
    return f"{value:.3g}"
