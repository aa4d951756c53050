"""A world that trains in a second: drawn rectangles, two tiny detectors, and what jobs tell."""

import json
import os
import sys
from collections.abc import Callable, Generator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import cv2
import numpy as np

from ldkit.jobs.progress import Message
from ldkit.models.checkpoint_file import read_model, weights_fingerprint
from ldkit.recipe.load import load_recipe
from ldkit.recipe.schema import Recipe
from ldkit.structures import Size
from ldkit.training.checkpoint import latest
from ldkit.training.events import Step
from ldkit.training.journal import read_journal

ROOT = Path(__file__).parents[2]
CLASSES = ("bar", "disc", "frame")
SQUARE: Size = (64, 64)
MIXED: tuple[Size, ...] = ((64, 64), (96, 64), (128, 64), (64, 96), (64, 128), (50, 70), (70, 50))
"""(height, width): seven canvases or paddings, three and more in each group of equal aspect."""

Result = TypeVar("Result")

DETECTOR = """
  backbone: {name: small, width: 8, depth: 1}
  fpn: {channels: 16, levels: [3, 4, 5, 6]}
  head: {convs: 1, norm_groups: 4, reg_max: 8, bin_width: 0.5, anchor_scale: 3}
"""
COMMON = """
data:
  train: {images: train, annotations: annotations/instances_train.json}
  val: {images: val, annotations: annotations/instances_val.json}
  workers: 0
views: {short_side_px: 64, long_side_max_px: 128, flip: 0.5}
optim: {kind: adamw, lr: 2e-3, clip_norm: 20}
schedule: {kind: cosine, epochs: 2, warmup_steps: 2}
train: {batch_size: 3, checkpoint_every_steps: 1000}
eval: {every_epochs: null}
"""
TEACHER = f"name: teacher\nmodel: {DETECTOR}{COMMON}"
STUDENT = f"""
name: student
student: {DETECTOR}
teacher: {{checkpoint: missing.pt}}
cache: {{path: missing}}
objective: {{localization: {{main: {{weight: 1.0, temperature: 2}}}}}}
{COMMON}
"""
EXACT = ("cache.main.bbox_logits=fp32", "cache.main.cls_logits=fp32")
EVERY_TERM = (
    *EXACT,
    "objective.localization.vlr={weight: 1.0, temperature: 2}",
    "objective.classification_kd.main={kind: binary, weight: 1.0, classes: sum}",
    "objective.classification_kd.vlr={kind: softmax, weight: 1.0, classes: sum}",
    "objective.imitation={region: fine_grained}",
    "objective.score={classification: {weight: 1.0}, box: {weight: 1.0}}",
    "objective.cross={after: 1, classification: {weight: 1.0}, box: {weight: 1.0}}",
    "cache.vlr={bbox_logits: fp32, cls_logits: fp32}",
    "cache.imitation={region: fine_grained, features: fp32}",
    "cache.score={bbox_logits: fp32, cls_logits: fp32}",
    "cache.cross={after: 1, statistics: fp32}",
)
"""Every term at once, on a cache that rounds nothing."""


def draw_scenes(root: Path, train: Sequence[Size], val: Sequence[Size] = (SQUARE,) * 3) -> Path:
    """Write a COCO data set of a few coloured rectangles, a size for each image; return `root`."""
    for split, sizes in {"train": train, "val": val}.items():
        dice = np.random.default_rng(len(split))
        images, annotations = [], []
        for image_id, hw in enumerate(sizes, start=1):
            pixels = dice.integers(90, 160, (*hw, 3), dtype=np.uint8)
            for _ in range(dice.integers(1, 4)):
                box, label = _draw_rectangle(pixels, dice)
                row = {"id": len(annotations) + 1, "image_id": image_id, "bbox": box}
                annotations.append(row | {"category_id": label + 1, "area": box[2] * box[3]})
            name = f"{image_id}.png"
            (root / split).mkdir(parents=True, exist_ok=True)
            assert cv2.imwrite(str(root / split / name), pixels)
            images.append({"id": image_id, "file_name": name, "height": hw[0], "width": hw[1]})
        write_annotations(root, split, images, annotations)
    return root


def _draw_rectangle(pixels: np.ndarray, dice: np.random.Generator) -> tuple[list[int], int]:
    height, width = pixels.shape[:2]
    h, w = dice.integers(10, 40, 2).tolist()
    y, x = dice.integers(0, height - h + 1).item(), dice.integers(0, width - w + 1).item()
    label = dice.integers(len(CLASSES)).item()
    pixels[y : y + h, x : x + w] = dice.integers(0, 60)
    pixels[y : y + h, x : x + w, label] = 255
    return [x, y, w, h], label


def write_annotations(
    root: Path,
    split: str,
    images: list[dict[str, Any]],
    annotations: list[dict[str, Any]] | None,
    classes: Sequence[str] = CLASSES,
) -> None:
    document: dict[str, Any] = {
        "images": images,
        "categories": [{"id": n, "name": name} for n, name in enumerate(classes, start=1)],
    }
    if annotations is not None:
        document["annotations"] = [{"iscrowd": 0, **row} for row in annotations]
    path = root / "annotations" / f"instances_{split}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document))


def teacher_recipe(data: Path, *overrides: str) -> Recipe:
    return _recipe(TEACHER, data, overrides)


def student_recipe(data: Path, teacher: Path, cache: Path, *overrides: str) -> Recipe:
    places = (f"teacher.checkpoint={teacher}", f"cache.path={cache}")
    return _recipe(STUDENT, data, (*places, *overrides))


def _recipe(text: str, data: Path, overrides: Sequence[str]) -> Recipe:
    path = data / f"recipe_{os.getpid()}.yaml"
    path.write_text(text)
    return load_recipe(str(path), [f"data.root={data}", *overrides]).recipe


def finish(job: Generator[Message, None, Result]) -> Result:
    """Run a job to its end and return its result."""
    while True:
        try:
            next(job)
        except StopIteration as end:
            result: Result = end.value
            return result


def told(job: Generator[Message, None, Any]) -> list[Message]:
    return list(job)


def until(job: Generator[Message, None, Any], is_last: Callable[[Message], bool]) -> Message:
    """Run a job until it tells something; it then waits there, still open."""
    return next(message for message in job if is_last(message))


def at_step(step: int) -> Callable[[Message], bool]:
    return lambda message: isinstance(message, Step) and message.step == step


def steps(run: Path) -> list[tuple[int, dict[str, float]]]:
    """Return (step, loss terms) as the journal has them."""
    events = read_journal(run / "metrics.jsonl")
    return [(event.step, event.terms) for event in events if isinstance(event, Step)]


def weights(run: Path) -> str:
    """Return the fingerprint of the finished model's weights."""
    return weights_fingerprint(read_model(run / "model.pt").weights)


def last_checkpoint(run: Path) -> str:
    newest = latest(run / "checkpoints")
    return "none" if newest is None else newest.name


def snapshot(folder: Path) -> dict[str, bytes]:
    """Return the bytes of every file below a folder."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def python(code: str, *arguments: object) -> list[str]:
    """Return the command that runs code in another Python, with the tests at hand."""
    return [sys.executable, "-c", code, *map(str, arguments)]


def environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive"}
