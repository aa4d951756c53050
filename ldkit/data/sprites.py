"""One drawn object, ready to be laid on a scene: its true extent, its soft edges, its paint.

The uncertain zone of a soft edge is `ZONE` · softness of the object's side, measured inwards:
- faded: the object vanishes towards the edge; in the middle of the fade it is half transparent;
- blurred: the silhouette is smeared around the edge;
- occluded: a bar in the object's own texture lies over the edge and reaches a random way beyond.
"""

import math
from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np
from jaxtyping import Float64

from ldkit.data.shape_outlines import CLASSES, Mask, Outline, Polygon, coverage, outline
from ldkit.data.textures import Field, Paint, lit, object_field, object_palette

ZONE = 0.25
"""Uncertain part of an object's side at softness 1."""

Box = tuple[float, float, float, float]
"""x1, y1, x2, y2 in pixels."""
Kind = Literal["sharp", "faded", "blurred", "occluded"]
_SOFT_KINDS: tuple[Kind, ...] = ("faded", "faded", "occluded", "occluded", "blurred")


@dataclass(frozen=True, slots=True)
class Edge:
    """How uncertain one edge of a box is: 0 (`sharp`) … 1."""

    softness: float
    kind: Kind


SHARP = Edge(0.0, "sharp")
Edges = tuple[Edge, Edge, Edge, Edge]
"""The edges of a box: left, top, right, bottom."""


@dataclass(frozen=True, slots=True)
class Sprite:
    """One object on its own canvas; `box` is the extent of the object on that canvas.

    `shape` is the true silhouette, `alpha` what is painted of it, `bars` what the bars cover.
    """

    label: int
    box: Box
    edges: Edges
    shape: Mask
    alpha: Mask
    bars: Mask
    shadow: Mask
    paint: Paint
    bar_paint: Paint


def draw_edges(rng: np.random.Generator, ambiguous: float) -> Edges:
    """Return edges of which each is soft with probability `ambiguous` (0 … 0.5).

    Soft edges come together: half of the objects have none.
    """
    share = 2 * ambiguous * (rng.random() < 0.5)
    soft_4 = rng.random(4) < share
    kind_4 = rng.integers(len(_SOFT_KINDS), size=4)
    softness_4 = rng.uniform(0.3, 1.0, 4).round(3)
    left, top, right, bottom = (
        Edge(float(softness), _SOFT_KINDS[kind]) if soft else SHARP
        for soft, softness, kind in zip(soft_4, softness_4, kind_4, strict=True)
    )
    return left, top, right, bottom


def draw_sprite(rng: np.random.Generator, *, side: float, unit: float, ambiguous: float) -> Sprite:
    """Return a random object whose extent has the area `side`² (pixels).

    `unit` is the length that counts as one pixel of a 128 pixel image; `ambiguous` is the share of
    soft edges.
    """
    label = int(rng.integers(len(CLASSES)))
    form = outline(
        CLASSES[label],
        side=side,
        stretch=math.exp(rng.uniform(-0.25, 0.25)),
        angle=rng.uniform(0, 2 * math.pi),
    )
    edges = draw_edges(rng, ambiguous)
    # room for bars, blur and shadow
    margin = math.ceil(1.4 * ZONE * max(form.box) + 2 * unit)
    form, hw = _on_canvas(form, rng.random(2), margin)
    shape = coverage(form.polygons, hw)
    bars = _bars(rng, form, edges, hw)
    palette = object_palette(rng, label, len(CLASSES))
    paint = lit(palette.paint(object_field(rng, hw, unit)))
    bar_paint = np.clip(paint + rng.uniform(10, 22) * rng.choice((-1.0, 1.0)).item(), 0, 255)
    alpha = _soften(shape, form.box, edges)
    shade = _shadow(np.maximum(alpha, bars), unit)
    return Sprite(label, form.box, edges, shape, alpha, bars, shade, paint, bar_paint)


