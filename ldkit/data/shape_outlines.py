"""The outlines of the drawn classes, and how an outline becomes a mask.

An outline is a tuple of closed polygons; where two of them overlap there is a hole (even-odd
rule). Coordinates are pixels with x right and y down; pixel i covers [i, i + 1).
"""

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import Float32, Float64

SUPERSAMPLING = 8
_ARC_POINTS = 64

Polygon = Float64[np.ndarray, "N 2"]
Mask = Float32[np.ndarray, "H W"]


@dataclass(frozen=True, slots=True)
class Outline:
    """Polygons in pixels, and their extent `box` = (x1, y1, x2, y2)."""

    polygons: tuple[Polygon, ...]
    box: tuple[float, float, float, float]


def outline(name: str, *, side: float, stretch: float, angle: float) -> Outline:
    """Return the shape `name`, turned by `angle` radians, with x1 = y1 = 0.

    `stretch` is the ratio of the shape's own axes before turning. `side` is the square root of the
    area of the extent, in pixels.

    Raises:
        ValueError: `name` is not one of `CLASSES`.
    """
    if name not in _UNIT_POLYGONS:
        raise ValueError(f"unknown shape {name!r}: the shapes are {', '.join(CLASSES)}")
    cos, sin = np.cos(angle), np.sin(angle)
    turn_22 = np.array([[cos, sin], [-sin, cos]])
    axes_2 = np.array([stretch**0.5, stretch**-0.5])
    polygons = [polygon * axes_2 @ turn_22 for polygon in _UNIT_POLYGONS[name]()]
    low_2 = np.min([polygon.min(axis=0) for polygon in polygons], axis=0)
    high_2 = np.max([polygon.max(axis=0) for polygon in polygons], axis=0)
    scale = side / float(np.prod(high_2 - low_2)) ** 0.5
    width, height = (high_2 - low_2) * scale
    return Outline(
        tuple((polygon - low_2) * scale for polygon in polygons),
        (0.0, 0.0, float(width), float(height)),
    )


def coverage(polygons: tuple[Polygon, ...], hw: tuple[int, int]) -> Mask:
    """Return how much of each pixel the polygons cover, 0 … 1, on a canvas of `hw` pixels.

    Drawn at eight times the size and averaged, so edges are antialiased; OpenCV fills up to half
    a fine pixel beyond the outline, 0.06 pixels here.
    """
    height, width = hw
    fine = np.zeros((height * SUPERSAMPLING, width * SUPERSAMPLING), dtype=np.uint8)
    # fillPoly counts in sixteenths here, from the centre of the first fine pixel
    corners = [
        np.rint((polygon * SUPERSAMPLING - 0.5) * 16).astype(np.int32) for polygon in polygons
    ]
    cv2.fillPoly(fine, corners, 255, shift=4)
    mask = cv2.resize(fine, (width, height), interpolation=cv2.INTER_AREA)
    return mask.astype(np.float32) / np.float32(255)


def _arc(start: float, stop: float, radius: float = 1.0, centre_x: float = 0.0) -> Polygon:
    angles = np.linspace(start, stop, _ARC_POINTS, endpoint=False)
    return np.stack([centre_x + radius * np.cos(angles), radius * np.sin(angles)], axis=1)


def _regular(corners: int) -> Polygon:
    angles = np.arange(corners) * (2 * np.pi / corners) - np.pi / 2
    return np.stack([np.cos(angles), np.sin(angles)], axis=1)


def _circle() -> tuple[Polygon, ...]:
    return (_arc(0.0, 2 * np.pi),)


def _square() -> tuple[Polygon, ...]:
    return (np.array([[-1.0, -1.0], [1.0, -1.0], [1.0, 1.0], [-1.0, 1.0]]),)


def _triangle() -> tuple[Polygon, ...]:
    return (_regular(3),)


def _star() -> tuple[Polygon, ...]:
    tips = _regular(10)
    tips[1::2] *= 0.44
    return (tips,)


def _cross() -> tuple[Polygon, ...]:
    near, far = 0.34, 1.0
    quarter = np.array([[near, near], [near, far], [-near, far]])
    turn_22 = np.array([[0.0, 1.0], [-1.0, 0.0]])
    quarters = [quarter @ np.linalg.matrix_power(turn_22, turns) for turns in range(4)]
    return (np.concatenate(quarters),)


def _crescent() -> tuple[Polygon, ...]:
    # the inner arc runs back through the same two tips on a circle of radius .85
    tip, inner = 0.85, 0.85
    centre_x = np.cos(tip) - inner * np.cos(np.arcsin(np.sin(tip) / inner))
    half = float(np.arcsin(np.sin(tip) / inner))
    outer = _arc(tip, 2 * np.pi - tip)
    back = _arc(2 * np.pi - half, half, inner, float(centre_x))
    return (np.concatenate([outer, back]),)


def _heart() -> tuple[Polygon, ...]:
    angles = np.linspace(0, 2 * np.pi, _ARC_POINTS, endpoint=False)
    x = 16 * np.sin(angles) ** 3
    y = 13 * np.cos(angles) - 5 * np.cos(2 * angles) - 2 * np.cos(3 * angles) - np.cos(4 * angles)
    return (np.stack([x, -y], axis=1) / 16,)


def _ring() -> tuple[Polygon, ...]:
    return (_arc(0.0, 2 * np.pi), _arc(0.0, 2 * np.pi, radius=0.56))


def _arrow() -> tuple[Polygon, ...]:
    half = np.array([[-1.0, -0.3], [0.05, -0.3], [0.05, -0.8], [1.0, 0.0]])
    other = half[-2::-1] * np.array([1.0, -1.0])
    return (np.concatenate([half, other]),)


_UNIT_POLYGONS: dict[str, Callable[[], tuple[Polygon, ...]]] = {
    "circle": _circle,
    "square": _square,
    "triangle": _triangle,
    "star": _star,
    "cross": _cross,
    "crescent": _crescent,
    "heart": _heart,
    "ring": _ring,
    "arrow": _arrow,
}

CLASSES = tuple(_UNIT_POLYGONS)
