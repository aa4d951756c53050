"""The recipe: one typed document with one home for every default.

Units stand in names (`px`, `steps`, `epochs`). Sections follow the stages of ldkit; a value a
user may set is a field here and nowhere else. Field texts are what `ldkit recipe schema` shows.
"""

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field, NonNegativeFloat, PositiveInt, model_validator
from pydantic import NonNegativeInt as Count

from ldkit.recipe.cache import Cache
from ldkit.recipe.data import Data
from ldkit.recipe.detector import Detector
from ldkit.recipe.objective import Objective
from ldkit.recipe.section import Fraction, FractionBelow1, PositiveFloat, Section


class Views(Section):
    """What randomness an image may get: drawn once for each (image, view), then stored."""

    short_side_px: PositiveInt | tuple[PositiveInt, PositiveInt] = 800
    """Target of the shorter side: one size, or a range [low, high] to draw from."""
    long_side_max_px: PositiveInt = 1333
    """Most of the longer side; an image that would exceed it is made smaller."""
    flip: Fraction = 0.5
    """Share of mirrored images. With one size there are just two views, plain and mirrored."""
    count: Annotated[int, Field(ge=1)] | None = None
    """With a range: views drawn for each image; null draws one for each epoch."""
    pad_multiple_px: PositiveInt = 32
    """Every view is padded, right and below, to a multiple of this."""

    @model_validator(mode="after")
    def _check(self) -> "Views":
        sizes = self.short_side_px
        if isinstance(sizes, tuple) and sizes[0] > sizes[1]:
            raise ValueError("short_side_px: must be [low, high].")
        if isinstance(sizes, int) and self.count is not None:
            raise ValueError("count: must be null, unless short_side_px is a range.")
        return self


class Teacher(Section):
    """The teacher: a model file knows its architecture, classes and fingerprint."""

    checkpoint: str
    """Its file, such as r101.pt."""
    published: str | None = None
    """Where that file is absent, `ldkit run` imports this published checkpoint (.pth)."""
    recipe: str | None = None
    """Where neither is given, `ldkit run` trains it by this recipe: a shipped one, or a path."""


class Sgd(Section):
    """Stochastic gradient descent with momentum; decays every parameter, as published."""

    kind: Literal["sgd"]
    """Stochastic gradient descent."""
    lr: PositiveFloat
    """Learning rate after the warm-up."""
    momentum: Fraction = 0.9
    """Share of the last step that is kept."""
    weight_decay: NonNegativeFloat = 1e-4
    """Pull towards zero, added to the gradient."""
    clip_norm: PositiveFloat | None = None
    """Largest gradient norm of a step; null does not clip."""


class AdamW(Section):
    """AdamW; vectors (biases, norms, scales) are not decayed."""

    kind: Literal["adamw"]
    """Adam with decoupled weight decay."""
    lr: PositiveFloat
    """Learning rate after the warm-up."""
    betas: tuple[FractionBelow1, FractionBelow1] = (0.9, 0.999)
    """Decay of the running mean of the gradient, and of its square."""
    weight_decay: NonNegativeFloat = 0.02
    """Pull towards zero, as a share of the learning rate."""
    clip_norm: PositiveFloat | None = None
    """Largest gradient norm of a step; null does not clip."""


class Milestones(Section):
    """Learning rate that falls by `factor` at each milestone, after a linear warm-up."""

    kind: Literal["milestones"]
    """Steps down."""
    epochs: PositiveInt
    """Passes over the training images."""
    milestones: tuple[PositiveInt, ...]
    """Epochs (counted from 0) at whose start the rate falls."""
    factor: Fraction = 0.1
    """What the rate is multiplied by at each milestone."""
    warmup_steps: Count = 500
    """Steps over which the rate rises to its full size."""
    warmup_start: Fraction = 0.001
    """First rate of the warm-up, as a share of the full one."""
    max_steps: PositiveInt | None = None
    """Stop after this many steps, for trials; null trains all epochs."""

    @model_validator(mode="after")
    def _check(self) -> "Milestones":
        steps = self.milestones
        if list(steps) != sorted(set(steps)):
            raise ValueError("milestones: must rise.")
        if steps and steps[-1] >= self.epochs:
            raise ValueError(f"milestones: must lie before the end (epochs = {self.epochs}).")
        return self


class Cosine(Section):
    """Learning rate that falls to `final` along half a cosine, after a linear warm-up."""

    kind: Literal["cosine"]
    """Half a cosine."""
    epochs: PositiveInt
    """Passes over the training images."""
    final: Fraction = 0.0
    """Last rate, as a share of the full one."""
    warmup_steps: Count = 500
    """Steps over which the rate rises to its full size."""
    warmup_start: Fraction = 0.001
    """First rate of the warm-up, as a share of the full one."""
    max_steps: PositiveInt | None = None
    """Stop after this many steps, for trials; null trains all epochs."""


