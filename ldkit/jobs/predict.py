"""`ldkit predict`: the boxes that a model finds in images, as numbers and as pictures."""

from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ldkit.data.augment import ViewPolicy, read_image, render
from ldkit.data.paint import Painted, paint
from ldkit.errors import DataError, UsageError
from ldkit.files import write_bytes
from ldkit.jobs import assemble
from ldkit.jobs.progress import Message, Progress
from ldkit.jobs.targets import Target, target
from ldkit.models.gfl import Detector
from ldkit.ops.decode import DecodeSettings, decode
from ldkit.ops.pixels import normalise
from ldkit.structures import Detections, Size, View, resized_sizes

SCORE = 0.3
PICTURE_ENDINGS = (".png", ".jpg", ".jpeg")
"""Endings that a picture keeps; any other image becomes a PNG."""


class Box(NamedTuple):
    """A box in pixels of its image (x1, y1, x2, y2), its class, and how sure the model is."""

    name: str
    label: int
    score: float
    corners: tuple[float, float, float, float]


@dataclass(frozen=True, slots=True)
class Found:
    """What was found in an image, best score first; `picture` is where it was painted."""

    image: Path
    hw: Size
    boxes: tuple[Box, ...]
    picture: Path | None

    def as_dict(self) -> dict[str, Any]:
        """Return it for machines."""
        height, width = self.hw
        boxes = [
            {"class": box.name, "score": box.score, "box": list(box.corners)} for box in self.boxes
        ]
        picture = {} if self.picture is None else {"picture": str(self.picture)}
        return {
            "image": str(self.image),
            "width": width,
            "height": height,
            **picture,
            "boxes": boxes,
        }


@dataclass(frozen=True, slots=True)
class Looking:
    """How images are shown to a model, and how its answers become boxes."""

    model: Detector
    classes: tuple[str, ...]
    policy: ViewPolicy
    settings: DecodeSettings
    device: torch.device


def run(
    model: Path,
    images: Sequence[Path],
    *,
    overrides: Sequence[str] = (),
    score: float = SCORE,
    draw: Path | None = None,
    device: str = "auto",
) -> Generator[Message, None, list[Found]]:
    """Yield progress; return what was found in each image, in their order.

    Each image is shown as in evaluation: at the size that the model's recipe says, on its own
    canvas. `draw` is a folder for pictures with the boxes on them; `score` is the least score.

    Raises:
        UsageError: There is no such image, or a picture would replace one.
        CheckpointError: The file is not a model of ldkit.
        DataError: An image cannot be read.
    """
    pictures = _pictures(images, draw)
    looking = _looking(target(model, overrides), score, device)
    found = []
    for image, picture in zip(images, pictures, strict=True):
        found.append(_look(looking, image, picture))
        yield Progress(len(found), len(images), "images")
    return found


def _looking(goal: Target, score: float, device: str) -> Looking:
    place = assemble.device(device)
    model, file = assemble.trained_detector(goal.model)
    settings = replace(assemble.decode_settings(goal.recipe.eval), score_floor=score)
    policy = assemble.view_policy(goal.recipe.views, goal.recipe.seed)
    return Looking(model.to(place), file.classes, policy, settings, place)


def _look(looking: Looking, image: Path, picture: Path | None) -> Found:
    pixels = read_image(image)
    height, width = pixels.shape[:2]
    view = looking.policy.plain_view((height, width))
    rendered = torch.from_numpy(render(pixels, view))[None].to(looking.device)
    images = normalise(rendered, resized_sizes((view,), looking.device))
    boxes = _boxes(detections(looking.model, images, (view,), looking.settings)[0], looking.classes)
    if picture is not None:
        _write_picture(picture, pixels, boxes)
    return Found(image, (height, width), boxes, picture)


@torch.no_grad()
def detections(
    model: Detector,
    images: Float[Tensor, "B 3 H W"],
    views: tuple[View, ...],
    settings: DecodeSettings,
) -> list[Detections]:
    """Return what a model finds in normalised images that show these views."""
    return decode(model(images), model.grid, (images.shape[2], images.shape[3]), views, settings)


def _boxes(found: Detections, classes: tuple[str, ...]) -> tuple[Box, ...]:
    columns = (column.tolist() for column in found)
    return tuple(
        Box(classes[label], label, round(score, 4), tuple(round(value, 2) for value in corners))
        for corners, score, label in zip(*columns, strict=True)
    )


def _pictures(images: Sequence[Path], folder: Path | None) -> list[Path | None]:
    """Return where each picture goes, after checking that all images are there.

    Raises:
        DataError: An image is absent, or a folder.
        UsageError: A picture would take the place of an image, or of another picture.
    """
    for image in images:
        if not image.is_file():
            problem = "is a folder; name the images in it." if image.is_dir() else "does not exist."
            raise DataError(problem, where=str(image), hint="Nothing was looked at yet.")
    if folder is None:
        return [None] * len(images)
    if folder.exists() and not folder.is_dir():
        raise UsageError("is a file, but a folder is needed.", where=f"--draw {folder}")
    pictures = [folder / _picture_name(image) for image in images]
    originals = {image.resolve() for image in images}
    taken = [picture for picture in pictures if picture.resolve() in originals]
    twice = [picture for picture in pictures if pictures.count(picture) > 1]
    if taken or twice:
        where, problem = (
            (taken[0], "is one of the images, and its picture would replace it.")
            if taken
            else (twice[0], "would be the picture of more than one image.")
        )
        raise UsageError(problem, where=str(where), hint="Name another folder with `--draw`.")
    return list(pictures)


def _picture_name(image: Path) -> str:
    return image.name if image.suffix.lower() in PICTURE_ENDINGS else f"{image.name}.png"


def _write_picture(path: Path, pixels: np.ndarray, boxes: tuple[Box, ...]) -> None:
    texts = [Painted(box.corners, f"{box.name} {box.score:.2f}", box.label) for box in boxes]
    painted = cv2.cvtColor(paint(pixels, texts), cv2.COLOR_RGB2BGR)
    write_bytes(path, cv2.imencode(path.suffix.lower(), painted)[1].tobytes())
