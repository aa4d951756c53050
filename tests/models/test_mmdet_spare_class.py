"""Class rows beyond the classes: published GFLv2 heads have one, heads of GFL have none."""

import pytest
import torch
from torch import Tensor

from ldkit.errors import CheckpointError
from ldkit.models.mmdet_shapes import Architecture, Quality
from ldkit.models.mmdet_spare_class import Trimmed, without_spare_class

WEIGHT, BIAS = "bbox_head.gfl_cls.weight", "bbox_head.gfl_cls.bias"
QUALITY = Quality(topk=4, channels=64)


def state(rows: int) -> dict[str, Tensor]:
    weight = torch.arange(rows * 2.0).reshape(rows, 2, 1, 1)
    return {WEIGHT: weight, BIAS: torch.arange(float(rows)), "bbox_head.x": torch.ones(rows)}


def trimmed(rows: int, named: tuple[str, ...] = (), quality: Quality | None = QUALITY) -> Trimmed:
    found = Architecture("resnet18", (), 0, 256, (3, 4, 5, 6, 7), 4, 16, rows, quality)
    return without_spare_class(state(rows), found, named, "x.pth")


@pytest.mark.contract
@pytest.mark.parametrize(
    ("rows", "named", "classes"),
    [
        (81, (), 80),
        (21, (), 20),
        (4, (), 3),
        (4, ("a", "b", "c"), 3),
        (3, ("a", "b", "c"), 3),
        (2, ("ship",), 1),
        (4, ("names", "of", "other", "data", "sets"), 3),
    ],
)
def test_a_gflv2_head_has_the_classes_that_its_file_names_or_a_row_less(
    rows: int, named: tuple[str, ...], classes: int
) -> None:
    found = trimmed(rows, named)
    assert found.architecture.num_classes == classes
    assert torch.equal(found.weights[WEIGHT], state(rows)[WEIGHT][:classes])
    assert torch.equal(found.weights[BIAS], state(rows)[BIAS][:classes])
    assert torch.equal(found.weights["bbox_head.x"], torch.ones(rows))
    said = (
        f"Left out: the last of {rows} class rows, which GFLv2 heads have beyond their {classes} "
        "classes and never use."
    )
    assert found.note == (said if classes < rows else "")


@pytest.mark.law
def test_what_is_left_keeps_no_memory_of_the_row() -> None:
    kept = trimmed(81).weights[WEIGHT]
    assert kept.untyped_storage().nbytes() == kept.numel() * 4


@pytest.mark.contract
def test_a_head_of_gfl_keeps_its_rows() -> None:
    found = trimmed(81, quality=None)
    assert found.architecture.num_classes == 81
    assert len(found.weights[WEIGHT]) == len(found.weights[BIAS]) == 81
    assert found.note == ""


@pytest.mark.contract
def test_a_misshapen_bias_is_left_for_the_list_of_misfits() -> None:
    found = Architecture("resnet18", (), 0, 256, (3, 4, 5, 6, 7), 4, 16, 4, QUALITY)
    broken = state(4) | {BIAS: torch.zeros(7)}
    assert len(without_spare_class(broken, found, (), "x.pth").weights[BIAS]) == 7


@pytest.mark.contract
def test_a_head_of_the_spare_row_alone_is_refused() -> None:
    with pytest.raises(CheckpointError) as caught:
        trimmed(1)
    assert caught.value.message == (
        "has a GFLv2 head of one class row, which is the one that is never used."
    )
