"""What evaluations share: detections as COCO's list of results, and AP of a class."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypedDict

from ldkit.ops.boxes import xyxy_to_xywh
from ldkit.structures import Detections


class CocoResult(TypedDict):
    """One detected box, as COCO's evaluation and test server read it. Pixels of the image."""

    image_id: int
    category_id: int
    bbox: list[float]
    score: float


@dataclass(frozen=True, slots=True)
class ClassAp:
    """AP of one class; `None` where there are no objects of it."""

    category_id: int
    name: str
    ap: float | None


def coco_results(
    detections: Mapping[int, Detections], category_ids: Sequence[int]
) -> list[CocoResult]:
    """Return one result for each box of each image; label l becomes `category_ids[l]`.

    `detections` goes from image id to the boxes found there. Nothing is rounded.
    """
    return [
        CocoResult(image_id=image_id, category_id=category_ids[label], bbox=list(box), score=score)
        for image_id, found in detections.items()
        for box, score, label in zip(
            xyxy_to_xywh(found.boxes.double()).tolist(),
            found.scores.tolist(),
            found.labels.tolist(),
            strict=True,
        )
    ]
