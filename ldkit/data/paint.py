"""Boxes with their names and scores, painted onto an image for people to look at."""

import colorsys
from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import UInt8

Colour = tuple[int, int, int]

_FONT = cv2.FONT_HERSHEY_DUPLEX
_GOLDEN = 0.618034  # of the circle of hues: neighbouring classes get unlike colours


class Painted(NamedTuple):
    """One box in pixels (x1, y1, x2, y2), the text beside it, and the class that colours it."""

    box: tuple[float, float, float, float]
    text: str
    label: int


def paint(
    image: UInt8[np.ndarray, "H W 3"], boxes: Sequence[Painted]
) -> UInt8[np.ndarray, "H W 3"]:
    """Return a copy of an RGB image with boxes on it, the first one on top.

    Lines and letters grow with the image. A text stands above its box, or inside where there is
    no room above, and always within the image.
    """
    canvas = image.copy()
    short_side = min(image.shape[:2])
    line = max(2, round(short_side / 300))
    letters = max(0.38, short_side / 1100)
    for painted in reversed(boxes):
        x1, y1, x2, y2 = (round(value) for value in painted.box)
        corners = (x1, y1), (x2, y2)
        cv2.rectangle(canvas, *corners, (0, 0, 0), line + 2)
        cv2.rectangle(canvas, *corners, colour_of(painted.label), line)
    for painted in reversed(boxes):
        _write(canvas, painted, letters, line)
    return canvas


def colour_of(label: int) -> Colour:
    """Return the colour of a class (red, green, blue), bright and the same in every image."""
    hue = (0.02 + label * _GOLDEN) % 1.0
    red, green, blue = colorsys.hsv_to_rgb(hue, 0.75 - 0.25 * (label % 2), 1.0)
    return round(255 * red), round(255 * green), round(255 * blue)


def _write(canvas: np.ndarray, painted: Painted, letters: float, line: int) -> None:
    weight = max(1, round(letters * 1.2))
    (width, height), below = cv2.getTextSize(painted.text, _FONT, letters, weight)
    pad = max(2, height // 4)
    tall, wide = height + below + pad, width + 2 * pad
    x = round(min(max(painted.box[0] - line / 2, 0), max(canvas.shape[1] - wide, 0)))
    top = painted.box[1] - line / 2 - tall
    if top < 0:
        top = min(max(painted.box[1], 0), canvas.shape[0] - tall)
    y = max(round(top), 0)
    colour = colour_of(painted.label)
    cv2.rectangle(canvas, (x, y), (x + wide, y + tall), colour, cv2.FILLED)
    place = (x + pad, y + height + pad // 2 + 1)
    cv2.putText(canvas, painted.text, place, _FONT, letters, _ink_on(colour), weight, cv2.LINE_AA)


def _ink_on(colour: Colour) -> Colour:
    """Return black or white, whichever is easier to read on a colour."""
    red, green, blue = colour
    return (0, 0, 0) if 0.299 * red + 0.587 * green + 0.114 * blue > 120 else (255, 255, 255)
