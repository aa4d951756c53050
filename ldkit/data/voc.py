"""Pascal VOC as records: image sets of text, one XML file per image, twenty classes.

    VOCdevkit/VOC2007/{ImageSets/Main/trainval.txt, Annotations/000005.xml, JPEGImages/000005.jpg}
    read_voc(VOCdevkit, ["VOC2007/trainval", "VOC2012/trainval"]) → index, objects

VOC counts pixels from 1: one is taken off all four coordinates, and the box ends there. Difficult
objects are not learnt from; an evaluation counts them neither way.

Axes: N images · G objects · 4 = x1, y1, x2, y2 in pixels of the image as stored.
Source: mmdetection 2.x, `XMLDataset` and `VOCDataset`.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float64, Int64

from ldkit.data.coco import CocoIndex
from ldkit.data.columns import BoxColumns, CategoryColumns, ImageColumns, absent_files
from ldkit.data.document import Problem, collector_paused, found, refuse
from ldkit.data.usable import BadBoxes, usable_boxes
from ldkit.data.voc_xml import BadXml, VocAnnotation, read_annotation

CLASSES = (
    *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa"),
    *("train", "tvmonitor"),
)
"""The classes in VOC's order: the position is the label, one more the category id."""

IMAGE_NAME = re.compile(r"\w[\w.-]*")
NUMBERED = re.compile(r"[0-9]{1,6}(_[0-9]{1,6})?")
SHOWN = 10


class VocObjects(NamedTuple):
    """All objects of some sets, difficult ones included, as columns."""

    image_id: Int64[np.ndarray, "G"]
    category_id: Int64[np.ndarray, "G"]
    boxes: Float64[np.ndarray, "G 4"]
    is_difficult: Bool[np.ndarray, "G"]


@dataclass(frozen=True, slots=True, eq=False)
class VocData:
    """Records to learn from, and the objects to find."""

    index: CocoIndex
    objects: VocObjects


class _Entry(NamedTuple):
    """One image of a set: the folder of its year, and its name."""

    folder: str
    name: str

    @property
    def image(self) -> str:
        return f"{self.folder}/JPEGImages/{self.name}.jpg"

    @property
    def annotation(self) -> str:
        return f"{self.folder}/Annotations/{self.name}.xml"


@collector_paused()
def read_voc(root: Path, sets: Sequence[str], bad_boxes: BadBoxes = "refuse") -> VocData:
    """Return the union of image sets such as `VOC2007/trainval` below `root`.

    Images keep their VOC numbers as ids: 000005 is 5, 2008_000002 is 2008000002; where a name is
    no number, all are counted from 1 in the order of the sets. Boxes are dropped as COCO's are.

    Raises:
        DataError: Something is wrong with sets, annotations or images; all of it at once.
    """
    problems: list[Problem] = []
    entries = _entries(root, sets, problems)
    annotations = _annotations(root, entries, problems)
    names = [PurePosixPath(entry.image) for entry in entries]
    problems += found(
        absent_files(root, names), lambda row: f"{names[row]}: the image file is missing."
    )
    image_ids = np.array(_image_ids(entries), np.int64)
    order = np.argsort(image_ids, kind="stable")
    hw = np.array([each.hw for each in annotations], np.int64).reshape(-1, 2)
    images = ImageColumns(image_ids[order], [str(names[row]) for row in order], hw[order])
    boxes = _boxes([annotations[row] for row in order])
    usable, notes = usable_boxes(boxes, images, bad_boxes, problems)
    refuse(root, problems)
    difficult = int(boxes.is_crowd.sum())
    if difficult:
        notes = (*notes, f"Boxes left out: {difficult} marked as difficult, as published.")
    categories = CategoryColumns(np.arange(1, len(CLASSES) + 1), list(CLASSES))
    index = CocoIndex.of(root, categories, images, usable, difficult, notes)
    x, y, width, height = boxes.xywh.T
    corners = np.stack([x, y, x + width, y + height], axis=1)
    return VocData(
        index, VocObjects(images.ids[boxes.image], boxes.labels + 1, corners, boxes.is_crowd)
    )