def _shadow(cover: Mask, unit: float) -> Mask:
    """Return how much darker the ground is under a sprite: a soft copy, to the lower right."""
    shift_23 = np.array([[1, 0, unit], [0, 1, 1.3 * unit]])
    moved = cv2.warpAffine(cover, shift_23, cover.shape[::-1])
    return cv2.GaussianBlur(moved, (0, 0), 1.6 * unit) * 0.4


def _on_canvas(
    form: Outline, fraction_2: Float64[np.ndarray, "2"], margin: int
) -> tuple[Outline, tuple[int, int]]:
    """Return the outline moved inwards by `margin` and a fraction of a pixel, and the canvas."""
    shift_2 = fraction_2 + margin
    _, _, width, height = form.box
    x1, y1 = float(shift_2[0]), float(shift_2[1])
    moved = Outline(
        tuple(polygon + shift_2 for polygon in form.polygons), (x1, y1, x1 + width, y1 + height)
    )
    return moved, (int(y1 + height) + margin + 1, int(x1 + width) + margin + 1)


def _inward(box: Box, hw: tuple[int, int]) -> list[Field]:
    """Return, for each edge, the distance of pixel centres inwards from it, as a row or column."""
    x = np.arange(hw[1], dtype=np.float32)[None, :] + 0.5
    y = np.arange(hw[0], dtype=np.float32)[:, None] + 0.5
    x1, y1, x2, y2 = box
    return [x - x1, y - y1, x2 - x, y2 - y]


def _soften(shape: Mask, box: Box, edges: Edges) -> Mask:
    """Return the silhouette with its faded and blurred edges."""
    alpha = shape
    sides = (box[2] - box[0], box[3] - box[1]) * 2
    for edge, side, inward in zip(edges, sides, _inward(box, shape.shape), strict=True):
        zone = ZONE * edge.softness * side
        if edge.kind == "faded":
            alpha = alpha * _smooth(inward / (2 * zone))
        if edge.kind == "blurred":
            near = 1 - _smooth(inward / zone - 1)
            alpha = alpha + near * (cv2.GaussianBlur(alpha, (0, 0), zone / 2) - alpha)
    return alpha


def _smooth(ramp: Field) -> Field:
    """Return 0 … 1 along the ramp 0 … 1, level at both ends."""
    clipped: Field = np.clip(ramp, 0, 1)
    smooth: Field = clipped * clipped * (3 - 2 * clipped)
    return smooth


def _bars(rng: np.random.Generator, form: Outline, edges: Edges, hw: tuple[int, int]) -> Mask:
    """Return what bars over the occluded edges cover."""
    bars = np.zeros(hw, dtype=np.float32)
    for position, edge in enumerate(edges):
        if edge.kind == "occluded":
            bar = _bar(rng, form.box, position, edge.softness)
            bars = np.maximum(bars, coverage((bar,), hw))
    return bars


def _bar(
    rng: np.random.Generator,
    box: Box,
    position: int,
    softness: float,
) -> Polygon:
    """Return a slightly tilted bar over the edge number `position` (left, top, right, bottom)."""
    centre_2 = np.array([box[0] + box[2], box[1] + box[3]]) / 2
    half_2 = np.array([box[2] - box[0], box[3] - box[1]]) / 2
    axis = position % 2
    outward = -1 if position < 2 else 1
    inner = 2 * half_2[axis] * ZONE * softness
    outer = inner * rng.uniform(0.2, 1.1)
    half_length = half_2[1 - axis] * rng.uniform(1.02, 1.18)
    across = outward * (half_2[axis] + np.array([-inner, outer, outer, -inner]))
    along = half_length * np.array([-1, -1, 1, 1])
    corners_2 = (across, along) if axis == 0 else (along, across)
    tilt = rng.uniform(-0.06, 0.06)
    cos, sin = math.cos(tilt), math.sin(tilt)
    turn_22 = np.array([[cos, sin], [-sin, cos]])
    bar: Polygon = np.stack(corners_2, axis=1) @ turn_22 + centre_2
    return bar
