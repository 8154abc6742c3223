"""The drawings of a report as SVG inside the page, in its colours, so that they follow light and dark."""

from __future__ import annotations

import math
from collections.abc import Iterable
from html import escape

import numpy as np
from numpy.typing import ArrayLike, NDArray

from jaxplain.render.curves import Curve
from jaxplain.render.graph import style
from jaxplain.render.graph.patches import outlines
from jaxplain.render.graph.svg import graph_body
from jaxplain.sag import AttentionGraph

_WIDTH, _HEIGHT = 300, 176
_LEFT, _RIGHT, _TOP, _BOTTOM = 34, 8, 8, 34
_TOPS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0)  # of the axis; halves of them are short numbers
_ROOM = 3  # around the graph, for frames that reach over the edge


def axis_top(curves: Iterable[Curve]) -> float:
    """The upper end of an axis that several pairs of curves share.

    Example:
        >>> axis_top([Curve([0, 1], [0.57, 0.1], 0.2)]), axis_top([])
        (0.6, 1.0)
    """
    values = [float(value) for curve in curves for value in np.asarray(curve.score) if math.isfinite(value)]
    return next((top for top in _TOPS if values and top >= max(values)), 1.0)


def curves_svg(deletion: Curve, insertion: Curve, top: float, name: str) -> str:
    """Deletion (dashed) and insertion on one pair of axes, fractions of the cells against probability.

    Args:
        deletion: T points.
        insertion: as many.
        top: upper end of the vertical axis, above 0.
        name: of what is drawn, for those who cannot see it.

    Returns:
        An SVG element. Points that are not finite are left out.

    Example:
        >>> curve = Curve([0, 1], [0.5, 0.1], 0.3)
        >>> curves_svg(curve, curve, 1.0, "a <name>").count("class='del")
        2
    """
    parts = [_grid(top)]
    for kind, curve in (("ins", insertion), ("del", deletion)):
        line = _path(curve.fraction, curve.score, top)
        if line:
            x0, x1 = (f"{_x(float(np.asarray(curve.fraction)[at])):.1f}" for at in (0, -1))
            area = f"{line}L{x1} {_y(0, top):.1f}L{x0} {_y(0, top):.1f}Z"
            parts.append(f"<path class='{kind} area' d='{area}'/><path class='{kind} line' d='{line}'/>")
    return (
        f"<svg class='curves' viewBox='0 0 {_WIDTH} {_HEIGHT}' role='img' aria-label='{escape(name)}'>"
        f"{''.join(parts)}</svg>"
    )


def _x(fraction: float) -> float:
    return _LEFT + fraction * (_WIDTH - _LEFT - _RIGHT)


def _y(score: float, top: float) -> float:
    return _HEIGHT - _BOTTOM - min(1.0, max(0.0, score / top)) * (_HEIGHT - _TOP - _BOTTOM)


def _grid(top: float) -> str:
    lines = [
        f"<path class='grid' d='M{_LEFT} {_y(tick, top):.1f}H{_WIDTH - _RIGHT}'/>"
        f"<text x='{_LEFT - 5}' y='{_y(tick, top) + 4:.1f}' text-anchor='end'>{tick:.3g}</text>"
        for tick in (0.0, top / 2, top)
    ]
    for at, anchor in ((0.0, "start"), (0.5, "middle"), (1.0, "end")):
        words = {0.0: "0%", 0.5: "cells, most important first", 1.0: "100%"}[at]
        lines.append(f"<text x='{_x(at):.1f}' y='{_HEIGHT - 16}' text-anchor='{anchor}'>{words}</text>")
    return "".join(lines)


def _path(fraction: ArrayLike, score: ArrayLike, top: float) -> str:
    points = [
        f"{_x(float(x)):.1f} {_y(float(y), top):.1f}"
        for x, y in zip(np.asarray(fraction), np.asarray(score), strict=True)
        if math.isfinite(float(y))
    ]
    return "M" + "L".join(points) if points else ""


def patches_svg(patches: Iterable[int], grid: tuple[int, int]) -> str:
    """Outlines and numbers of patches, to be laid over a picture of any shape.

    Args:
        patches: their numbers.
        grid: ``(rows, columns)`` of patches.

    Returns:
        An SVG element that stretches with what it lies on.

    Example:
        >>> patches_svg([2], (2, 2)).count("<rect")
        1
    """
    boxes = outlines(grid)
    parts = []
    for patch in patches:
        left, top, right, bottom = (100 * side for side in boxes[patch])
        parts.append(
            f"<rect x='{left:.2f}' y='{top:.2f}' width='{right - left:.2f}' height='{bottom - top:.2f}'/>"
            f"<text x='{(left + right) / 2:.2f}' y='{(top + bottom) / 2 + 1.7:.2f}'>{patch}</text>"
        )
    return (
        "<svg class='patches' viewBox='0 0 100 100' preserveAspectRatio='none' aria-hidden='true'>"
        f"{''.join(parts)}</svg>"
    )


def graph_svg(graph: AttentionGraph, rgb: NDArray[np.uint8], hidden: NDArray[np.uint8], name: str) -> str:
    """The attention graph as `render.graph` draws it, without the document and the photo around it.

    Args:
        graph: to be drawn.
        rgb: uint8 ``[H, W, 3]``, the photo as the model saw it.
        hidden: uint8 ``[H, W, 3]``, the baseline as a picture.
        name: for those who cannot see it.

    Returns:
        An SVG element.

    Raises:
        ValueError: pictures of different shapes.

    Example:
        >>> empty, black = AttentionGraph((1, 1), 1.0, 0.0, 0.9, 0.4, (), ()), np.zeros((4, 4, 3), np.uint8)
        >>> "no sufficient set" in graph_svg(empty, black, black, "nothing")
        True
    """
    sizes = style.plan(graph, rgb.shape, "auto")
    width, height = max(sizes.layout.width, 220) + 2 * _ROOM, max(sizes.layout.height, 30) + 2 * _ROOM
    return (
        f"<svg class='graph' viewBox='0 0 {width:.0f} {height:.0f}' width='{width:.0f}' role='img' "
        f"aria-label='{escape(name)}'><g transform='translate({_ROOM} {_ROOM})'>"
        f"{graph_body(graph, rgb, hidden, sizes)}</g></svg>"
    )
