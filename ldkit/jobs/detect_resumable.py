"""Detections that survive an interruption: chunks of images, each written whole when it is done.

    eval/val.partial/000000.json ...    results of 64 images or a few more, and what they depend on

A chunk counts when its key is the present one: same weights, images, views, thresholds and
libraries. Batches are planned over all images before they are cut into chunks, so an evaluation
that was interrupted ends in the same results as one that was not.
"""

import json
from collections.abc import Generator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ldkit import __version__
from ldkit.data.coco import CocoIndex
from ldkit.files import fingerprint, write_text
from ldkit.jobs import sources
from ldkit.jobs.detect import Found, found_in, in_order, planned_batches
from ldkit.jobs.progress import Note, Progress
from ldkit.metrics.results import CocoResult
from ldkit.models.checkpoint_file import ModelFile
from ldkit.models.gfl import Detector
from ldkit.recipe.schema import Recipe
from ldkit.structures import ViewKey

IMAGES_PER_CHUNK = 64
"""What an interruption may lose: seconds on a GPU, a minute or two on a CPU."""


@dataclass(frozen=True, slots=True)
class Chunks:
    """The folder of one evaluation's chunks, and the key that its chunks carry."""

    folder: Path
    key: str

    def read(self, number: int, image_ids: list[int]) -> Found | None:
        """Return the results of a chunk, or None where it is missing or of something else."""
        try:
            content: dict[str, Any] = json.loads(self._path(number).read_bytes())
            if content["key"] != self.key or content["images"] != image_ids:
                return None
        except (OSError, ValueError, KeyError, TypeError):  # missing, or no chunk of ours
            return None
        return dict(zip(image_ids, content["results"], strict=True))

    def write(self, number: int, found: Found) -> None:
        """Write the results of a chunk, durably; numbers survive to the last bit.

        Raises:
            StorageError: The disk is full or the folder cannot be written.
        """
        content = {"key": self.key, "images": list(found), "results": list(found.values())}
        write_text(self._path(number), json.dumps(content))

    def remove(self) -> None:
        """Remove all chunks and their folder, since what they were for is written."""
        for path in self.folder.glob("[0-9]*.json"):
            path.unlink(missing_ok=True)
        if self.folder.is_dir() and not any(self.folder.iterdir()):
            self.folder.rmdir()

    def _path(self, number: int) -> Path:
        return self.folder / f"{number:06d}.json"


def chunks_of(
    folder: Path, file: ModelFile, index: CocoIndex, recipe: Recipe, device: torch.device
) -> Chunks:
    """Return the chunks of this evaluation: their key is what its results depend on."""
    depends_on = {
        "weights": file.fingerprint,
        "detector": file.detector,
        "images": index.fingerprint,
        "views": recipe.views.model_dump(mode="json"),
        "eval": recipe.eval.model_dump(mode="json", exclude={"every_epochs"}),
        "renderer": sources.render_source().fingerprint,
        "versions": [__version__, torch.__version__],
        "device": device.type,
    }
    return Chunks(folder, fingerprint(depends_on))


def detect_resumable(
    model: Detector, index: CocoIndex, recipe: Recipe, device: torch.device, chunks: Chunks
) -> Generator[Progress | Note, None, list[CocoResult]]:
    """Yield progress; return what `detect` would, taking finished chunks as they are."""
    planned = _cut(planned_batches(index, recipe))
    found: Found = {}
    missing = {}
    for number, batches in enumerate(planned):
        done = chunks.read(number, [key.image_id for batch in batches for key in batch])
        found |= done or {}
        if done is None:
            missing[number] = batches
    if found:
        done_before = f"{len(found):,} of {len(index.records):,} images"
        yield Note(f"{done_before} were evaluated before ({chunks.folder}); going on from there.")
    batches = [batch for chunk in missing.values() for batch in chunk]
    with closing(found_in(model, index, recipe, device, batches)) as answers:
        for number, chunk in missing.items():
            fresh: Found = {}
            for _ in chunk:
                fresh |= next(answers)
                yield Progress(len(found) + len(fresh), len(index.records), "images")
            chunks.write(number, fresh)
            found |= fresh
    return in_order(found, index)


def _cut(batches: list[list[ViewKey]]) -> list[list[list[ViewKey]]]:
    """Return the batches in chunks of at least `IMAGES_PER_CHUNK` images; the last may be short."""
    chunks: list[list[list[ViewKey]]] = []
    images = IMAGES_PER_CHUNK
    for batch in batches:
        if images >= IMAGES_PER_CHUNK:
            chunks.append([])
            images = 0
        chunks[-1].append(batch)
        images += len(batch)
    return chunks
