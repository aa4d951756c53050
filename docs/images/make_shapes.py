"""Draw docs/images/shapes.png: twelve scenes of the embedded data set.

They are the first validation images of seed 13.

Run `python docs/images/make_shapes.py` in the repository's root, with ldkit installed.
"""

from pathlib import Path

import cv2
import numpy as np

from ldkit.data.scene import draw_scene

ROWS, COLUMNS, GAP = 3, 4, 4


def sheet() -> np.ndarray:
    """Return the scenes side by side on white, as RGB."""
    scenes = [
        draw_scene(np.random.default_rng([13, 1, image_id]), size_px=128, ambiguous=0.2).pixels
        for image_id in range(1, ROWS * COLUMNS + 1)
    ]
    tile = 128 + GAP
    canvas = np.full((ROWS * tile - GAP, COLUMNS * tile - GAP, 3), 255, dtype=np.uint8)
    for position, pixels in enumerate(scenes):
        row, column = divmod(position, COLUMNS)
        canvas[row * tile :, column * tile :][:128, :128] = pixels
    return canvas


if __name__ == "__main__":
    target = Path(__file__).with_name("shapes.png")
    # grey levels in steps of 4: nothing to see, but a smaller file
    pixels = cv2.cvtColor(sheet() & 0xFC, cv2.COLOR_RGB2BGR)
    cv2.imwrite(str(target), pixels, [cv2.IMWRITE_PNG_COMPRESSION, 9])
