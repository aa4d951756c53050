"""Colours and textures of the drawn scenes.

A texture is a field of values 0 … 1 that mixes two colours. Colours are drawn by lightness,
chroma and hue (CIE LCh), so that equal numbers look equally strong; the hue of an object hints at
its class without deciding it.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import Float32

HUE_SPREAD = 0.42
"""Standard deviation of an object's hue, in steps between neighbouring classes."""

Field = Float32[np.ndarray, "H W"]
Colour = Float32[np.ndarray, "3"]
Paint = Float32[np.ndarray, "H W 3"]


class Palette(NamedTuple):
    """The two RGB colours (0 … 255) that a texture mixes."""

    first: Colour
    second: Colour

    def paint(self, field: Field) -> Paint:
        """Return the mixture: `first` where the field is 0, `second` where it is 1."""
        mixed: Paint = self.first + field[:, :, None] * (self.second - self.first)
        return mixed


def object_palette(rng: np.random.Generator, label: int, classes: int) -> Palette:
    """Return two strong colours around the hue of class `label` of `classes`."""
    hue = (label + rng.normal(0.0, HUE_SPREAD)) * 360 / classes + 20
    light = rng.uniform(42, 76)
    chroma = rng.uniform(34, 64)
    apart = rng.uniform(14, 30) * rng.choice([-1, 1])
    return Palette(
        _colour(light - apart / 2, chroma, hue),
        _colour(light + apart / 2, chroma * 0.85, hue + rng.normal(0, 10)),
    )


def ground_palette(rng: np.random.Generator) -> Palette:
    """Return two close, greyish colours for a background."""
    hue, light = rng.uniform(0, 360), rng.uniform(30, 82)
    chroma = rng.uniform(2, 13)
    apart = rng.uniform(10, 24) * rng.choice([-1, 1])
    return Palette(
        _colour(light - apart / 2, chroma, hue),
        _colour(light + apart / 2, chroma, hue + rng.uniform(-60, 60)),
    )


def object_field(rng: np.random.Generator, hw: tuple[int, int], unit: float) -> Field:
    """Return the texture of one object: plain, striped, dotted, checked, shaded or clouded.

    `unit` is the length that counts as one pixel of a 128 pixel image.
    """
    kind = _OBJECT_FIELDS[rng.integers(len(_OBJECT_FIELDS))]
    return kind(rng, hw, unit)


def ground_field(rng: np.random.Generator, hw: tuple[int, int], unit: float) -> Field:
    """Return the texture of a background: clouds with a faint pattern and a light side.

    The values may leave 0 … 1 a little, so a background can be lighter or darker than its colours.
    """
    clouds = 0.7 * _clouds(rng, hw, 2.5 * unit) + 0.5 * _clouds(rng, hw, unit) - 0.1
    share = rng.uniform(0, 0.35)
    pattern = _GROUND_FIELDS[rng.integers(len(_GROUND_FIELDS))](rng, hw, 1.6 * unit)
    slope = _shade(rng, hw, unit) - 0.5
    field: Field = (1 - share) * clouds + share * pattern + 0.6 * slope
    return field


def lit(paint: Paint) -> Paint:
    """Return the paint, lighter towards its upper left and darker towards its lower right."""
    height, width, _ = paint.shape
    x = np.linspace(0.1, -0.1, width, dtype=np.float32)[None, :, None]
    y = np.linspace(0.1, -0.1, height, dtype=np.float32)[:, None, None]
    lighter: Paint = np.clip(paint * (1 + x + y), 0, 255)
    return lighter


def _colour(lightness: float, chroma: float, hue_degrees: float) -> Colour:
    hue = math.radians(hue_degrees)
    lab = np.array([[[lightness, chroma * math.cos(hue), chroma * math.sin(hue)]]], np.float32)
    rgb = cv2.cvtColor(lab, cv2.COLOR_Lab2RGB)[0, 0]
    colour: Colour = np.clip(rgb, 0, 1) * 255
    return colour


def _turned(rng: np.random.Generator, hw: tuple[int, int], period: float) -> tuple[Field, Field]:
    """Return the coordinates of a turned, shifted grid, in radians of `period` pixels."""
    angle, rate = rng.uniform(0, math.pi), 2 * math.pi / period
    x = np.arange(hw[1], dtype=np.float32)[None, :] * rate
    y = np.arange(hw[0], dtype=np.float32)[:, None] * rate
    along = x * math.cos(angle) + y * math.sin(angle) + rng.uniform(0, 2 * math.pi)
    across = y * math.cos(angle) - x * math.sin(angle) + rng.uniform(0, 2 * math.pi)
    return along, across


def _step(wave: Field, flank: float) -> Field:
    """Return 0 … 1 with a soft flank around the zero of `wave`."""
    return np.clip(wave / flank + 0.5, 0, 1)


def _plain(rng: np.random.Generator, hw: tuple[int, int], unit: float) -> Field:
    level = rng.uniform(0.15, 0.85)
    field: Field = level + 0.3 * (_shade(rng, hw, unit) - 0.5)
    return field


def _stripes(rng: np.random.Generator, hw: tuple[int, int], unit: float) -> Field:
    along, _ = _turned(rng, hw, rng.uniform(4.5, 10) * unit)
    return _step(np.sin(along), 0.9)


def _dots(rng: np.random.Generator, hw: tuple[int, int], unit: float) -> Field:
    along, across = _turned(rng, hw, rng.uniform(4.5, 8) * unit)
    return _step(np.cos(along) + np.cos(across) - 0.6, 0.8)


def _checks(rng: np.random.Generator, hw: tuple[int, int], unit: float) -> Field:
    along, across = _turned(rng, hw, rng.uniform(8, 14) * unit)
    return _step(np.sin(along) * np.sin(across), 0.5)


def _shade(rng: np.random.Generator, hw: tuple[int, int], _unit: float) -> Field:
    angle = rng.uniform(0, 2 * math.pi)
    x = np.linspace(-0.5, 0.5, hw[1], dtype=np.float32)[None, :]
    y = np.linspace(-0.5, 0.5, hw[0], dtype=np.float32)[:, None]
    return np.clip(x * math.cos(angle) + y * math.sin(angle) + 0.5, 0, 1)


def _clouds(rng: np.random.Generator, hw: tuple[int, int], unit: float) -> Field:
    field = np.zeros(hw, dtype=np.float32)
    for cell, share in ((12.0, 0.6), (5.0, 0.4)):
        rows, cols = (int(side / (cell * unit)) + 3 for side in hw)
        knots = rng.random((rows, cols), dtype=np.float32)
        field += share * cv2.resize(knots, hw[::-1], interpolation=cv2.INTER_CUBIC)
    clouds: Field = np.clip((field - 0.5) * 1.6 + 0.5, 0, 1)
    return clouds


_Kind = Callable[[np.random.Generator, tuple[int, int], float], Field]
_OBJECT_FIELDS: tuple[_Kind, ...] = (_plain, _stripes, _dots, _checks, _shade, _clouds)
_GROUND_FIELDS: tuple[_Kind, ...] = (_stripes, _dots, _checks, _shade)
