"""What jobs tell while they work, beside the events of the training loop."""

from dataclasses import dataclass

from ldkit.training.events import Event


@dataclass(frozen=True, slots=True)
class Progress:
    """So much of a stage is done. `unit` is a plural: views, images, scenes."""

    done: int
    total: int
    unit: str


@dataclass(frozen=True, slots=True)
class Note:
    """One sentence a user should read."""

    text: str


Message = Event | Progress | Note
