"""Views of equal canvas belong together: no image is padded beyond its own multiple.

GroupNorm mixes the padding into every location, so what a detector says of an image depends on
how far it is padded. Teachers and evaluations therefore see each view on its own canvas.
"""

from collections.abc import Iterator, Mapping, Sequence

from ldkit.data.coco import Record
from ldkit.data.dataset import DrawView
from ldkit.structures import Size, View, ViewKey


def groups_of_equal_canvas(views: Sequence[View], limit: int) -> Iterator[list[int]]:
    """Yield positions of views that share a canvas, at most `limit` at a time, in order."""
    by_canvas: dict[Size, list[int]] = {}
    for position, view in enumerate(views):
        by_canvas.setdefault(view.padded_hw, []).append(position)
    for members in by_canvas.values():
        for start in range(0, len(members), limit):
            yield members[start : start + limit]


def canvas_batches(
    records: Mapping[int, Record], draw: DrawView, keys: Sequence[ViewKey], limit: int
) -> list[list[ViewKey]]:
    """Return the keys in batches of equal canvas, at most `limit` views in each."""
    views = [draw(key, records[key.image_id].hw) for key in keys]
    groups = groups_of_equal_canvas(views, limit)
    return [[keys[position] for position in members] for members in groups]


def pixels_of(records: Mapping[int, Record], draw: DrawView, batch: Sequence[ViewKey]) -> int:
    """Return the pixels of a batch of equal canvas, which its memory grows with."""
    height, width = draw(batch[0], records[batch[0].image_id].hw).padded_hw
    return len(batch) * height * width