def _entries(root: Path, sets: Sequence[str], problems: list[Problem]) -> list[_Entry]:
    """Return the images of all sets in order, and note what is wrong with the sets."""
    entries: dict[_Entry, None] = {}
    cases: list[str] = []
    for name in sets:
        folder, _, stem = name.rpartition("/")
        place = f"{folder}/ImageSets/Main/{stem}.txt"
        try:
            lines = (root / place).read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            cases.append(f"{place}: {_reason(error)}.")
            continue
        if not any(line.strip() for line in lines):
            cases.append(f"{place}: lists no images.")
        for number, line in enumerate(lines, 1):
            entry = _Entry(folder, line.strip())
            if not entry.name:
                continue
            if not IMAGE_NAME.fullmatch(entry.name):
                cases.append(f"{place}, line {number}: {entry.name!r:.60} is not one image name.")
            elif entry in entries:
                cases.append(f"{place}, line {number}: {entry.name} is listed before.")
            else:
                entries[entry] = None
    problems += _problem(cases, "A set is named FOLDER/SET, as VOC2007/trainval.")
    return list(entries)


def _reason(error: OSError | UnicodeDecodeError) -> str:
    if isinstance(error, FileNotFoundError):
        return "the file is missing"
    if isinstance(error, UnicodeDecodeError):
        return "is not text"
    return f"cannot be read: {error.strerror or error}"


def _annotations(
    root: Path, entries: Sequence[_Entry], problems: list[Problem]
) -> list[VocAnnotation]:
    """Return the annotation of each image, and note unreadable files, fields and class names."""
    annotations = []
    unreadable: list[str] = []
    bad_fields: list[str] = []
    unknown: list[str] = []
    for entry in entries:
        annotation = VocAnnotation((1, 1), ())
        complaints: list[str] = []
        try:
            annotation, complaints = read_annotation(root / entry.annotation)
        except OSError as error:
            unreadable.append(f"{entry.annotation}: {_reason(error)}.")
        except BadXml as error:
            unreadable.append(f"{entry.annotation}: {error}.")
        bad_fields += [f"{entry.annotation}: {complaint}" for complaint in complaints]
        unknown += [f"{entry.annotation}: {name}" for name in _unknown_classes(annotation)]
        annotations.append(VocAnnotation((1, 1), ()) if complaints else annotation)
    problems += _problem(unreadable, "")
    problems += _problem(bad_fields, "")
    problems += _problem(unknown, f"The classes of VOC are {', '.join(CLASSES)}.")
    return annotations


def _unknown_classes(annotation: VocAnnotation) -> Iterator[str]:
    for number, each in enumerate(annotation.objects, 1):
        if each.name and each.name not in CLASSES:
            yield f"object {number} is of the unknown class {each.name!r:.40}."


def _problem(cases: list[str], hint: str) -> list[Problem]:
    return [Problem(len(cases), tuple(cases[:SHOWN]), hint)] if cases else []


def _image_ids(entries: Sequence[_Entry]) -> list[int]:
    names = [entry.name for entry in entries]
    if all(NUMBERED.fullmatch(name) for name in names):
        numbers = [int(name.replace("_", "")) for name in names]
        if len(set(numbers)) == len(numbers):
            return numbers
    return list(range(1, len(names) + 1))


def _boxes(annotations: Sequence[VocAnnotation]) -> BoxColumns:
    """Return all objects as boxes of COCO: difficult ones as crowds, counted within their image."""
    rows = [
        (image, number, each)
        for image, annotation in enumerate(annotations)
        for number, each in enumerate(annotation.objects, 1)
        if each.name in CLASSES
    ]
    corners = np.array([each.box for *_, each in rows], np.float64).reshape(-1, 4) - 1
    sides = corners[:, 2:] - corners[:, :2]
    return BoxColumns(
        ids=np.array([number for _, number, _ in rows], np.int64),
        image=np.array([image for image, *_ in rows], np.int64),
        labels=np.array([CLASSES.index(each.name) for *_, each in rows], np.int64),
        xywh=np.concatenate([corners[:, :2], sides], axis=1),
        area=sides.prod(axis=1),
        is_crowd=np.array([each.is_difficult for *_, each in rows], bool),
    )
