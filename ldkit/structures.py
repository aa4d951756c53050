"""The nouns that cross rooms, and the legend of axis letters for the whole package.

Axes: B images · A locations of one canvas · P chosen rows over the batch · G boxes of an image ·
C classes · D channels · L levels · K bins · 4 = left, top, right, bottom (distances) or x1, y1,
x2, y2 (boxes, pixels) · H, W pixels. Sizes are (height, width) in pixels. Locations run over
levels (fine first), then rows, then columns.
"""

from dataclasses import dataclass
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

Size = tuple[int, int]


class ViewKey(NamedTuple):
    """The identity of one rendered image, and of its rows in a cache. Keys sort by image."""

    image_id: int
    view: int


@dataclass(frozen=True, slots=True)
class View:
    """Everything needed to render one image: sizes in pixels, and whether it is mirrored.

    `resized_hw` is the size after scaling, `padded_hw` the image's own canvas (a multiple of the
    padding step), which is what a teacher sees. A batch may pad further.
    """

    source_hw: Size
    resized_hw: Size
    padded_hw: Size
    flip: bool


@dataclass(frozen=True, slots=True)
class Grid:
    """What the locations of a head mean.

    `strides` in pixels, fine levels first; the anchor of a location is a square of side
    `anchor_scale` · stride around its centre; one bin of a distribution is `bin_width` strides.
    """

    strides: tuple[int, ...]
    anchor_scale: float
    bin_width: float = 1.0


class Anchors(NamedTuple):
    """The locations of one canvas, in pixels. `unit` is the width of one bin.

    `level_sizes` are (rows, columns) of each level, `strides` the distance between its centres.
    """

    centre: Float[Tensor, "A 2"]
    box: Float[Tensor, "A 4"]
    unit: Float[Tensor, "A"]
    level_sizes: tuple[Size, ...]
    strides: tuple[int, ...]

    @property
    def level_counts(self) -> tuple[int, ...]:
        """Return how many locations each level has."""
        return tuple(rows * cols for rows, cols in self.level_sizes)


class GroundTruth(NamedTuple):
    """The boxes of a batch, padded to the largest count: label -1 marks padding."""

    boxes: Float[Tensor, "B G 4"]
    labels: Int[Tensor, "B G"]


class Batch(NamedTuple):
    """One batch of rendered views. `pixels` are RGB; their padding is zero."""

    keys: tuple[ViewKey, ...]
    views: tuple[View, ...]
    pixels: UInt8[Tensor, "B 3 H W"]
    ground_truth: GroundTruth

    @property
    def canvas_hw(self) -> Size:
        """Return the size all images of the batch are padded to."""
        return self.pixels.shape[2], self.pixels.shape[3]

    def to(self, device: torch.device) -> "Batch":
        """Return the batch with its tensors on `device`; pixels travel as uint8."""
        boxes, labels = self.ground_truth
        moved = GroundTruth(
            boxes.to(device, non_blocking=True), labels.to(device, non_blocking=True)
        )
        pixels = self.pixels.to(device, non_blocking=True)
        return self._replace(pixels=pixels, ground_truth=moved)


class Predictions(NamedTuple):
    """What a detector says of a batch: raw logits at every location of the canvas.

    Scores are the sigmoid of `cls_logits`. Where a head weighs them by more than the class
    (GFLv2), `bare_cls_logits` are those of the class alone. `maps` are the pyramid's outputs, one
    for each level. `crossing` are the head's features where it was asked for them, (class tower,
    box tower) for each level: after a convolution's GroupNorm, before its ReLU.
    """

    cls_logits: Float[Tensor, "B A C"]
    bbox_logits: Float[Tensor, "B A 4 K"]
    bare_cls_logits: Float[Tensor, "B A C"] | None = None
    maps: tuple[Float[Tensor, "B D _ _"], ...] = ()
    crossing: tuple[tuple[Float[Tensor, "B D _ _"], Float[Tensor, "B D _ _"]], ...] = ()

    @property
    def class_logits(self) -> Float[Tensor, "B A C"]:
        """Return the logits of the class alone, which class distillation compares."""
        return self.cls_logits if self.bare_cls_logits is None else self.bare_cls_logits


class Rows(NamedTuple):
    """Chosen locations of a batch, sorted by image, then location.

    `image` is 0 … B-1, `location` is flat on the batch's canvas, `gt_index` is which of the
    image's boxes the location belongs to.
    """

    image: Int[Tensor, "P"]
    location: Int[Tensor, "P"]
    gt_index: Int[Tensor, "P"]


