"""Where a COCO folder keeps its images and boxes, for benchmarks that take one as argument."""

from pathlib import Path
from typing import NamedTuple


class CocoFiles(NamedTuple):
    """One split, below its folder: where its images are, and its JSON file."""

    images: str
    annotations: str


def splits(root: Path) -> list[CocoFiles]:
    """Return every split with boxes: annotations/instances_NAME.json, images in NAME or images.

    Raises:
        SystemExit: There is none.
    """
    found = []
    for file in sorted((root / "annotations").glob("instances_*.json")):
        name = file.stem.removeprefix("instances_")
        images = name if (root / name).is_dir() else "images"
        found.append(CocoFiles(images, file.relative_to(root).as_posix()))
    if not found:
        raise SystemExit(f"{root}: no annotations/instances_*.json")
    return found


def train_split(root: Path) -> CocoFiles:
    """Return the split to train on: the first whose name begins with train, else the first."""
    found = splits(root)
    return next((split for split in found if "instances_train" in split.annotations), found[0])
