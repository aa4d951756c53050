"""`ldkit data check`: read a COCO data set as training would, and say what is in it."""

from pathlib import Path

from ldkit.data.coco import CocoIndex
from ldkit.data.summary import DataSummary, summarise
from ldkit.jobs.facts import Fact, Facts, aligned, number


def facts(images: Path, annotations: Path) -> Facts:
    """Return the counts of a data set.

    Raises:
        DataError: Something is wrong with it; all problems at once.
    """
    found = summarise(CocoIndex.read(images, annotations))
    return {
        "images": Fact(
            f"{found.images:,} ({found.empty:,} without boxes)",
            {"count": found.images, "without_boxes": found.empty},
        ),
        "boxes": Fact(
            f"{found.boxes:,} (and {found.crowds:,} crowds)",
            {"count": found.boxes, "crowds": found.crowds},
        ),
        "sizes": _sizes(found),
        "left out": Fact(" ".join(found.notes) or "nothing", list(found.notes)),
        "classes": number(len(found.boxes_of_class)),
        "boxes of class": Fact(
            aligned({name: f"{count:,}" for name, count in found.boxes_of_class}),
            dict(found.boxes_of_class),
        ),
    }


def _sizes(found: DataSummary) -> Fact:
    counts = {"small": found.small, "medium": found.medium, "large": found.large}
    return Fact(", ".join(f"{count:,} {name}" for name, count in counts.items()), counts)
