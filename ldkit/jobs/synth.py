"""`ldkit data synth`: the embedded data set, drawn to disk."""

from pathlib import Path

from ldkit.data.shapes import write_shapes
from ldkit.jobs.facts import Fact, Facts


def run(root: Path, *, train: int, val: int, size_px: int, seed: int) -> Facts:
    """Draw the data set below `root`; return what was written where."""
    write_shapes(root, seed=seed, train_images=train, val_images=val, size_px=size_px)
    return {
        "training images": _images(train, root / "train"),
        "validation images": _images(val, root / "val"),
        "annotations": str(root / "annotations"),
    }


def _images(count: int, folder: Path) -> Fact:
    return Fact(f"{count:,} in {folder}", {"count": count, "folder": str(folder)})
