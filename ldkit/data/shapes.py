"""The embedded data set: drawn scenes as images and COCO JSON, the same for the same seed.

ROOT/train/000001.jpg … · ROOT/val/000001.jpg … · ROOT/annotations/instances_{train,val}.json

The box of an object is its true extent, also where an edge is faded or hidden. Beside the COCO
fields each annotation keeps, for its edges in order left, top, right, bottom, `softness` (0 … 1)
and `softness_kind` (sharp, faded, blurred, occluded), and the exact box as `true_bbox`: so one can
ask whether predicted distributions widen where the picture is ambiguous.
"""

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from jaxtyping import UInt8

from ldkit.data.document import read_document
from ldkit.data.scene import REFERENCE_PX, Placed, draw_scene
from ldkit.data.shape_outlines import CLASSES
from ldkit.errors import DataError, StorageError, UsageError
from ldkit.files import canonical_json, why_not_written, write_text

LEAST_SIZE_PX = 64
_SOFT_NOISE = 2.0
_WORST_NOISE = 0.4
_SIGNATURE = "Drawn shapes of ldkit"  # so begins the description of each file of annotations
# lossy, but a third of the bytes of a PNG and ten times as fast; full colour resolution
_JPEG = [
    cv2.IMWRITE_JPEG_QUALITY,
    95,
    cv2.IMWRITE_JPEG_SAMPLING_FACTOR,
    cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444,
]


def write_shapes(
    root: Path,
    *,
    seed: int,
    train_images: int,
    val_images: int,
    size_px: int = 128,
    label_noise: float = 0.03,
    ambiguous: float = 0.2,
) -> None:
    """Write the data set below `root`, also over one that was drawn there before.

    Image i of a split depends on `seed`, the split and i alone. Boxes of the training images
    carry the noise of an annotator: each edge errs by `label_noise` of the object's side
    (standard deviation), up to three times that where it is soft. Validation boxes are exact.
    `ambiguous` (0 … 0.5) is the share of edges drawn faded, blurred or under a bar.

    `area` is the box's area as if the image were 224 pixels wide (the JSON says so in `info`), so
    that COCO's limits for small and large part sizes relative to the image as they do in COCO.

    The annotations are removed first and written last: where they are, the images are complete.

    Raises:
        UsageError: A number is out of its range, or annotations that ldkit did not draw are in
            the way. Nothing was written.
        StorageError: The disk is full or `root` cannot be written.
    """
    _check_least("seed", seed, 0)
    _check_least("train_images", train_images, 1)
    _check_least("val_images", val_images, 1)
    _check_least("size_px", size_px, LEAST_SIZE_PX)
    _check_share("label_noise", label_noise, 0.2)
    _check_share("ambiguous", ambiguous, 0.5)
    splits = {"train": (train_images, label_noise), "val": (val_images, 0.0)}
    targets = {name: root / "annotations" / f"instances_{name}.json" for name in splits}
    _check_drawn(targets.values())
    for target in targets.values():
        with _storing(target):
            target.unlink(missing_ok=True)
    documents = {
        name: _write_images(
            root / name,
            count=count,
            seeds=(seed, position),
            size_px=size_px,
            noise=noise,
            ambiguous=ambiguous,
        )
        for position, (name, (count, noise)) in enumerate(splits.items())
    }
    for name, document in documents.items():
        write_text(targets[name], canonical_json(document))


def _write_images(
    folder: Path,
    *,
    count: int,
    seeds: tuple[int, int],
    size_px: int,
    noise: float,
    ambiguous: float,
) -> dict[str, Any]:
    """Write the images of one split and return its COCO document."""
    images, annotations = [], []
    with _storing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    for image_id in range(1, count + 1):
        rng = np.random.default_rng([*seeds, image_id])
        scene = draw_scene(rng, size_px=size_px, ambiguous=ambiguous)
        path = folder / f"{image_id:06d}.jpg"
        with _storing(path):
            path.write_bytes(_jpeg(scene.pixels))
        images.append({"id": image_id, "file_name": path.name, "width": size_px, "height": size_px})
        for position, placed in enumerate(scene.objects):
            box = _annotated_box(rng, placed, noise, size_px)
            identity = {"id": 100 * image_id + position, "image_id": image_id}
            annotations.append(identity | _annotation(placed, box, size_px))
    return {
        "info": _info(seed=seeds[0], size_px=size_px, label_noise=noise, ambiguous=ambiguous),
        "licenses": [],
        "images": images,
        "annotations": annotations,
        "categories": [{"id": label + 1, "name": name} for label, name in enumerate(CLASSES)],
    }


