"""From gathered columns to teacher rows, on the device and the canvas of a batch."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor

from ldkit.cache.canvas import Moves, moved
from ldkit.cache.codecs import decode
from ldkit.cache.columns import SCALE
from ldkit.cache.gather import Gathered
from ldkit.structures import (
    CrossStatistics,
    FeatureRows,
    RegionRows,
    Rows,
    ScoreRows,
    TeacherRows,
)


class Target(NamedTuple):
    """Where rows are wanted."""

    moves: Moves | None
    device: torch.device


def teacher_rows(gathered: Mapping[str, Gathered], target: Target) -> TeacherRows:
    """Return what was gathered, by name of the group, as rows of the batch."""
    vlr, imitation = gathered.get("vlr"), gathered.get("imitation")
    score, cross = gathered.get("score"), gathered.get("cross")
    return TeacherRows(
        main=_region("main", gathered["main"], target),
        vlr=None if vlr is None else _region("vlr", vlr, target),
        imitation=None if imitation is None else _features(imitation, target),
        score=None if score is None else _scores(score, gathered["score_class"], target),
        cross=None if cross is None else _cross(cross, target),
    )


def decoded(rows: Gathered, name: str, target: Target) -> Float[Tensor, "P ..."]:
    """Return a column of logits or features as float32 on the device."""
    stored = torch.from_numpy(rows.columns[name]).to(target.device)
    scale = rows.columns.get(name + SCALE)
    steps = None if scale is None else torch.from_numpy(scale).to(target.device)
    if rows.memory is None or target.device.type != "cpu":
        return decode(stored, steps)
    return decode(stored, steps, rows.memory.take(tuple(stored.shape)))


def image_of_rows(counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return which view of the batch each row belongs to."""
    return np.repeat(np.arange(len(counts)), counts)


def _region(name: str, rows: Gathered, target: Target) -> RegionRows:
    image, location = _places(name, rows, target)
    has_classes = f"{name}.cls_logits" in rows.columns
    return RegionRows(
        rows=Rows(image, location, _whole(rows.columns[f"{name}.gt_index"], target)),
        bbox_logits=decoded(rows, f"{name}.bbox_logits", target),
        cls_logits=decoded(rows, f"{name}.cls_logits", target) if has_classes else None,
    )


def _features(rows: Gathered, target: Target) -> FeatureRows:
    features = decoded(rows, "imitation.features", target)
    return FeatureRows(*_places("imitation", rows, target), features)


def _scores(rows: Gathered, classes: Gathered, target: Target) -> ScoreRows:
    image, location = _places("score", rows, target)
    # Stored rows count within their view.
    ahead = np.repeat(np.cumsum(rows.counts) - rows.counts, classes.counts)
    return ScoreRows(
        image=image,
        location=location,
        bbox_logits=decoded(rows, "score.bbox_logits", target),
        row=_whole(classes.columns["score_class.row"] + ahead, target),
        label=_whole(classes.columns["score_class.label"], target),
        logit=decoded(classes, "score_class.logit", target),
    )


def _cross(rows: Gathered, target: Target) -> CrossStatistics:
    views = len(rows.counts)
    mean, std = (decoded(rows, f"cross.{name}", target) for name in ("mean", "std"))
    levels = len(mean) // views if views else 0
    shape = (views, levels, *mean.shape[1:])
    return CrossStatistics(mean.reshape(shape), std.reshape(shape))


def _places(name: str, rows: Gathered, target: Target) -> tuple[Int[Tensor, "P"], Int[Tensor, "P"]]:
    own = rows.columns[f"{name}.location"].astype(np.int64)
    location = moved(own, rows.counts, target.moves)
    return _whole(image_of_rows(rows.counts), target), _whole(location, target)


def _whole(numbers: NDArray[np.generic], target: Target) -> Int[Tensor, "P"]:
    return torch.from_numpy(numbers.astype(np.int64, copy=False)).to(target.device)