class RegionRows(NamedTuple):
    """What the teacher says at the rows of a region: raw logits, before any softmax.

    `cls_logits` are those of the class alone; None where nothing asked for them.
    """

    rows: Rows
    bbox_logits: Float[Tensor, "P 4 K"]
    cls_logits: Float[Tensor, "P C"] | None


class FeatureRows(NamedTuple):
    """The teacher's pyramid features at some locations, sorted by image, then location."""

    image: Int[Tensor, "P"]
    location: Int[Tensor, "P"]
    features: Float[Tensor, "P D"]


class ScoreRows(NamedTuple):
    """What the teacher says at the locations it scores, sorted by image, then location.

    Classes are sparse: entry n says that row `row[n]` has the logit `logit[n]` for class
    `label[n]`; all other classes score below the floor. `row` rises.
    """

    image: Int[Tensor, "P"]
    location: Int[Tensor, "P"]
    bbox_logits: Float[Tensor, "P 4 K"]
    row: Int[Tensor, "N"]
    label: Int[Tensor, "N"]
    logit: Float[Tensor, "N"]


class CrossStatistics(NamedTuple):
    """Mean and standard deviation of the teacher's head features over each level of each image.

    Axis 2 is the tower: classes, boxes. Taken after a convolution's GroupNorm, before its ReLU.
    """

    mean: Float[Tensor, "B L 2 D"]
    std: Float[Tensor, "B L 2 D"]


class DenseTeacher(NamedTuple):
    """What a live teacher says at every location of the batch's canvas, for choices of the student.

    `valid` is false at locations beyond an image's own canvas, where all is zero.
    """

    valid: Bool[Tensor, "B A"]
    cls_logits: Float[Tensor, "B A C"]
    bbox_logits: Float[Tensor, "B A 4 K"]
    features: Float[Tensor, "B A D"]


class TeacherRows(NamedTuple):
    """What the teacher says of a batch. `main` is always there; the rest where it was asked for."""

    main: RegionRows
    vlr: RegionRows | None = None
    imitation: FeatureRows | None = None
    score: ScoreRows | None = None
    cross: CrossStatistics | None = None
    dense: DenseTeacher | None = None


@runtime_checkable  # for the tests, which check every argument
class TeacherSource(Protocol):
    """Where teacher rows come from: a sealed cache or a live teacher."""

    def lookup(self, batch: Batch) -> TeacherRows:
        """Return the teacher's rows for these views, on the batch's device and canvas."""
        ...


class LossTerms(NamedTuple):
    """The weighted terms of one step, each a scalar; `None` is a term that is switched off."""

    cls: Float[Tensor, ""]
    box: Float[Tensor, ""]
    dfl: Float[Tensor, ""]
    ld_main: Float[Tensor, ""] | None = None
    ld_vlr: Float[Tensor, ""] | None = None
    kd_main: Float[Tensor, ""] | None = None
    kd_vlr: Float[Tensor, ""] | None = None
    imitation: Float[Tensor, ""] | None = None
    score_cls: Float[Tensor, ""] | None = None
    score_box: Float[Tensor, ""] | None = None
    cross_cls: Float[Tensor, ""] | None = None
    cross_box: Float[Tensor, ""] | None = None

    @property
    def total(self) -> Tensor:
        """Return the sum that is differentiated: exactly the fields of this tuple."""
        terms = [term for term in self if term is not None]
        return torch.stack(terms).sum()

    def values(self) -> dict[str, float]:
        """Return name → value for every term that is switched on (one device read)."""
        named = {name: term for name, term in self._asdict().items() if term is not None}
        numbers = torch.stack([term.detach() for term in named.values()]).tolist()
        return dict(zip(named, numbers, strict=True))


class Detections(NamedTuple):
    """Boxes found in one image: pixels of the original image, best score first."""

    boxes: Float[Tensor, "N 4"]
    scores: Float[Tensor, "N"]
    labels: Int[Tensor, "N"]


def padded_sizes(views: tuple[View, ...], device: torch.device) -> Int[Tensor, "B 2"]:
    """Return each view's own canvas (height, width), in pixels."""
    return torch.tensor([view.padded_hw for view in views], device=device)


def resized_sizes(views: tuple[View, ...], device: torch.device) -> Int[Tensor, "B 2"]:
    """Return the part of each canvas that shows the image (height, width), in pixels."""
    return torch.tensor([view.resized_hw for view in views], device=device)
