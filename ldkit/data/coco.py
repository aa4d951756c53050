"""COCO files as records: one image, its boxes, its labels.

    instances_train.json → CocoIndex.read → records, categories, fingerprint, notes
    CocoIndex → training_records → the images a detector learns from

Category ids are whatever the file says (COCO: 1 … 90 with gaps); labels are 0 … C-1 in the order
of the file's categories. Axes: G boxes · 4 = x1, y1, x2, y2 in pixels of the image as stored.
"""

from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path

import numpy as np
from jaxtyping import Float32, Int64

from ldkit.data.columns import (
    BoxColumns,
    CategoryColumns,
    ImageColumns,
    box_columns,
    category_columns,
    image_columns,
)
from ldkit.data.document import (
    JsonObject,
    Problem,
    collector_paused,
    read_document,
    refuse,
    section,
)
from ldkit.data.usable import BadBoxes, usable_boxes
from ldkit.errors import DataError
from ldkit.files import fingerprint
from ldkit.structures import Size

MIN_SIDE_PX = 32
"""Images with a shorter side are not trained on. Source: mmdetection's `CocoDataset`."""


@dataclass(frozen=True, slots=True)
class Category:
    """A class of objects: the id that COCO files and submissions use, and its name."""

    id: int
    name: str


@dataclass(frozen=True, slots=True, eq=False)
class Record:
    """One image and the boxes to learn from it, in file order, without crowds."""

    image_id: int
    path: Path
    hw: Size
    boxes: Float32[np.ndarray, "G 4"]
    labels: Int64[np.ndarray, "G"]


@dataclass(frozen=True, slots=True, eq=False)
class CocoIndex:
    """The content of a COCO file (or of VOC sets), checked: images exist and boxes can be used.

    `records` are sorted by image id, images without boxes included. `fingerprint` changes exactly
    when an image, a category or a box does (not with captions, outlines or the order of images).
    `crowds` counts boxes around crowds; `notes` says in words what was left out.
    """

    records: dict[int, Record]
    categories: tuple[Category, ...]
    fingerprint: str
    crowds: int
    notes: tuple[str, ...]

    @classmethod
    @collector_paused()
    def read(cls, images: Path, annotations: Path, bad_boxes: BadBoxes = "refuse") -> "CocoIndex":
        """Return the index of a COCO file whose images lie below the folder `images`.

        Left out: crowds, and boxes with an area of zero or a side below one pixel (as published,
        mmdetection's `CocoDataset`). With `bad_boxes="drop"` also boxes outside their image or of
        negative size.

        Raises:
            DataError: Anything else that is wrong with the file, all at once.
        """
        document = read_document(annotations)
        if "annotations" not in document and "images" in document:
            raise DataError(
                "lists images without `annotations` (a test set): there is nothing to learn from "
                "or to compare with.",
                where=str(annotations),
                hint="Use a file such as instances_train2017.json here; image lists belong under "
                "`data.test_dev`.",
            )
        return cls._checked(document, images, annotations, bad_boxes)

    @classmethod
    @collector_paused()
    def read_image_list(cls, images: Path, annotations: Path) -> "CocoIndex":
        """Return the index of a file whose boxes do not matter or do not exist (test-dev).

        Raises:
            DataError: Anything that is wrong with the images or categories, all at once.
        """
        document = read_document(annotations) | {"annotations": []}
        return cls._checked(document, images, annotations, "refuse")

    @classmethod
    def _checked(
        cls, document: JsonObject, folder: Path, annotations: Path, bad_boxes: BadBoxes
    ) -> "CocoIndex":
        problems: list[Problem] = []
        categories = category_columns(section(document, "categories", problems), problems)
        images = image_columns(section(document, "images", problems), folder, problems)
        rows = section(document, "annotations", problems)
        boxes = box_columns(rows, images, categories, problems)
        usable, notes = usable_boxes(boxes, images, bad_boxes, problems)
        refuse(annotations, problems)
        return cls.of(folder, categories, images, usable, int(boxes.is_crowd.sum()), notes)

    @classmethod
    def of(
        cls,
        folder: Path,
        categories: CategoryColumns,
        images: ImageColumns,
        boxes: BoxColumns,
        crowds: int,
        notes: tuple[str, ...],
    ) -> "CocoIndex":
        """Return the index of columns that are known to be right; `boxes` are the usable ones."""
        records, digest = _records(folder, images, boxes)
        named = tuple(map(Category, categories.ids.tolist(), categories.names))
        listing = [[asdict(category) for category in named], images.names]
        listing += [images.ids.tolist(), images.hw.tolist(), digest]
        return cls(records, named, fingerprint(listing), crowds, notes)

    @property
    def class_names(self) -> tuple[str, ...]:
        """Return the name of each label."""
        return tuple(category.name for category in self.categories)

    @property
    def label_of(self) -> dict[int, int]:
        """Return category id → label; back: `categories[label].id`."""
        return {category.id: label for label, category in enumerate(self.categories)}


def training_records(index: CocoIndex) -> dict[int, Record]:
    """Return the records to train on: with boxes, and no side below 32 pixels.

    Source: mmdetection's `CocoDataset` (117,266 of the 118,287 images of train2017).

    Raises:
        DataError: No image is left.
    """
    kept = {
        image_id: record
        for image_id, record in index.records.items()
        if len(record.boxes) and min(record.hw) >= MIN_SIDE_PX
    }
    if not kept:
        raise DataError(
            f"none of the {len(index.records)} images can be trained on: an image needs at least "
            f"one box and sides of at least {MIN_SIDE_PX} pixels.",
            where="data.train",
            hint=" ".join(index.notes),
        )
    return kept


def _records(
    folder: Path, images: ImageColumns, boxes: BoxColumns
) -> tuple[dict[int, Record], str]:
    """Return the records, boxes clipped to their image, and the digest of all boxes and labels."""
    order = np.argsort(boxes.image, kind="stable")
    limits = np.tile(images.hw[boxes.image[order]][:, ::-1], 2).astype(np.float64)
    x, y, width, height = boxes.xywh[order].T
    corners = np.stack([x, y, x + width, y + height], axis=1)
    xyxy, labels = np.clip(corners, 0, limits).astype(np.float32), boxes.labels[order]
    starts = np.searchsorted(boxes.image[order], np.arange(len(images.ids) + 1))
    digest = sha256()
    for column, kind in ((starts, "<i8"), (xyxy, "<f4"), (labels, "<i8")):
        digest.update(np.ascontiguousarray(column, kind).tobytes())
    records = {
        image_id: Record(
            image_id, folder / name, (height, width), xyxy[start:end], labels[start:end]
        )
        for image_id, name, (height, width), start, end in zip(
            images.ids.tolist(),
            images.names,
            images.hw.tolist(),
            starts[:-1],
            starts[1:],
            strict=True,
        )
    }
    return records, digest.hexdigest()
