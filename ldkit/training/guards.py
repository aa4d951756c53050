"""Reasons to stop a training run that would be worthless to continue."""

import math
from collections.abc import Mapping, Sequence

from ldkit.errors import TrainingError
from ldkit.structures import ViewKey

SILENT_STEPS = 50
"""A watched term that says nothing for so many steps stops the run."""

SILENT_BELOW = 1e-6
"""Rounding leaves about this much of a divergence that is zero."""


def raise_if_not_finite(
    terms: Mapping[str, float], grad_norm: float | None, keys: Sequence[ViewKey], step: int
) -> None:
    """Stop at a loss term or gradient norm that is infinite or not a number.

    Raises:
        TrainingError: With the offending terms and the ids of the batch's images.
    """
    broken = {name: value for name, value in terms.items() if not math.isfinite(value)}
    if grad_norm is not None and not broken and not math.isfinite(grad_norm):
        broken = {"gradient norm": grad_norm}
    if not broken:
        return
    values = ", ".join(f"{name} = {value}" for name, value in broken.items())
    images = ", ".join(str(key.image_id) for key in keys)
    raise TrainingError(
        f"is not finite at step {step + 1}: {values}. Images of this batch: {images}.",
        where="loss",
        hint="The weights are as they were before this step. Look at the boxes of these images; "
        "if they are sound, lower optim.lr, lengthen schedule.warmup_steps or set "
        "optim.clip_norm (20 is a mild value).",
    )


class SilenceWatch:
    """Watches loss terms that must not be zero throughout the first steps of a run.

    A distillation term that is identically zero trains a plain student under the name of a
    distilled one. A term counts the steps that have it: one that its schedule has switched off
    is missing, and says nothing by intent. A resumed run is watched from where it goes on.
    """

    def __init__(self, watched: Sequence[str]) -> None:
        self._silent_steps = dict.fromkeys(watched, 0)

    def see(self, terms: Mapping[str, float]) -> None:
        """Take notice of one step's terms, by name; those that are off are missing.

        Raises:
            TrainingError: A watched term was zero in the first `SILENT_STEPS` steps it was on.
        """
        for name in self._silent_steps.keys() & terms.keys():
            if abs(terms[name]) > SILENT_BELOW:
                del self._silent_steps[name]
            else:
                self._silent_steps[name] += 1
        silent = [name for name, steps in self._silent_steps.items() if steps == SILENT_STEPS]
        if silent:
            raise _silence(sorted(silent))


def _silence(names: Sequence[str]) -> TrainingError:
    return TrainingError(
        f"zero in all of the first {SILENT_STEPS} steps: the student learns nothing from the "
        "teacher.",
        where=", ".join(names),
        hint="Usual causes: the weight of the term is 0; the cache holds no rows for these images "
        "(see `ldkit cache info`); the teacher's file is the student itself. To train without "
        "the term, set its section to null.",
    )
