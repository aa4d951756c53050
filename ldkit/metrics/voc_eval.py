"""The Pascal VOC 2007 metric at ten IoU thresholds, as the LD authors report it.

AP of a class is the mean of the best precision at eleven recalls, 0, .1 … 1. AP50 is its mean over
the classes, AP the mean over the thresholds as well. Boxes are x1, y1, x2, y2 without VOC's extra
pixel: IoU is plain.

Axes: G objects · N detections of a class, best score first · T thresholds.
Source: mmdet/datasets/voc.py of the LD repository, mmdet/core/evaluation/mean_ap.py.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import accumulate, repeat
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float64, Int64

from ldkit.errors import DataError
from ldkit.metrics.results import ClassAp, CocoResult

THRESHOLDS = tuple(accumulate(repeat(0.05, 9), initial=0.5))
"""The published loop adds .05 nine times, so that AP75 asks for an IoU of .7500000000000002."""

RECALLS = tuple(0.1 * point for point in range(11))
"""Multiples of .1 in floating point: a recall of exactly .3, .6 or .7 misses its own point."""

VOC_FIGURES = ("ap", "ap50", "ap75")


class VocTruth(NamedTuple):
    """The objects of a data set as columns. `is_difficult` objects need not be found."""

    image_id: Int64[np.ndarray, "G"]
    category_id: Int64[np.ndarray, "G"]
    boxes: Float64[np.ndarray, "G 4"]
    is_difficult: Bool[np.ndarray, "G"]


@dataclass(frozen=True, slots=True)
class VocMetrics:
    """The figures of VOC; fractions from 0 to 1. `None` where there are no objects to find.

    `class_ap` holds the mean over the ten thresholds for each class, in the order given.
    """

    ap: float | None
    ap50: float | None
    ap75: float | None
    ap_by_iou: tuple[float | None, ...]
    class_ap: tuple[ClassAp, ...]
    images: int
    evaluator: str = "VOC07, 11 points"

    def figures(self) -> dict[str, float | None]:
        """Return name → value of the three figures."""
        return {name: value for name, value in asdict(self).items() if name in VOC_FIGURES}

    def as_dict(self) -> dict[str, Any]:
        """Return everything as plain JSON values."""
        return asdict(self)


def evaluate_voc(
    truth: VocTruth,
    results: Sequence[CocoResult],
    categories: Mapping[int, str],
    images: int,
) -> VocMetrics:
    """Return the metrics of results against the objects; `categories` goes from id to name.

    A class without objects (difficult ones aside) counts for no mean.

    Raises:
        DataError: A result names a category that is not among these.
    """
    _check_categories(results, categories)
    by_class = [_class_aps(truth, results, number) for number in categories]
    ap_CT = np.array(by_class, np.float64).reshape(len(categories), len(THRESHOLDS))
    by_iou = tuple(_mean(ap_C) for ap_C in ap_CT.T)
    known = [ap for ap in by_iou if ap is not None]
    named = zip(categories.items(), ap_CT, strict=True)
    return VocMetrics(
        ap=float(np.mean(known)) if known else None,
        ap50=by_iou[0],
        ap75=by_iou[5],
        ap_by_iou=by_iou,
        class_ap=tuple(ClassAp(number, name, _mean(ap_T)) for (number, name), ap_T in named),
        images=images,
    )


def _check_categories(results: Sequence[CocoResult], categories: Mapping[int, str]) -> None:
    unknown = {row["category_id"] for row in results} - categories.keys()
    if unknown:
        raise DataError(
            f"name categories that the data set does not have: {sorted(unknown)}.",
            where="results",
            hint="Evaluate a split of the data set that the model was made for.",
        )


def _mean(values: Float64[np.ndarray, "N"]) -> float | None:
    counted = values[~np.isnan(values)]
    return float(counted.mean()) if counted.size else None


def _class_aps(
    truth: VocTruth, results: Sequence[CocoResult], category_id: int
) -> Float64[np.ndarray, "T"]:
    """Return AP of one class at each threshold; nan where it has no objects to find."""
    # Ordinary objects come first: of two that overlap a detection equally, the first counts.
    own_G = np.flatnonzero(truth.category_id == category_id)
    own_G = own_G[np.argsort(truth.is_difficult[own_G], kind="stable")]
    objects = VocTruth(*(column[own_G] for column in truth))
    to_find = int((~objects.is_difficult).sum())
    if to_find == 0:
        return np.full(len(THRESHOLDS), np.nan)
    found = [row for row in results if row["category_id"] == category_id]
    found.sort(key=lambda row: -row["score"])
    nearest_N, iou_N = _nearest(objects, found)
    is_difficult_N = objects.is_difficult[nearest_N]
    return np.array(
        [_average_precision(nearest_N, is_difficult_N, iou_N >= t, to_find) for t in THRESHOLDS]
    )


def _nearest(
    objects: VocTruth, found: Sequence[CocoResult]
) -> tuple[Int64[np.ndarray, "N"], Float64[np.ndarray, "N"]]:
    """Return the object of its image that each detection overlaps most, and by how much."""
    nearest_N, iou_N = np.zeros(len(found), np.int64), np.zeros(len(found))
    objects_of: dict[int, list[int]] = {}
    for position, image_id in enumerate(objects.image_id.tolist()):
        objects_of.setdefault(image_id, []).append(position)
    rows_of: dict[int, list[int]] = {}
    for row, result in enumerate(found):
        rows_of.setdefault(result["image_id"], []).append(row)
    for image_id in objects_of.keys() & rows_of.keys():
        rows, there = rows_of[image_id], np.array(objects_of[image_id])
        xywh = np.array([found[row]["bbox"] for row in rows], np.float64)
        corners = np.concatenate([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]], axis=1)
        iou_NG = _pairwise_iou(corners, objects.boxes[there])
        nearest_N[rows], iou_N[rows] = there[iou_NG.argmax(axis=1)], iou_NG.max(axis=1)
    return nearest_N, iou_N


def _pairwise_iou(
    a: Float64[np.ndarray, "N 4"], b: Float64[np.ndarray, "G 4"]
) -> Float64[np.ndarray, "N G"]:
    low = np.maximum(a[:, None, :2], b[None, :, :2])
    high = np.minimum(a[:, None, 2:], b[None, :, 2:])
    inter = np.clip(high - low, 0, None).prod(axis=2)
    area_a, area_b = ((box[:, 2:] - box[:, :2]).prod(axis=1) for box in (a, b))
    union = np.maximum(area_a[:, None] + area_b[None] - inter, 1e-6)
    return np.asarray(inter / union)


def _average_precision(
    nearest_N: Int64[np.ndarray, "N"],
    is_difficult_N: Bool[np.ndarray, "N"],
    is_match_N: Bool[np.ndarray, "N"],
    to_find: int,
) -> float:
    """Return AP: the first match of an object is right, later ones and non-matches are wrong.

    A detection whose nearest object is difficult counts neither way.
    """
    ordinary = np.flatnonzero(is_match_N & ~is_difficult_N)
    is_right_N = np.zeros(len(nearest_N), bool)
    is_right_N[ordinary[np.unique(nearest_N[ordinary], return_index=True)[1]]] = True
    counts_N = ~(is_match_N & is_difficult_N)
    right_N, all_N = is_right_N.cumsum(), counts_N.cumsum()
    recall_N, precision_N = right_N / to_find, right_N / np.maximum(all_N, 1)
    best = [precision_N[recall_N >= point].max(initial=0.0) for point in RECALLS]
    return float(np.mean(best))
