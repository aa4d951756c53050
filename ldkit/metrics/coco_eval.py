"""COCO's bounding box evaluation as plain values.

The figures are those of pycocotools, whichever evaluator makes them. Three of its habits are not
passed on: it prints, it marks 'no such objects' by -1 (`None` here), and it takes an object whose
annotation has the id 0 for unmatched, so ids are given anew.
"""

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float64

from ldkit.errors import DataError
from ldkit.metrics.coco_backend import Evaluation, Evaluator, evaluate, evaluator_named
from ldkit.metrics.results import ClassAp, CocoResult

FIGURES = (
    *("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large"),
    *("ar1", "ar10", "ar100", "ar_small", "ar_medium", "ar_large"),
)
"""The names of the twelve figures, in pycocotools' order."""

IDS_SHOWN = 5


@dataclass(frozen=True, slots=True)
class CocoMetrics:
    """The twelve figures of COCO, and what lies behind AP; fractions from 0 to 1.

    AP is the mean over the IoU thresholds .50, .55 … .95 and over the classes. Small, medium
    and large objects have areas up to 32², up to 96² and above, in pixels. ARn is the mean
    recall with n boxes per image. A figure is `None` where there are no objects to find.
    """

    ap: float | None
    ap50: float | None
    ap75: float | None
    ap_small: float | None
    ap_medium: float | None
    ap_large: float | None
    ar1: float | None
    ar10: float | None
    ar100: float | None
    ar_small: float | None
    ar_medium: float | None
    ar_large: float | None
    ap_by_iou: tuple[float | None, ...]
    class_ap: tuple[ClassAp, ...]
    """In the order of the annotation file."""
    images: int
    evaluator: Evaluator

    def figures(self) -> dict[str, float | None]:
        """Return name → value of the twelve figures."""
        return {name: value for name, value in asdict(self).items() if name in FIGURES}

    def as_dict(self) -> dict[str, Any]:
        """Return everything as plain JSON values."""
        return asdict(self)


def evaluate_coco(
    annotations: Path,
    results: Sequence[CocoResult],
    image_ids: Collection[int] | None = None,
    evaluator: Evaluator | None = None,
) -> CocoMetrics:
    """Return the metrics of results against an annotation file.

    `image_ids` restricts the evaluation to some of the file's images; results of its other
    images then do not count. No results at all give zeros. The evaluator changes no figure.

    Raises:
        DataError: The file cannot be read or has no annotations, or a result or an id names an
            image or category that is not in it.
        UsageError: This evaluator is not installed.
    """
    chosen = evaluator_named(evaluator)
    document = _read_document(annotations)
    _check_ids(annotations, document, results, image_ids)
    truth = _with_boxes(document, _truth(annotations, document))
    scale = _area_scale(document)
    boxes = [_numbered(number, row, scale) for number, row in enumerate(results)]
    found = evaluate(chosen, truth, _with_boxes(document, boxes), image_ids)
    return _metrics(chosen, found, document["categories"])


def _metrics(
    evaluator: Evaluator, found: Evaluation, categories: Sequence[Mapping[str, Any]]
) -> CocoMetrics:
    columns = {number: c for c, number in enumerate(sorted({row["id"] for row in categories}))}
    return CocoMetrics(
        **{name: _figure(value) for name, value in zip(FIGURES, found.stats, strict=True)},
        ap_by_iou=tuple(_mean(precision_RC) for precision_RC in found.precision),
        class_ap=tuple(
            ClassAp(int(row["id"]), str(row["name"]), _mean(found.precision[:, :, column]))
            for row in categories
            for column in [columns[row["id"]]]
        ),
        images=found.images,
        evaluator=evaluator,
    )


def _figure(value: float) -> float | None:
    return None if value < 0 else float(value)


def _mean(precision: Float64[np.ndarray, "..."]) -> float | None:
    counted = precision[precision > -1]
    return float(counted.mean()) if counted.size else None


def _read_document(path: Path) -> dict[str, Any]:
    hint = "An annotation file is COCO JSON with images, annotations and categories."
    try:
        document = json.loads(path.read_bytes())
    except OSError as error:
        raise DataError(
            f"cannot be read: {error.strerror or error}.", where=str(path), hint=hint
        ) from error
    except ValueError as error:
        raise DataError(f"is not JSON: {error}.", where=str(path), hint=hint) from error
    sections = document if isinstance(document, dict) else {}
    missing = [name for name in ("images", "annotations", "categories") if name not in sections]
    if missing:
        raise DataError(
            f"has no {' and no '.join(missing)}, so nothing can be evaluated on it.",
            where=str(path),
            hint=f"{hint} For images without annotations, use `ldkit eval --split test-dev`.",
        )
    return sections


def _check_ids(
    path: Path,
    document: dict[str, Any],
    results: Sequence[CocoResult],
    image_ids: Collection[int] | None,
) -> None:
    images = {row["id"] for row in document["images"]}
    categories = {row["id"] for row in document["categories"]}
    unknown = {
        "images of results": {row["image_id"] for row in results} - images,
        "categories of results": {row["category_id"] for row in results} - categories,
        "images to evaluate": set(image_ids or ()) - images,
    }
    problems = [f"{what}: {_some(ids)}" for what, ids in unknown.items() if ids]
    if problems:
        raise DataError(
            "does not know these ids.\n" + "\n".join(f"  {problem}" for problem in problems),
            where=str(path),
            hint="The results come from another set of images or classes. Evaluate a split of the "
            "data set that the model was made for.",
        )


def _some(ids: Collection[int]) -> str:
    shown = ", ".join(str(number) for number in sorted(ids)[:IDS_SHOWN])
    more = len(ids) - IDS_SHOWN
    return f"{shown} and {more} more" if more > 0 else shown


def _truth(path: Path, document: dict[str, Any]) -> list[dict[str, Any]]:
    try:
        return [_numbered(number, row) for number, row in enumerate(document["annotations"])]
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(
            f"has an annotation without a proper image_id, category_id or bbox ({error}).",
            where=str(path),
            hint="See `ldkit data check` for the full list.",
        ) from error


def _area_scale(document: dict[str, Any]) -> float:
    """Return how many times larger than in pixels the file counts areas; 1 in COCO itself.

    The drawn data set counts areas as if its images were larger, so that small and large mean
    the same share of the image as in COCO. Found boxes must then be counted alike.
    """
    info = document.get("info")
    return float(info.get("area_scale", 1.0)) if isinstance(info, dict) else 1.0


def _numbered(number: int, row: Mapping[str, Any], area_scale: float = 1.0) -> dict[str, Any]:
    """Return what an evaluator reads of a box, with an id from 1 and a default for the rest."""
    _, _, width, height = row["bbox"]
    known = {key: row[key] for key in ("image_id", "category_id", "bbox")}
    area = row.get("area", width * height * area_scale)
    score = {"score": row["score"]} if "score" in row else {}
    return {**known, **score, "id": number + 1, "area": area, "iscrowd": row.get("iscrowd", 0)}


def _with_boxes(document: dict[str, Any], boxes: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "images": document["images"],
        "categories": document["categories"],
        "annotations": boxes,
    }
