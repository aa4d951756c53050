"""The recipe: one typed document with one home for every default.

Units stand in names (`px`, `steps`, `epochs`). Sections follow the stages of ldkit; a value a
user may set is a field here and nowhere else. Field texts are what `ldkit recipe schema` shows.
"""

from typing import Annotated, Literal, Self

from pydantic import Field, NonNegativeFloat, PositiveInt, model_validator
from pydantic import NonNegativeInt as Count

from ldkit.recipe.detector import Detector
from ldkit.recipe.objective import Objective
from ldkit.recipe.section import Fraction, PositiveFloat, Section


class Split(Section):
    """One set of images."""

    images: str
    """Folder of the images, below `data.root`."""
    annotations: str
    """COCO JSON, below `data.root`."""


class Data(Section):
    """Where the images are."""

    root: str = "data/coco"
    """Folder that holds the data set."""
    train: Split = Split(images="train2017", annotations="annotations/instances_train2017.json")
    val: Split | None = Split(images="val2017", annotations="annotations/instances_val2017.json")
    test_dev: Split | None = None
    """Images without annotations, for a test server."""
    bad_boxes: Literal["refuse", "drop"] = "refuse"
    """What to do with boxes that lie outside their image or have a negative size."""
    workers: Count = 2
    """Processes that load images; 0 loads in the main process."""


class Views(Section):
    """What randomness an image may get: drawn once for each (image, view), then stored."""

    short_side_px: PositiveInt | tuple[PositiveInt, PositiveInt] = 800
    """Target of the shorter side: one size, or a range [low, high] to draw from."""
    long_side_max_px: PositiveInt = 1333
    flip: Fraction = 0.5
    """Share of mirrored images. With one size there are just two views, plain and mirrored."""
    count: PositiveInt | None = None
    """With a range: views drawn for each image; null draws one for each epoch."""
    pad_multiple_px: PositiveInt = 32

    @model_validator(mode="after")
    def _check(self) -> Self:
        sizes = self.short_side_px
        if isinstance(sizes, tuple) and sizes[0] > sizes[1]:
            raise ValueError(f"short_side_px: [{sizes[0]}, {sizes[1]}] is not [low, high].")
        if isinstance(sizes, int) and self.count is not None:
            raise ValueError("count: has a meaning only where short_side_px is a range.")
        return self


class Teacher(Section):
    """The teacher: a model file knows its architecture, classes and fingerprint."""

    checkpoint: str


class MainColumns(Section):
    """What the cache keeps of the main region."""

    bbox_logits: Literal["fp32", "fp16"] = "fp16"
    cls_logits: Literal["fp32", "fp16"] | None = "fp16"
    """null: not stored."""


class Cache(Section):
    """The teacher cache."""

    path: str
    main: MainColumns = MainColumns()
    shard_mb: PositiveFloat = 64.0
    """Size of a shard; also the most that an interrupted build loses."""
    batch_size: PositiveInt = 4
    """Views that the teacher sees at once (only views of equal padded size)."""


class Sgd(Section):
    """Stochastic gradient descent with momentum; decays every parameter, as published."""

    kind: Literal["sgd"]
    lr: PositiveFloat
    momentum: Fraction = 0.9
    weight_decay: NonNegativeFloat = 1e-4
    clip_norm: PositiveFloat | None = None
    """Largest gradient norm of a step; null does not clip."""


class AdamW(Section):
    """AdamW; vectors (biases, norms, scales) are not decayed."""

    kind: Literal["adamw"]
    lr: PositiveFloat
    betas: tuple[Fraction, Fraction] = (0.9, 0.999)
    weight_decay: NonNegativeFloat = 0.02
    clip_norm: PositiveFloat | None = None
    """Largest gradient norm of a step; null does not clip."""


class Milestones(Section):
    """Learning rate that falls by `factor` at each milestone, after a linear warm-up."""

    kind: Literal["milestones"]
    epochs: PositiveInt
    milestones: tuple[PositiveInt, ...]
    """Epochs (counted from 0) at whose start the rate falls."""
    factor: Fraction = 0.1
    warmup_steps: Count = 500
    warmup_start: Fraction = 0.001
    max_steps: PositiveInt | None = None
    """Stop after this many steps, for trials; null trains all epochs."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        steps = self.milestones
        if list(steps) != sorted(set(steps)):
            raise ValueError(f"milestones: {list(steps)} must rise.")
        if steps and steps[-1] >= self.epochs:
            raise ValueError(
                f"milestones: {list(steps)} must lie before the end (epochs = {self.epochs})."
            )
        return self


class Cosine(Section):
    """Learning rate that falls to `final` along half a cosine, after a linear warm-up."""

    kind: Literal["cosine"]
    epochs: PositiveInt
    final: Fraction = 0.0
    """Last learning rate, as a share of the first."""
    warmup_steps: Count = 500
    warmup_start: Fraction = 0.001
    max_steps: PositiveInt | None = None
    """Stop after this many steps, for trials; null trains all epochs."""


class Train(Section):
    """The training loop."""

    batch_size: PositiveInt = 6
    channels_last: bool = True
    """Memory layout of images and weights; faster on most machines."""
    checkpoint_every_steps: PositiveInt = 10_000
    keep: PositiveInt = 2
    """Checkpoints that stay on disk."""


class Eval(Section):
    """Evaluation and post-processing."""

    every_epochs: PositiveInt | None = 1
    """Evaluate on `data.val` after every so many epochs; null only with `ldkit eval`."""
    score_floor: Fraction = 0.05
    candidates_per_level: PositiveInt = 1000
    topk: Literal["pairs", "locations"] = "pairs"
    """What is ranked before NMS: (location, class) pairs, or locations by their best class."""
    nms_iou: Fraction = 0.6
    max_detections: PositiveInt = 100
    batch_size: PositiveInt = 4


class Recipe(Section):
    """The document of one run."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
    """Name of the run; its folder is runs/NAME."""
    seed: Count = 0
    data: Data = Data()
    views: Views = Views()
    model: Detector | None = None
    """The detector to train alone: a teacher or a baseline."""
    teacher: Teacher | None = None
    student: Detector | None = None
    """The detector to train with a teacher."""
    cache: Cache | None = None
    objective: Objective = Objective()
    optim: Annotated[Sgd | AdamW, Field(discriminator="kind")]
    schedule: Annotated[Milestones | Cosine, Field(discriminator="kind")]
    train: Train = Train()
    eval: Eval = Eval()

    @model_validator(mode="after")
    def _check(self) -> Self:
        if (self.model is None) == (self.student is None):
            raise ValueError(
                "model: a recipe trains either `model` (alone) or `student` (with a teacher)."
            )
        if self.student is not None and self.teacher is None:
            raise ValueError("teacher: a student needs a teacher. Set teacher.checkpoint=FILE.")
        if self.model is not None and self.objective.localization.main is not None:
            raise ValueError(
                "objective.localization.main: needs a teacher, but `model` is trained alone."
            )
        return self

    @property
    def detector(self) -> Detector:
        """Return the detector that this recipe trains."""
        detector = self.student if self.model is None else self.model
        assert detector is not None
        return detector
