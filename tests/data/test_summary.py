"""The numbers that `ldkit data check` shows."""

from pathlib import Path

import pytest

from ldkit.data.coco import CocoIndex
from ldkit.data.summary import summarise
from tests.data.coco_files import annotation, image, write_coco


@pytest.mark.contract
def test_counts_are_those_of_the_file(tmp_path: Path) -> None:
    boxes = [
        annotation(1, 1, [0, 0, 31, 32]),
        annotation(2, 1, [0, 0, 32, 32], category_id=3),
        annotation(3, 2, [0, 0, 95, 96]),
        annotation(4, 2, [0, 0, 96, 96]),
        annotation(5, 2, [0, 0, 96, 96], iscrowd=1),
        annotation(6, 2, [0, 0, 0, 96]),
    ]
    images = [image(n, (100, 100)) for n in (1, 2, 3)]
    summary = summarise(CocoIndex.read(*write_coco(tmp_path, images, boxes)))
    assert (summary.images, summary.empty, summary.boxes, summary.crowds) == (3, 1, 4, 1)
    assert (summary.small, summary.medium, summary.large) == (1, 2, 1)
    assert summary.boxes_of_class == (("car", 1), ("person", 3), ("toothbrush", 0))
    assert len(summary.notes) == 1
