"""The file for COCO's test-dev server: one JSON in one zip, both rightly named, checked.

The server reads `detections_test-dev2017_NAME_results.zip` with the one member
`detections_test-dev2017_NAME_results.json` and no folder, and answers hours later. So whatever
it would refuse, or score as a mistake, is found here.

Source: https://cocodataset.org/#upload
"""

import json
import math
import re
import zipfile
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ldkit.errors import DataError, UsageError
from ldkit.files import replacing
from ldkit.metrics.results import CocoResult
from ldkit.structures import Size

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
MAX_BOXES = 100
"""COCO counts the best 100 boxes of an image."""

TOLERANCE_PX = 0.1
"""Rounding may put a box so far outside its image."""

TIMESTAMP = (1980, 1, 1, 0, 0, 0)
"""The same results give the same bytes, whenever they are written."""


@dataclass(frozen=True, slots=True)
class Submission:
    """A written submission: the zip, the number of its results, its size in bytes."""

    path: Path
    count: int
    bytes: int


def write_submission(
    folder: Path,
    name: str,
    results: Sequence[CocoResult],
    images: Mapping[int, Size],
    category_ids: Collection[int],
) -> Submission:
    """Return the submission, written atomically; equal results give equal bytes.

    `images` goes from the ids of the image list to sizes (height, width) in pixels;
    `category_ids` are the original ones, 1 to 90 for COCO.

    Raises:
        UsageError: The name does not suit a file on the server.
        DataError: Results that the server would refuse or score as mistakes, all kinds at once.
        StorageError: The file cannot be written; an older one is as it was.
    """
    if not NAME.fullmatch(name):
        raise UsageError(
            f"{name!r} is not a name for a submission.",
            where="name",
            hint="Take letters, digits, `.`, `_` and `-` only, at most 100, and begin with a "
            "letter or a digit: `--set name=ld_r18_r101`.",
        )
    _check(results, images, set(category_ids))
    stem = f"detections_test-dev2017_{name}_results"
    path = folder / f"{stem}.zip"
    with replacing(path) as temporary:
        _write_zip(temporary, f"{stem}.json", results)
    return Submission(path, len(results), path.stat().st_size)


def _write_zip(path: Path, member_name: str, results: Sequence[CocoResult]) -> None:
    member = zipfile.ZipInfo(member_name, TIMESTAMP)
    member.compress_type = zipfile.ZIP_DEFLATED
    member.create_system = 3  # Unix, so that the permissions below hold and all systems agree
    member.external_attr = 0o644 << 16
    with zipfile.ZipFile(path, "w") as archive, archive.open(member, "w") as file:
        file.write(b"[")
        for number, result in enumerate(results):
            file.write(b",\n" if number else b"\n")
            file.write(json.dumps(result, allow_nan=False).encode())
        file.write(b"\n]\n")


def _check(
    results: Sequence[CocoResult], images: Mapping[int, Size], category_ids: set[int]
) -> None:
    counts: Counter[str] = Counter()
    examples: dict[str, str] = {}
    for number, result in enumerate(results):
        for kind, found in _problems(result, images, category_ids):
            counts[kind] += 1
            examples.setdefault(kind, f"result {number}: {found}")
    for image_id, boxes in Counter(result["image_id"] for result in results).items():
        if boxes > MAX_BOXES:
            kind = f"more than {MAX_BOXES} results in an image"
            counts[kind] += 1
            examples.setdefault(kind, f"image {image_id}: {boxes}")
    if counts:
        lines = [f"  {kind}: {count} ({examples[kind]})" for kind, count in counts.items()]
        raise DataError(
            "would be refused by the server or scored as mistakes:\n" + "\n".join(lines),
            where="results",
            hint="Nothing was written. The first of each kind is shown. Evaluate again on the "
            "images of the test-dev list.",
        )


def _problems(
    result: CocoResult, images: Mapping[int, Size], category_ids: set[int]
) -> Iterator[tuple[str, str]]:
    image_id, category_id, score = result["image_id"], result["category_id"], result["score"]
    if image_id not in images:
        yield "image not in the list", f"image_id = {image_id}"
    if category_id not in category_ids:
        yield "unknown category", f"category_id = {category_id}"
    if not 0 < score <= 1:
        yield "score outside (0, 1]", f"score = {score}"
    box = result["bbox"]
    where = f"image_id = {image_id}, bbox = {box}"
    if len(box) != 4 or not all(math.isfinite(number) for number in box):
        yield "not four finite box numbers", where
    elif box[2] <= 0 or box[3] <= 0:
        yield "no width or height", where
    elif image_id in images and not _is_inside(box, images[image_id]):
        yield "outside its image", f"{where}, image (height, width) = {images[image_id]}"


def _is_inside(box: Sequence[float], hw: Size) -> bool:
    x, y, width, height = box
    return (
        min(x, y) >= -TOLERANCE_PX
        and x + width <= hw[1] + TOLERANCE_PX
        and y + height <= hw[0] + TOLERANCE_PX
    )
