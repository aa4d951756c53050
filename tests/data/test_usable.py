"""Which boxes are learned from, which are left out, and what is said of them."""

from pathlib import Path
from typing import Any

import pytest

from ldkit.data.coco import CocoIndex
from tests.data.coco_files import annotation, image, write_coco

LARGE = [5.0, 5.0, 20.0, 10.0]


def kept(root: Path, bbox: list[float], **fields: Any) -> tuple[int, tuple[str, ...]]:
    """Return how many boxes are left of this one, and the notes."""
    folder, path = write_coco(root, [image(1)], [annotation(1, 1, bbox, **fields)])
    index = CocoIndex.read(folder, path, "drop")
    return len(index.records[1].boxes), index.notes


@pytest.mark.contract
def test_crowds_are_counted_but_not_learned_from(tmp_path: Path) -> None:
    boxes = [annotation(1, 1, LARGE, iscrowd=1), annotation(2, 1, LARGE), annotation(3, 1, LARGE)]
    folder, path = write_coco(tmp_path, [image(1)], boxes)
    index = CocoIndex.read(folder, path)
    assert (index.crowds, len(index.records[1].boxes), index.notes) == (1, 2, ())


@pytest.mark.contract
@pytest.mark.parametrize(
    ("bbox", "fields"),
    [
        ([5.0, 5.0, 0.9, 10.0], {"area": 9.0}),
        ([5.0, 5.0, 10.0, 0.0], {"area": 9.0}),
        (LARGE, {"area": 0.0}),
        (LARGE, {"area": -1.0}),
    ],
)
def test_boxes_without_extent_are_left_out_as_published(
    tmp_path: Path, bbox: list[float], fields: dict[str, Any]
) -> None:
    notes = ("Boxes left out: 1 without area or with a side below one pixel, as published.",)
    assert kept(tmp_path, bbox, **fields) == (0, notes)


@pytest.mark.contract
@pytest.mark.parametrize(
    ("bbox", "reason"),
    [
        ([60.0, 5.0, 10.0, 10.0], "outside their image"),
        ([-10.0, 5.0, 10.0, 10.0], "outside their image"),
        ([5.0, 40.0, 10.0, 10.0], "outside their image"),
        ([5.0, 5.0, -10.0, 10.0], "of negative size"),
        ([5.0, 5.0, 10.0, -0.5], "of negative size"),
    ],
)
def test_dropped_boxes_are_counted_in_a_note(
    tmp_path: Path, bbox: list[float], reason: str
) -> None:
    notes = (f"Boxes left out: 1 {reason} (bad_boxes=drop).",)
    assert kept(tmp_path, bbox) == (0, notes)


@pytest.mark.contract
def test_a_box_of_exactly_one_pixel_at_the_border_is_learned_from(tmp_path: Path) -> None:
    assert kept(tmp_path, [59.0, 39.0, 1.0, 1.0]) == (1, ())
