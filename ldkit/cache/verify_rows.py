"""What a teacher says now beside what a cache stores of it: where, and how far apart."""

from collections.abc import Iterator
from collections.abc import Set as Names
from dataclasses import dataclass, field
from math import inf, log

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ldkit.cache.codecs import LEVELS
from ldkit.ops.distribution import project
from ldkit.structures import RegionRows, ScoreRows, TeacherRows

TOLERANCE = 2.0**-10
"""How far a value may be from the stored one, as a share of it (of 1 for smaller values).

Rounding to float16 takes half of it; the rest is left to sums in another order, as another batch
size or processor makes them.
"""
HALF_STEP = 2 ** (1 / 8) / LEVELS / 2
"""Half a step of a compact edge, as a share of its spread: a step may be wider by an eighth of
an octave."""
U16_COUNT = 1 << 16

Codes = NDArray[np.int64]
"""One number for each row: which place of the batch it is."""
Pair = tuple[str, Tensor, Tensor]
"""A column, and its values at the same rows: as told, as stored."""


@dataclass
class Gap:
    """How far apart the values of a column are, at worst."""

    values: int = 0
    largest: float = 0.0
    """Largest difference."""
    excess: float = 0.0
    """Largest difference as a share of what is allowed: above 1 is too far."""
    bins: float = 0.0
    """Largest difference of a distance, in bins, where the column is a distribution over them."""

    def add(self, told: Tensor, stored: Tensor, *, compact: bool) -> None:
        """Count the values of the same rows on both sides.

        Of compact ones it is stored how far each lies below the highest of its edge.
        """
        if not stored.numel():
            return
        allowed = TOLERANCE * stored.abs().clamp(min=1.0)
        if compact:
            told = told - told.amax(dim=-1, keepdim=True)
            allowed = allowed - HALF_STEP * stored.amin(dim=-1, keepdim=True)
        apart = (told - stored).abs()
        self.values += stored.numel()
        self.largest = max(self.largest, apart.max().item())
        self.excess = max(self.excess, (apart / allowed).nan_to_num(inf).max().item())
        if stored.ndim == 3 and stored.shape[1] == 4:
            bins = (project(told) - project(stored)).abs().max().item()
            self.bins = max(self.bins, bins)


@dataclass
class Comparison:
    """All groups of some views, batch after batch."""

    gaps: dict[str, Gap] = field(default_factory=dict)
    strays: dict[str, int] = field(default_factory=dict)
    """Group → rows that one side has and the other has not."""

    @property
    def agrees(self) -> bool:
        """Say whether every row is there, and every value close enough."""
        return not any(self.strays.values()) and all(gap.excess <= 1 for gap in self.gaps.values())

    def add(
        self,
        told: TeacherRows,
        stored: TeacherRows,
        *,
        score_floor: float = 0.0,
        compact: Names[str] = frozenset(),
    ) -> None:
        """Compare what the teacher says of a batch with what is stored of it.

        A class may be on one side alone where its score lies at the floor. `compact` are the
        columns that are stored as U8.
        """
        for column, ours, theirs in self._pairs(told, stored, score_floor):
            gap = self.gaps.setdefault(column, Gap())
            gap.add(ours.cpu().float(), theirs.cpu().float(), compact=column in compact)

    def _pairs(self, told: TeacherRows, stored: TeacherRows, floor: float) -> Iterator[Pair]:
        for name, ours, theirs in _regions(told, stored):
            yield from self._region(name, ours, theirs)
        if told.imitation is not None and stored.imitation is not None:
            codes = (_code(*side[:2]) for side in (told.imitation, stored.imitation))
            here, there = self._matched("imitation", *codes)
            features = told.imitation.features[here], stored.imitation.features[there]
            yield "imitation.features", *features
        if told.score is not None and stored.score is not None:
            yield from self._scores(told.score, stored.score, floor)
        if told.cross is not None and stored.cross is not None:
            yield "cross.mean", told.cross.mean, stored.cross.mean
            yield "cross.std", told.cross.std, stored.cross.std

    def _region(self, name: str, told: RegionRows, stored: RegionRows) -> Iterator[Pair]:
        here, there = self._matched(name, _code(*told.rows), _code(*stored.rows))
        yield f"{name}.bbox_logits", told.bbox_logits[here], stored.bbox_logits[there]
        if told.cls_logits is not None and stored.cls_logits is not None:
            yield f"{name}.cls_logits", told.cls_logits[here], stored.cls_logits[there]

    def _scores(self, told: ScoreRows, stored: ScoreRows, floor: float) -> Iterator[Pair]:
        ours, theirs = (_code(side.image, side.location) for side in (told, stored))
        _, here, there = np.intersect1d(ours, theirs, return_indices=True)
        yield "score.bbox_logits", told.bbox_logits[here], stored.bbox_logits[there]
        ours, theirs = (
            _code(side.image[side.row], side.location[side.row], side.label)
            for side in (told, stored)
        )
        _, here, there = np.intersect1d(ours, theirs, return_indices=True)
        yield "score_class.logit", told.logit[here], stored.logit[there]
        alone = torch.cat([_without(told.logit, here), _without(stored.logit, there)])
        if 0 < floor < 1:
            edge = log(floor / (1 - floor))
            alone = alone[(alone - edge).abs() > TOLERANCE * max(1.0, abs(edge))]
        self.strays["score"] = self.strays.get("score", 0) + len(alone)

    def _matched(self, name: str, ours: Codes, theirs: Codes) -> tuple[Codes, Codes]:
        _, here, there = np.intersect1d(ours, theirs, return_indices=True)
        alone = len(ours) + len(theirs) - 2 * len(here)
        self.strays[name] = self.strays.get(name, 0) + alone
        return here, there


def _regions(
    told: TeacherRows, stored: TeacherRows
) -> Iterator[tuple[str, RegionRows, RegionRows]]:
    yield "main", told.main, stored.main
    if told.vlr is not None and stored.vlr is not None:
        yield "vlr", told.vlr, stored.vlr


def _code(*parts: Tensor) -> Codes:
    code = np.zeros(len(parts[0]), np.int64)
    for part in parts:
        code = code * U16_COUNT + part.cpu().numpy()
    return code


def _without(values: Tensor, positions: Codes) -> Tensor:
    kept = torch.ones(len(values), dtype=torch.bool)
    kept[torch.from_numpy(positions)] = False
    return values.cpu()[kept]
