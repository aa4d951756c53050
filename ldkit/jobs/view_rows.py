"""A teacher's answer for a batch, cut into what the cache keeps of each view."""

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from ldkit.cache.content import ViewRows, pixels_crc32
from ldkit.structures import Batch, RegionRows, ScoreRows, TeacherRows, ViewKey


class _Table(NamedTuple):
    """Columns by name, one entry for each row; the images of the rows rise."""

    image: Tensor
    columns: Mapping[str, Tensor]


def rows_by_view(batch: Batch, answer: TeacherRows) -> dict[ViewKey, ViewRows]:
    """Return the columns of each view, on the processor; the batch is of one canvas.

    Everything is brought there whole, and cut there: nothing waits for each view.
    """
    views, pixels = len(batch.keys), batch.pixels.cpu()
    cut = {
        name: parts
        for table in _tables(answer, views)
        for name, parts in _cut(table, views).items()
    }
    return {
        key: ViewRows(
            key=key,
            view=view,
            pixels_crc32=pixels_crc32(pixels[position], view.padded_hw),
            columns={name: parts[position] for name, parts in cut.items()},
        )
        for position, (key, view) in enumerate(zip(batch.keys, batch.views, strict=True))
    }


def _tables(answer: TeacherRows, views: int) -> Iterator[_Table]:
    """Yield the tables that the answer has, under the names of the cache, on the processor."""
    yield _region("main", answer.main)
    if answer.vlr is not None:
        yield _region("vlr", answer.vlr)
    if answer.imitation is not None:
        image, location, features = (column.cpu() for column in answer.imitation)
        yield _Table(image, {"imitation.location": location, "imitation.features": features})
    if answer.score is not None:
        yield from _scores(ScoreRows(*(column.cpu() for column in answer.score)), views)
    if answer.cross is not None:
        mean, std = answer.cross.mean.cpu(), answer.cross.std.cpu()
        image = torch.arange(views).repeat_interleave(mean.shape[1])
        yield _Table(image, {"cross.mean": mean.flatten(0, 1), "cross.std": std.flatten(0, 1)})


def _region(name: str, region: RegionRows) -> _Table:
    columns = {
        f"{name}.location": region.rows.location.cpu(),
        f"{name}.gt_index": region.rows.gt_index.cpu(),
        f"{name}.bbox_logits": region.bbox_logits.cpu(),
    }
    if region.cls_logits is not None:
        columns[f"{name}.cls_logits"] = region.cls_logits.cpu()
    return _Table(region.rows.image.cpu(), columns)


def _scores(score: ScoreRows, views: int) -> Iterator[_Table]:
    """Yield the scored locations, and their classes; a class names its row within the view."""
    yield _Table(
        score.image, {"score.location": score.location, "score.bbox_logits": score.bbox_logits}
    )
    image_N = score.image[score.row]
    counts_B = torch.bincount(score.image, minlength=views)
    first_B = counts_B.cumsum(0) - counts_B
    yield _Table(
        image_N,
        {
            "score_class.row": score.row - first_B[image_N],
            "score_class.label": score.label,
            "score_class.logit": score.logit,
        },
    )


def _cut(table: _Table, views: int) -> dict[str, tuple[Tensor, ...]]:
    """Return each column in parts, one for each view."""
    counts = torch.bincount(table.image, minlength=views).tolist()
    return {name: torch.split(column, counts) for name, column in table.columns.items()}
