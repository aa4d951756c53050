"""A teacher's answers for batches, in smaller parts where memory does not suffice."""

from collections.abc import Iterator
from typing import NamedTuple

import torch

from ldkit.cache.content import name_of
from ldkit.cache.format import Wanted
from ldkit.errors import UsageError
from ldkit.jobs.facts import plural
from ldkit.jobs.progress import Note
from ldkit.jobs.teacher_rows import ask
from ldkit.models.gfl import Detector
from ldkit.structures import Batch, GroundTruth, Predictions

EXHAUSTED = ("out of memory", "can't allocate memory")
"""What a RuntimeError says where it means memory. Source: PyTorch's allocators."""


class Answer(NamedTuple):
    """Views of one canvas, and what the teacher says of them everywhere."""

    batch: Batch
    said: Predictions


class Asking:
    """Asks a teacher about batches. Once memory has run out, about half as many views at once."""

    def __init__(self, teacher: Detector, wanted: Wanted, most: int) -> None:
        self._teacher = teacher
        self._wanted = wanted
        self._most = most
        self._keeps_maps = wanted.coverage.imitation is not None

    def answers(self, batch: Batch) -> Iterator[Answer | Note]:
        """Yield the answers for all views of a batch in order, and a note before smaller parts.

        Raises:
            UsageError: Memory does not suffice for a single view.
        """
        start = 0
        while start < len(batch.keys):
            part = part_of(batch, start, start + self._most)
            said = self._ask(part)
            if said is None:
                yield self._halve(part)
                continue
            yield Answer(part, said)
            start += len(part.keys)

    def _ask(self, part: Batch) -> Predictions | None:
        """Return what the teacher says; None: memory has run out."""
        try:
            said = ask(self._teacher, part, self._wanted)
            return said if self._keeps_maps else said._replace(maps=())
        except (RuntimeError, MemoryError) as error:
            if not is_exhausted(error):
                raise
        # Only here, where no traceback holds the tensors any more, are they free to be returned.
        if part.pixels.device.type == "cuda":
            torch.cuda.empty_cache()
        return None

    def _halve(self, part: Batch) -> Note:
        count, (height, width) = len(part.keys), part.canvas_hw
        if count == 1:
            raise no_room(part)
        self._most = count // 2
        return Note(
            f"Memory does not suffice for {count} views of {height} x {width} at once: going on "
            f"with {self._most}. Their rows may differ in the last bits from those of {count}."
        )


def no_room(batch: Batch) -> UsageError:
    """Return the error for views that memory does not suffice for."""
    height, width = batch.canvas_hw
    return UsageError(
        f"memory does not suffice for {plural(len(batch.keys), 'view')} of {height} x {width} "
        f"pixels on {batch.pixels.device}.",
        where=name_of(batch.keys[0]),
        hint="Free memory, take another device (`--device cpu`), or make views smaller "
        "(`--set views.long_side_max_px=...`, which makes another cache).",
    )


def is_exhausted(error: BaseException | None) -> bool:
    """Say whether an error means that memory has run out."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(text in str(error) for text in EXHAUSTED)


def part_of(batch: Batch, start: int, end: int) -> Batch:
    """Return some successive views of a batch, on its canvas."""
    boxes, labels = batch.ground_truth
    return Batch(
        keys=batch.keys[start:end],
        views=batch.views[start:end],
        pixels=batch.pixels[start:end],
        ground_truth=GroundTruth(boxes[start:end], labels[start:end]),
    )
