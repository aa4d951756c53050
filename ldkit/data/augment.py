"""Views: drawn once, then plain data; rendering has no randomness left.

    ViewPolicy.draw(key, source_hw) → View      the only random line, pure in (seed, image, view)
    render(image, view)             → pixels    resize, mirror, pad
    render_boxes(boxes, view)       → boxes     the same, for boxes

Axes: H, W pixels · G boxes · 4 = x1, y1, x2, y2. Sizes are (height, width) in pixels.
"""

from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import Float32, UInt8

from ldkit.errors import DataError
from ldkit.structures import Size, View, ViewKey

_JPEG_START, _JPEG_SCAN, _JPEG_END = b"\xff\xd8", b"\xff\xda", b"\xff\xd9"


@dataclass(frozen=True, slots=True)
class ViewPolicy:
    """What randomness an image may get, and the seed that decides it.

    `short_side_px` is one size, or a range (low, high) to draw from, both ends included; the
    long side never exceeds `long_side_max_px`. `flip` is the share of mirrored views. `count` is
    how many views are drawn for each image of a range; `None` draws one for each epoch.
    Source: mmdetection's COCO pipelines; 1333 x 800 single scale, 1333 x [480, 800] multi-scale.
    """

    short_side_px: int | tuple[int, int]
    long_side_max_px: int
    flip: float
    count: int | None
    pad_multiple_px: int
    seed: int

    def views_per_image(self, epochs: int) -> int:
        """Return how many views of an image a schedule of `epochs` can show: keys 0 … n-1.

        One size: the plain view and, unless `flip` is 0, the mirrored one.
        """
        if isinstance(self.short_side_px, int):
            return 2 if self.flip > 0 else 1
        return self.count if self.count is not None else epochs

    def draw(self, key: ViewKey, source_hw: Size) -> View:
        """Return the view of this key. Pure: the same for every process and order of calls.

        Raises:
            ValueError: `key.view` is not a view of this policy.
        """
        if isinstance(self.short_side_px, int):
            if key.view not in (0, 1):
                raise ValueError(f"view {key.view}: one size has the views 0 (plain), 1 (mirrored)")
            return self._view(source_hw, self.short_side_px, flip=key.view == 1)
        if key.view < 0 or (self.count is not None and key.view >= self.count):
            raise ValueError(f"view {key.view}: the policy draws {self.count} views, from 0")
        low, high = self.short_side_px
        size, mirror = _dice(f"{self.seed}/{key.image_id}/{key.view}")
        return self._view(source_hw, low + int(size * (high - low + 1)), flip=mirror < self.flip)

    def view_of_epoch(self, epoch: int, image_id: int) -> int:
        """Return which view of an image an epoch (counted from 0) shows. Pure.

        One size: mirrored with probability `flip`, drawn anew each epoch, so that two views
        replay the online schedule exactly. A range: the views in turn.
        """
        if isinstance(self.short_side_px, int):
            _, mirror = _dice(f"{self.seed}/{epoch}/{image_id}")
            return int(mirror < self.flip)
        return epoch if self.count is None else epoch % self.count

    def plain_view(self, source_hw: Size) -> View:
        """Return the view for evaluation: never mirrored, at the largest size of the policy."""
        sizes = self.short_side_px
        return self._view(source_hw, sizes if isinstance(sizes, int) else sizes[1], flip=False)

    def draw_plain(self, _: ViewKey, source_hw: Size) -> View:
        """Return `plain_view`, whatever the key: what a data set for evaluation draws with."""
        return self.plain_view(source_hw)

    def _view(self, source_hw: Size, short_side_px: int, *, flip: bool) -> View:
        resized_hw = resized_size(source_hw, short_side_px, self.long_side_max_px)
        step = self.pad_multiple_px
        padded_hw = (-(-resized_hw[0] // step) * step, -(-resized_hw[1] // step) * step)
        return View(source_hw, resized_hw, padded_hw, flip)


def _dice(text: str) -> tuple[float, float]:
    """Return two numbers in [0, 1) that depend on `text` alone, on every machine."""
    digest = blake2b(text.encode(), digest_size=16).digest()
    first, second = int.from_bytes(digest[:8], "big"), int.from_bytes(digest[8:], "big")
    return (first >> 11) * 2.0**-53, (second >> 11) * 2.0**-53


def resized_size(source_hw: Size, short_side_px: int, long_side_max_px: int) -> Size:
    """Return the size that keeps the ratio of sides and fits both limits; at least one pixel.

    Source: mmcv's `rescale_size`; int(x · scale + 0.5) with scale = min(long / max, short / min).
    """
    height, width = source_hw
    scale = min(long_side_max_px / max(source_hw), short_side_px / min(source_hw))
    return max(1, int(height * scale + 0.5)), max(1, int(width * scale + 0.5))


def read_image(path: Path) -> UInt8[np.ndarray, "H W 3"]:
    """Return the decoded image as RGB. The file is read once; orientation tags are ignored.

    COCO boxes refer to the stored pixels, so an EXIF rotation must not be applied. Grey, palette
    and 16 bit images become 8 bit RGB; an alpha channel is left out.

    Raises:
        DataError: The file is missing, cut off, or not an image.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise _unreadable(path, error.strerror or str(error)) from error
    if not content or _is_cut_off(content):
        raise _unreadable(path, f"the file is cut off after {len(content)} bytes")
    flags = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
    try:
        image = cv2.imdecode(np.frombuffer(content, np.uint8), flags)
    except cv2.error as error:
        raise _unreadable(path, error.err or str(error)) from error
    if image is None:
        raise _unreadable(path, "the file is damaged, or of an unknown format")
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def _is_cut_off(content: bytes) -> bool:
    """Say whether a JPEG lacks its end: some decoders fill the rest with grey, silently.

    The end may be the end of an embedded thumbnail; then the main scan starts after it.
    """
    end = content.rfind(_JPEG_END)
    is_whole = end >= 0 and content.find(_JPEG_SCAN, end) < 0
    return content.startswith(_JPEG_START) and not is_whole


def _unreadable(path: Path, reason: str) -> DataError:
    return DataError(
        f"the image cannot be read: {reason}.",
        where=str(path),
        hint="Copy the file anew, or take the image out of the annotation file.",
    )


def render(image: UInt8[np.ndarray, "H W 3"], view: View) -> UInt8[np.ndarray, "3 H2 W2"]:
    """Return the pixels of a view on its own canvas, channels first; padding is zero.

    Bilinear on 8 bits without antialiasing, mirrored after resizing, padded below and to the
    right. No randomness, and no copy but the one onto the canvas.
    Source: mmdetection's COCO pipelines, which resize with OpenCV's INTER_LINEAR.

    Raises:
        ValueError: The image is not of the size that the view was drawn for.
    """
    if image.shape[:2] != view.source_hw:
        raise ValueError(f"a view of {view.source_hw} cannot render an image of {image.shape[:2]}")
    height, width = view.resized_hw
    resized = cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR)
    if view.flip:
        resized = resized[:, ::-1]
    canvas = np.zeros((3, *view.padded_hw), np.uint8)
    canvas[:, :height, :width] = resized.transpose(2, 0, 1)
    return canvas


def render_boxes(boxes: Float32[np.ndarray, "G 4"], view: View) -> Float32[np.ndarray, "G 4"]:
    """Return boxes of the source image in pixels of the view, clipped to its resized size.

    The factors of x and y differ slightly, since sizes are whole pixels. Mirrored: x → W - x.
    Source: mmdetection 2.x, `Resize` and `RandomFlip`.
    """
    (height, width), (source_height, source_width) = view.resized_hw, view.source_hw
    factors = np.array([width / source_width, height / source_height] * 2, np.float32)
    limits = np.array([width, height] * 2, np.float32)
    scaled = np.clip(boxes * factors, np.float32(0), limits)
    if view.flip:
        scaled[:, [0, 2]] = limits[0] - scaled[:, [2, 0]]
    return scaled
