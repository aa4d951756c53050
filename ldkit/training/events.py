"""What training tells: one closed set of events.

Jobs pass them on, the journal writes them, the command line draws them. Steps count completed
optimizer steps, so `step` is also the position from which a run would resume.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Started:
    """Training begins, or goes on, at position `step`."""

    step: int
    total_steps: int
    steps_per_epoch: int


@dataclass(frozen=True, slots=True)
class Step:
    """One optimizer step is done.

    `epoch` counts from 0; `lr` is the rate of this step; `terms` are the weighted loss terms;
    `grad_norm` is the norm before clipping, `None` where nothing is clipped. Of the `seconds`,
    `wait_seconds` were spent waiting for the batch of `images` images.
    """

    step: int
    epoch: int
    lr: float
    terms: dict[str, float]
    grad_norm: float | None
    seconds: float
    wait_seconds: float
    images: int

    @property
    def loss(self) -> float:
        """Return the sum of the terms."""
        return sum(self.terms.values())


@dataclass(frozen=True, slots=True)
class Contributions:
    """What each loss term is about to contribute to the step that ends at `step`.

    `shares` are fractions of the total loss, all 0 where that is 0; `grad_norms` are the norms of
    the gradients over all that is trained, before clipping. Told before its step.
    """

    step: int
    shares: dict[str, float]
    grad_norms: dict[str, float]


@dataclass(frozen=True, slots=True)
class Evaluated:
    """The model was evaluated at `step`. `figures` are fractions; `None` is 'nothing to count'."""

    step: int
    figures: dict[str, float | None]
    seconds: float

    @property
    def ap(self) -> float | None:
        """Return AP, the mean over the IoU thresholds .50 to .95, as a fraction."""
        return self.figures["ap"]


@dataclass(frozen=True, slots=True)
class Saved:
    """A checkpoint is complete. `path` is its folder, as text."""

    step: int
    path: str


@dataclass(frozen=True, slots=True)
class Finished:
    """All steps are done, in `seconds` since training began or went on."""

    step: int
    seconds: float


Event = Started | Step | Contributions | Evaluated | Saved | Finished