def _info(*, seed: int, size_px: int, label_noise: float, ambiguous: float) -> dict[str, Any]:
    return {
        "description": f"{_SIGNATURE}. `area` is the area of the box in pixels times "
        f"`area_scale`, as if the images were {REFERENCE_PX} pixels wide; edges are in order "
        "left, top, right, bottom.",
        "area_scale": _area_scale(size_px),
        "seed": seed,
        "size_px": size_px,
        "label_noise": label_noise,
        "ambiguous": ambiguous,
    }


def _area_scale(size_px: int) -> float:
    return (REFERENCE_PX / size_px) ** 2


def _annotated_box(
    rng: np.random.Generator, placed: Placed, noise: float, size_px: int
) -> list[float]:
    """Return the box (x1, y1, x2, y2) as an annotator of that noise marks it."""
    box_4 = np.array(placed.box)
    softness_4 = np.array([edge.softness for edge in placed.edges])
    side_4 = np.tile(box_4[2:] - box_4[:2], 2)
    error_4 = rng.standard_normal(4) * noise * (1 + _SOFT_NOISE * softness_4)
    marked_4 = box_4 + side_4 * np.clip(error_4, -_WORST_NOISE, _WORST_NOISE)
    marked: list[float] = np.clip(marked_4, 0, size_px).tolist()
    return marked


def _annotation(placed: Placed, box: list[float], size_px: int) -> dict[str, Any]:
    x, y, width, height = _xywh(box)
    return {
        "category_id": placed.label + 1,
        "bbox": [x, y, width, height],
        "area": round(width * height * _area_scale(size_px), 2),
        "iscrowd": 0,
        "true_bbox": _xywh(list(placed.box)),
        "softness": [edge.softness for edge in placed.edges],
        "softness_kind": [edge.kind for edge in placed.edges],
    }


def _xywh(box: list[float]) -> list[float]:
    """Return the COCO form of a box, in 64ths of a pixel: so x + width is exact in binary."""
    x1, y1, x2, y2 = (round(value * 64) / 64 for value in box)
    return [x1, y1, x2 - x1, y2 - y1]


def _jpeg(pixels: UInt8[np.ndarray, "H W 3"]) -> bytes:
    _, encoded = cv2.imencode(".jpg", cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR), _JPEG)
    return encoded.tobytes()


@contextmanager
def _storing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StorageError(
            f"could not be written: {why_not_written(path, error)}.",
            where=str(path),
            hint="Free space or choose another folder, then run the same command again.",
        ) from error


def _check_drawn(targets: Iterable[Path]) -> None:
    """Refuse to write over annotations that are the user's."""
    for target in targets:
        if os.path.lexists(target) and not _is_drawn(target):
            raise UsageError(
                "is there already, and ldkit did not draw it.",
                where=str(target),
                hint="Nothing was written. Draw in another folder, or move this file away.",
            )


def _is_drawn(path: Path) -> bool:
    """Return whether these are annotations of drawn shapes; what cannot be read is not."""
    try:
        info = read_document(path).get("info") if path.is_file() else None
    except DataError:
        return False
    told = info.get("description") if isinstance(info, dict) else None
    return isinstance(told, str) and told.startswith(_SIGNATURE)


def _check_least(name: str, value: int, least: int) -> None:
    if value < least:
        raise UsageError(
            f"is {value}, but must be at least {least}.",
            where=name,
            hint="Nothing was written.",
        )


def _check_share(name: str, value: float, most: float) -> None:
    if not 0 <= value <= most:
        raise UsageError(
            f"is {value}, but must lie between 0 and {most}.",
            where=name,
            hint="Nothing was written.",
        )