class Train(Section):
    """The training loop."""

    batch_size: PositiveInt = 6
    """Images of a step."""
    channels_last: bool = True
    """Memory layout of images and weights; faster on most machines."""
    checkpoint_every_steps: PositiveInt = 10_000
    """Steps between two states that `--resume` can go on from."""
    keep: PositiveInt = 2
    """Checkpoints that stay on disk."""
    log_terms_every_steps: PositiveInt | None = 500
    """Steps between two measurements of what each term contributes to the gradient; null: none."""


class Eval(Section):
    """Evaluation and post-processing."""

    every_epochs: PositiveInt | None = 1
    """Evaluate on `data.val` after every so many epochs; null only with `ldkit eval`."""
    score_floor: Fraction = 0.05
    """Detections with a lower score are dropped."""
    candidates_per_level: PositiveInt = 1000
    """How many of each feature level go on to NMS."""
    topk: Literal["pairs", "locations"] = "pairs"
    """What is ranked before NMS: (location, class) pairs, or locations by their best class."""
    nms_iou: Fraction = 0.6
    """Of two boxes of a class that overlap more, the better one stays."""
    max_detections: PositiveInt = 100
    """Detections that an image keeps."""
    batch_size: PositiveInt = 4
    """Images that are evaluated at once."""


Percent = Annotated[float, Field(ge=0, le=100)]


class Expect(Section):
    """What a paper or an earlier run reports for this recipe on `data.val`, in percent.

    Nothing depends on it; `ldkit eval` shows the distance.
    """

    ap: Percent
    """AP, the mean over the IoU thresholds."""
    ap50: Percent | None = None
    """AP at IoU .50."""
    ap75: Percent | None = None
    """AP at IoU .75."""
    ap_small: Percent | None = None
    """AP of small objects."""
    ap_medium: Percent | None = None
    """AP of medium objects."""
    ap_large: Percent | None = None
    """AP of large objects."""
    ar100: Percent | None = None
    """Recall with 100 boxes per image."""
    images: PositiveInt | None = None
    """Images it was measured on: where `data.val` has another number, no distance is shown."""


class Recipe(Section):
    """The document of one run."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
    """Name of the run; its folder is runs/NAME."""
    seed: Count = 0
    """Decides weights, order of batches and views; equal seeds give equal runs."""
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
    expect: Expect | None = None

    @model_validator(mode="after")
    def _check(self) -> "Recipe":
        broken = list(self._broken_rules())
        if broken:
            raise ValueError("\n".join(broken))
        return self

    def _broken_rules(self) -> Iterator[str]:
        """Yield `key: what must be` for each rule between sections that does not hold."""
        if self.model is None and self.student is None:
            yield "model: required, but missing; or `student`, to train with a teacher."
        if self.model is not None and self.student is not None:
            yield "model: trained alone, or `student` with a teacher, not both: set one to null."
        if self.student is not None and self.teacher is None:
            yield "teacher: required, since a student learns from it. Set teacher.checkpoint."
        if self.student is None:
            for key, _, _ in self.objective.distillation_terms():
                yield f"{key}: needs a student and its teacher; must be null here."
        yield from self._broken_rules_of_imitation()
        yield from self._broken_rules_of_cross()
        if self.data.val is None and self.eval.every_epochs is not None:
            yield "eval.every_epochs: evaluates on data.val, which is null. Must be null too."

    def _broken_rules_of_imitation(self) -> Iterator[str]:
        imitation = self.objective.imitation
        kept = None if self.cache is None else self.cache.imitation
        # gi is chosen while training, with a live teacher, so that no cache has to keep it.
        if imitation is None or kept is None or imitation.region in ("gi", kept.region):
            return
        yield (
            f"cache.imitation.region: must be {imitation.region}, as "
            "objective.imitation.region, which reads it."
        )

    def _broken_rules_of_cross(self) -> Iterator[str]:
        cross, cache = self.objective.cross, self.cache
        if cross.classification is None and cross.box is None:
            return
        if self.student is not None and cross.after > self.student.head.convs:
            yield (
                "objective.cross.after: must be at most student.head.convs = "
                f"{self.student.head.convs}."
            )
        if cache is not None and cache.cross is not None and cache.cross.after != cross.after:
            yield f"cache.cross.after: must be {cross.after}, as objective.cross.after."

    @property
    def detector(self) -> Detector:
        """Return the detector that this recipe trains."""
        detector = self.student if self.model is None else self.model
        assert detector is not None
        return detector
