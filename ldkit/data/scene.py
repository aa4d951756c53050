"""One drawn scene: a textured ground and up to twelve objects, some over others.

Sizes are relative to the image. `REFERENCE_PX` is the width at which COCO's limits of area (small
below 32² pixels, large above 96²) part the drawn sizes as they part COCO's: about 40, 35 and 25 %
small, medium and large. Axes: G objects in order of drawing, later over earlier.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float32, UInt8

from ldkit.data.sprites import ZONE, Box, Edge, Edges, Sprite, draw_sprite
from ldkit.data.textures import ground_field, ground_palette

REFERENCE_PX = 224
SMALLEST = 0.1
"""Least side (root of the box's area) of an object, as a share of the image's side."""
LARGEST = 0.7
LEAST_VISIBLE = 0.5
"""Share of an object that fades, bars and other objects must leave to be seen."""
MOST_OVERLAP = 0.45
"""Share of the smaller of two objects that may lie within the other."""

_COUNT_WEIGHTS = np.array([5, 10, 13, 14, 13, 11, 9, 8, 6, 5, 3, 3]) / 100
_SIZE_WEIGHTS = np.array([0.39, 0.35, 0.26])
_SIZE_LIMITS = (SMALLEST, 32 / REFERENCE_PX, 96 / REFERENCE_PX, LARGEST)
_SPRITES, _SPOTS = 3, 10
_SEEN = LEAST_VISIBLE - 0.05


@dataclass(frozen=True, slots=True)
class Placed:
    """One object of a scene: its class, its true extent (x1, y1, x2, y2 in pixels), its edges."""

    label: int
    box: Box
    edges: Edges
    visible: float


@dataclass(frozen=True, slots=True)
class Scene:
    """A drawn image (RGB) and its objects; `shapes` are whole silhouettes, hidden parts too."""

    pixels: UInt8[np.ndarray, "H W 3"]
    objects: tuple[Placed, ...]
    shapes: Float32[np.ndarray, "G H W"]


def draw_scene(rng: np.random.Generator, *, size_px: int, ambiguous: float) -> Scene:
    """Return a square scene of `size_px` with 1 to 12 objects.

    `ambiguous` (0 … 0.5) is the share of edges that are drawn soft. Edges that other objects
    happen to hide are recorded as occluded on top of that.
    """
    unit = size_px / 128
    hw = (size_px, size_px)
    ground = ground_palette(rng).paint(ground_field(rng, hw, unit))
    sides = _draw_sides(rng) * size_px
    canvas = _Canvas(ground, len(sides))
    for side in sides:
        for left in reversed(range(_SPRITES)):
            # the last try has sharp edges: it always leaves room for at least one object
            share = ambiguous if left else 0.0
            sprite = draw_sprite(rng, side=float(side), unit=unit, ambiguous=share)
            if canvas.place(rng, sprite):
                break
    return canvas.finished()


def _draw_sides(rng: np.random.Generator) -> Float32[np.ndarray, "G"]:
    """Return the sides of the objects as shares of the image, mostly large ones first."""
    count = 1 + int(rng.choice(len(_COUNT_WEIGHTS), p=_COUNT_WEIGHTS))
    size_G = rng.choice(3, size=count, p=_SIZE_WEIGHTS)
    limits = np.log(_SIZE_LIMITS)
    log_G = limits[size_G] + rng.random(count) * np.diff(limits)[size_G]
    order_G = np.argsort(-log_G + rng.normal(0, 0.5, count))
    return np.exp(log_G[order_G]).astype(np.float32)


class _Canvas:
    """A scene in the making.

    Of each object: its silhouette, the part that nothing covers yet, and the part still to be
    seen, which also leaves out what has faded.
    """

    def __init__(self, ground: Float32[np.ndarray, "H W 3"], capacity: int) -> None:
        self.pixels = ground
        self.size = ground.shape[0]
        self.sprites: list[Sprite] = []
        self.boxes: list[Box] = []
        self.shapes = np.zeros((capacity, self.size, self.size), dtype=np.float32)
        self.uncovered = np.zeros_like(self.shapes)
        self.seen = np.zeros_like(self.shapes)

    def place(self, rng: np.random.Generator, sprite: Sprite) -> bool:
        """Lay the sprite on a random spot where all stay visible; return whether one was found."""
        x1, y1, x2, y2 = sprite.box
        low = np.ceil([-x1, -y1]).astype(int)
        high = np.floor([self.size - x2, self.size - y2]).astype(int)
        if (high < low).any():
            return False
        for x, y in rng.integers(low, high + 1, size=(_SPOTS, 2)).tolist():
            if self._fits(sprite, x, y):
                self._lay(sprite, x, y)
                return True
        return False

    def _windows(
        self, sprite: Sprite, x: int, y: int
    ) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
        """Return the part of the canvas under a sprite at (x, y), and that part of the sprite."""
        height, width = sprite.shape.shape
        top, left = max(y, 0), max(x, 0)
        bottom, right = min(y + height, self.size), min(x + width, self.size)
        here = (slice(top, bottom), slice(left, right))
        return here, (slice(top - y, bottom - y), slice(left - x, right - x))

    def _fits(self, sprite: Sprite, x: int, y: int) -> bool:
        here, own = self._windows(sprite, x, y)
        shape, bars = sprite.shape[own], sprite.bars[own]
        count, area = len(self.sprites), float(shape.sum())
        alpha = np.minimum(sprite.alpha[own], shape)
        if float((alpha * (1 - bars)).sum()) < LEAST_VISIBLE * area:
            return False
        covering = 1 - (1 - sprite.alpha[own]) * (1 - bars)
        area_G = self.shapes[:count].sum((1, 2))
        seen_G = self.seen[:count].sum((1, 2)) - (self.seen[:count, *here] * covering).sum((1, 2))
        shared_G = (self.shapes[:count, *here] * shape).sum((1, 2))
        hidden_G = seen_G < LEAST_VISIBLE * area_G
        nested_G = shared_G > MOST_OVERLAP * np.minimum(area_G, area)
        return not bool((hidden_G | nested_G).any())

    def _lay(self, sprite: Sprite, x: int, y: int) -> None:
        here, own = self._windows(sprite, x, y)
        alpha, bars = sprite.alpha[own], sprite.bars[own]
        new = len(self.sprites)
        through = (1 - alpha) * (1 - bars)
        self.seen[:new, *here] *= through
        self.uncovered[:new, *here] *= through
        self.shapes[new, *here] = sprite.shape[own]
        self.uncovered[new, *here] = sprite.shape[own] * (1 - bars)
        self.seen[new, *here] = np.minimum(alpha, sprite.shape[own]) * (1 - bars)
        self.pixels[here] *= 1 - sprite.shadow[own][:, :, None]
        for cover, paint in ((alpha, sprite.paint), (bars, sprite.bar_paint)):
            below = self.pixels[here]
            self.pixels[here] = below + cover[:, :, None] * (paint[own] - below)
        x1, y1, x2, y2 = sprite.box
        self.boxes.append((x1 + x, y1 + y, x2 + x, y2 + y))
        self.sprites.append(sprite)

    def finished(self) -> Scene:
        """Return the scene, with the edges that other objects and bars came to hide."""
        count = len(self.sprites)
        visible_G = self.seen[:count].sum((1, 2)) / self.shapes[:count].sum((1, 2))
        objects = tuple(
            Placed(sprite.label, box, _hidden_edges(sprite.edges, box, shape, rest), float(visible))
            for sprite, box, shape, rest, visible in zip(
                self.sprites,
                self.boxes,
                self.shapes,
                self.uncovered,
                visible_G,
                strict=False,
            )
        )
        pixels = np.clip(np.rint(self.pixels), 0, 255).astype(np.uint8)
        return Scene(pixels, objects, self.shapes[:count])


def _hidden_edges(
    edges: Edges,
    box: Box,
    shape: Float32[np.ndarray, "H W"],
    uncovered: Float32[np.ndarray, "H W"],
) -> Edges:
    """Return the edges, occluded where the uncovered part ends short of the silhouette."""
    whole, rest = _extent(shape > 0), _extent(uncovered > _SEEN * shape)
    sides = (box[2] - box[0], box[3] - box[1]) * 2
    found = []
    for edge, side, end, seen_end in zip(edges, sides, whole, rest, strict=True):
        softness = round(min(1.0, abs(seen_end - end) / (ZONE * side)), 3)
        found.append(Edge(softness, "occluded") if softness > edge.softness else edge)
    left, top, right, bottom = found
    return left, top, right, bottom


def _extent(marked: Bool[np.ndarray, "H W"]) -> tuple[int, int, int, int]:
    """Return the first and last columns and rows with a mark: left, top, right, bottom."""
    columns, rows = np.flatnonzero(marked.any(0)), np.flatnonzero(marked.any(1))
    return int(columns[0]), int(rows[0]), int(columns[-1]), int(rows[-1])
