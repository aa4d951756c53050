"""`ldkit data synth`: the embedded data set, drawn to disk."""

from pathlib import Path

from ldkit.data.shapes import write_shapes


def run(root: Path, *, train: int, val: int, size_px: int, seed: int) -> dict[str, str]:
    """Draw the data set below `root`; return what was written where."""
    write_shapes(root, seed=seed, train_images=train, val_images=val, size_px=size_px)
    return {
        "training images": f"{train:,} in {root / 'train'}",
        "validation images": f"{val:,} in {root / 'val'}",
        "annotations": str(root / "annotations"),
    }
