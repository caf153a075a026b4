"""A small SVG: named points with error bars over two axes, for a browser or a README."""

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

WIDTH, HEIGHT = 720, 440
LEFT, RIGHT, TOP, BOTTOM = 76, 24, 44, 56  # margins
LINE = 14  # height of a line of text
CHARACTER = 6.6  # about the width of one, in pixels


@dataclass(frozen=True, slots=True)
class Point:
    x: float
    y: float
    error: float  # standard error of y
    label: str


@dataclass(frozen=True, slots=True)
class _Axis:
    """Maps values to pixels, linearly or by their logarithm."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        value, low, high = (
            (math.log10(v) if self.log else v) for v in (value, self.low, self.high)
        )
        return self.start + (value - low) / (high - low) * (self.end - self.start)


def write_scatter(
    path: Path,
    points: Sequence[Point],
    *,
    title: str,
    x_label: str,
    y_label: str,
    log_y: bool = False,
) -> None:
    """Draw the points into an SVG file, which is there whole or not at all.

    log_y: a logarithmic axis, if all y are above zero. Raises OSError where it cannot be written.
    """
    partial = path.with_name(f"{path.name}.partial-{os.getpid()}")
    try:
        with open(partial, "w", encoding="utf-8", newline="\n") as file:
            file.write(_draw(points, title, x_label, y_label, log_y))
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def _draw(points: Sequence[Point], title: str, x_label: str, y_label: str, log_y: bool) -> str:
    log_y = log_y and all(point.y > 0 for point in points)
    x_ticks = _ticks([point.x for point in points])
    if log_y:
        y_ticks = _log_ticks([point.y for point in points])
    else:
        y_ticks = _ticks([y for p in points for y in (p.y - p.error, p.y + p.error)])
    x = _Axis(x_ticks[0], x_ticks[-1], LEFT, WIDTH - RIGHT)
    y = _Axis(y_ticks[0], y_ticks[-1], HEIGHT - BOTTOM, TOP, log_y)
    middle = (TOP + HEIGHT - BOTTOM) / 2
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}"'
        ' font-family="sans-serif" font-size="12">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
        _text(LEFT, TOP - 20, title),
        _text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 14, x_label, 'text-anchor="middle"'),
        _text(16, middle, y_label, f'text-anchor="middle" transform="rotate(-90 16 {middle:.1f})"'),
    ]
    for tick in x_ticks:
        parts.append(_line(x(tick), TOP, x(tick), HEIGHT - BOTTOM, "#ddd"))
        parts.append(_text(x(tick), HEIGHT - BOTTOM + 18, f"{tick:g}", 'text-anchor="middle"'))
    for tick in y_ticks:
        parts.append(_line(LEFT, y(tick), WIDTH - RIGHT, y(tick), "#ddd"))
        parts.append(_text(LEFT - 8, y(tick) + 4, f"{tick:g}", 'text-anchor="end"'))
    labels: list[tuple[float, float, float]] = []  # left, right and baseline of those placed
    for point in sorted(points, key=lambda point: point.x):
        px, py = x(point.x), y(point.y)
        low = max(point.y - point.error, y.low)
        parts.append(_line(px, y(low), px, y(min(point.y + point.error, y.high)), "#1f5fa8"))
        parts.append(f'<circle cx="{px:.1f}" cy="{py:.1f}" r="4" fill="#1f5fa8"/>')
        width = CHARACTER * len(point.label)
        left = px + 8 if px + 8 + width < WIDTH else px - 8 - width
        baseline = py + 4
        while any(
            left < r and other < left + width and abs(baseline - b) < LINE for other, r, b in labels
        ):
            baseline += LINE
        labels.append((left, left + width, baseline))
        parts.append(_text(left, baseline, point.label))
    return "\n".join([*parts, "</svg>\n"])


def _line(x1: float, y1: float, x2: float, y2: float, colour: str) -> str:
    return f'<path d="M{x1:.1f} {y1:.1f}L{x2:.1f} {y2:.1f}" stroke="{colour}"/>'


def _text(x: float, y: float, words: str, attributes: str = "") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" {attributes}>{escape(words)}</text>'


def _ticks(values: Sequence[float]) -> list[float]:
    """Three to ten round numbers that enclose the values."""
    low, high = min(values), max(values)
    span = (high - low) or abs(high) or 1.0
    unit = 10.0 ** math.floor(math.log10(span))
    step = next(s * unit for s in (0.2, 0.5, 1.0, 2.0) if span / (s * unit) <= 8)
    first, last = math.floor(low / step), math.ceil(high / step)
    return [i * step for i in range(first, max(last, first + 1) + 1)]


def _log_ticks(values: Sequence[float]) -> list[float]:
    """Powers of ten that enclose the values, and 2 and 5 times these unless they are many."""
    steps = (1, 2, 5) if max(values) / min(values) < 1e3 else (1,)
    powers = range(math.floor(math.log10(min(values))), math.ceil(math.log10(max(values))) + 1)
    ticks = [step * 10.0**power for power in powers for step in steps]
    below = [tick for tick in ticks if tick <= min(values)]
    above = [tick for tick in ticks if tick >= max(values)]
    first, last = below[-1], above[0]
    if first == last:
        return [first / 2, first, first * 2]
    return [tick for tick in ticks if first <= tick <= last]
