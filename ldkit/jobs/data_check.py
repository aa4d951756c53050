"""`ldkit data check`: read a COCO data set as training would, and say what is in it."""

from pathlib import Path

from ldkit.data.coco import CocoIndex
from ldkit.data.summary import summarise


def facts(images: Path, annotations: Path) -> dict[str, str]:
    """Return the counts of a data set.

    Raises:
        DataError: Something is wrong with it; all problems at once.
    """
    found = summarise(CocoIndex.read(images, annotations))
    classes = "  ".join(f"{name} {count:,}" for name, count in found.boxes_of_class)
    return {
        "images": f"{found.images:,} ({found.empty:,} without boxes)",
        "boxes": f"{found.boxes:,} (and {found.crowds:,} crowds)",
        "sizes": f"{found.small:,} small  {found.medium:,} medium  {found.large:,} large",
        f"classes ({len(found.boxes_of_class)})": classes,
        "left out": " ".join(found.notes) or "nothing",
    }
