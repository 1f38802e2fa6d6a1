"""Charts of the report as inline SVG: no libraries, no images, colours from the page's CSS variables.

Every function returns `Markup`; all text that comes from outside is escaped here. Coordinates are SVG user
units; charts scale to the width of their column.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from markupsafe import Markup, escape

MAX_POINTS = 240
SERIES = 6  # colour classes s0..s5 in the page's style


def _svg(width: float, height: float, body: Sequence[str], label: str) -> Markup:
    return Markup(
        f'<svg viewBox="0 0 {width:g} {height:g}" role="img" aria-label="{escape(label)}">'
        + "".join(body)
        + "</svg>"
    )


def _text(x: float, y: float, text: object, kind: str = "") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" class="{kind}">{escape(text)}</text>'


def nice_ticks(low: float, high: float, count: int = 4) -> list[float]:
    """Round numbers that span low..high."""
    span = high - low
    if span <= 0:
        return [low]
    raw = span / count
    magnitude = 10.0 ** math.floor(math.log10(raw))
    step = next(m * magnitude for m in (1, 2, 2.5, 5, 10) if m * magnitude >= raw)
    first = math.ceil(low / step - 1e-9)
    return [i * step for i in range(first, math.floor(high / step + 1e-9) + 1)]


def _label(value: float) -> str:
    return f"{value:.3g}" if value else "0"


def line_chart(
    title: str, lines: Mapping[str, Sequence[tuple[float, float]]], x_name: str = "step"
) -> Markup:
    """Training curves: (step, value) per line, thinned to MAX_POINTS by averaging; NaN is left out."""
    width, height, left, bottom, top, right = 360, 190, 44, 36, 10, 8
    thinned = {name: _thin(points) for name, points in lines.items()}
    values = [v for points in thinned.values() for _, v in points]
    steps = [s for points in thinned.values() for s, _ in points]
    if not values:
        return Markup('<p class="quiet">Nothing was logged.</p>')
    low, high = _padded(min(values), max(values))
    first, last = min(steps), max(max(steps), min(steps) + 1)

    def x(step: float) -> float:
        return left + (step - first) / (last - first) * (width - left - right)

    def y(value: float) -> float:
        return height - bottom - (value - low) / (high - low) * (height - bottom - top)

    body = []
    for tick in nice_ticks(low, high):
        body.append(
            f'<line x1="{left}" x2="{width - right}" y1="{y(tick):.1f}" y2="{y(tick):.1f}" class="grid"/>'
        )
        body.append(_text(left - 6, y(tick) + 4, _label(tick), "axis end"))
    for tick in nice_ticks(first, last, 5):
        body.append(_text(x(tick), height - 19, _label(tick), "axis mid"))
    body.append(_text(width - right, height - 3, x_name, "axis end"))
    for index, (name, points) in enumerate(thinned.items()):
        kind, title_of = f'class="line s{index % SERIES}"', f"<title>{escape(name)}</title>"
        at = [(f"{x(s):.1f}", f"{y(v):.1f}") for s, v in points]
        if len(at) == 1:  # a path of one point draws nothing
            body.append(f'<circle cx="{at[0][0]}" cy="{at[0][1]}" r="3" {kind}>{title_of}</circle>')
        elif at:
            body.append(f'<path d="M{" L".join(map(" ".join, at))}" {kind}>{title_of}</path>')
    return _svg(width, height, body, title) + legend(list(thinned))


def legend(names: Sequence[str]) -> Markup:
    """Colour keys under a chart; none for a single line."""
    if len(names) < 2:
        return Markup("")
    keys = "".join(
        f'<span><i class="key s{i % SERIES}"></i>{escape(name)}</span>' for i, name in enumerate(names)
    )
    return Markup(f'<div class="legend">{keys}</div>')


def _thin(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    known = [(float(s), float(v)) for s, v in points if math.isfinite(v)]
    if len(known) <= MAX_POINTS:
        return known
    parts = np.array_split(np.array(known), MAX_POINTS)
    return [(float(part[:, 0].mean()), float(part[:, 1].mean())) for part in parts]


def _padded(low: float, high: float) -> tuple[float, float]:
    pad = (high - low) * 0.06 or abs(high) * 0.1 or 1.0
    return low - pad, high + pad


def interval_chart(
    title: str, rows: Sequence[tuple[str, float | None, Sequence[float] | None, str]]
) -> Markup:
    """Differences with their intervals around a line at zero.

    Args:
        title: for readers that cannot see the chart.
        rows: (name, value, [low, high] or None, word of `compare.verdict`); value None = not measured.
    """
    width, left, right, step, top = 360, 90, 12, 27, 8
    height = top + step * len(rows) + 26
    known = [
        0.0,
        *(v for _, v, _, _ in rows if v is not None),
        *(b for _, _, ci, _ in rows for b in ci or ()),
    ]
    low, high = _padded(min(known), max(known))

    def x(value: float) -> float:
        return left + (value - low) / (high - low) * (width - left - right)

    body = []
    for tick in nice_ticks(low, high):
        kind = "zero" if abs(tick) < 1e-12 else "grid"
        body.append(
            f'<line x1="{x(tick):.1f}" x2="{x(tick):.1f}" y1="{top}" y2="{height - 22}" class="{kind}"/>'
        )
        body.append(_text(x(tick), height - 8, _label(tick), "axis mid"))
    for index, (name, value, bounds, word) in enumerate(rows):
        y = top + step * (index + 0.5)
        kind = word.replace(" ", "-")
        body.append(_text(left - 10, y + 4, name, "name end"))
        if value is None:
            body.append(_text(x(0) + 6, y + 4, "not measured", "axis"))
            continue
        if bounds is not None:
            body.append(
                f'<line x1="{x(bounds[0]):.1f}" x2="{x(bounds[1]):.1f}" y1="{y}" y2="{y}" '
                f'class="bar {kind}"/>'
            )
        body.append(f'<circle cx="{x(value):.1f}" cy="{y}" r="4.5" class="dot {kind}"/>')
    return _svg(width, height, body, title)


def histogram(
    title: str, values: Sequence[float], low: float = 0.0, high: float = 1.0, bins: int = 20
) -> Markup:
    """How often each value was given."""
    width, height, left, bottom, top = 300, 130, 8, 22, 8
    counts, _ = np.histogram(np.clip(values, low, high), bins=bins, range=(low, high))
    peak = max(int(counts.max()), 1)
    wide = (width - 2 * left) / bins
    body = []
    for index, count in enumerate(counts):
        tall = count / peak * (height - bottom - top)
        a, b = (low + (high - low) * (index + k) / bins for k in (0, 1))
        body.append(
            f'<rect x="{left + index * wide + 0.7:.1f}" y="{height - bottom - tall:.1f}" '
            f'width="{wide - 1.4:.1f}" '
            f'height="{tall:.1f}" rx="1.5" class="column"><title>{a:.2f} to {b:.2f}: {count}</title></rect>'
        )
    body.append(
        f'<line x1="{left}" x2="{width - left}" y1="{height - bottom}" y2="{height - bottom}" class="grid"/>'
    )
    for value in (low, (low + high) / 2, high):
        at = left + (value - low) / (high - low) * (width - 2 * left)
        body.append(_text(at, height - 6, _label(value), "axis mid" if low < value < high else "axis end"
                          if value == high else "axis"))  # fmt: skip
    return _svg(width, height, body, title)


def heat_map(
    title: str, weights_TL: np.ndarray, timesteps_T: Sequence[float], middle: float, reach: float
) -> Markup:
    """One expert's weight over timestep (across) and layer (down).

    Args:
        title: for readers that cannot see the chart.
        weights_TL: weight at each timestep and layer.
        timesteps_T: their times, 1 = noise.
        middle: the weight drawn without colour (the uniform average).
        reach: distance from the middle at full colour, the same for all experts.
    """
    steps, layers = weights_TL.shape
    left, top, width, cell = 30, 4, 320, 22
    wide = (width - left - 6) / steps
    height = top + cell * layers + 34
    order = np.argsort(timesteps_T)[::-1]
    body = []
    for layer in range(layers):
        body.append(_text(left - 6, top + cell * layer + cell / 2 + 4, layer + 1, "axis end"))
        for column, index in enumerate(order):
            weight = float(weights_TL[index, layer])
            strength = min(abs(weight - middle) / reach, 1.0) if reach > 0 else 0.0
            body.append(
                f'<rect x="{left + column * wide:.2f}" y="{top + cell * layer}" width="{wide + 0.3:.2f}" '
                f'height="{cell - 1.5}" class="{"more" if weight >= middle else "less"}" '
                f'fill-opacity="{strength:.3f}"><title>t = {timesteps_T[index]:.2f}, layer {layer + 1}: '
                f"{weight:.3f}</title></rect>"
            )
    body.append(_text(left, height - 18, f"t = {max(timesteps_T):.2f} (noise)", "axis"))
    body.append(_text(width - 6, height - 18, f"t = {min(timesteps_T):.2f}", "axis end"))
    body.append(_text(left, height - 4, "layers from top to bottom", "axis"))
    return _svg(width, height, body, title)
