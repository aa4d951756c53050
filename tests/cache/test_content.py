import zlib

import numpy as np
import pytest
import torch

from ldkit.cache.content import columns_of, locations_of, pixels_crc32
from ldkit.errors import UsageError
from ldkit.structures import View, ViewKey
from tests.cache.synthetic import make_keys, make_plan, make_rows

KEYS = make_keys(3)
PLAN = make_plan(KEYS, views_per_shard=6)
ROWS = [make_rows(key, PLAN) for key in KEYS]
FULL = next(rows for rows in ROWS if len(rows.location) >= 2)


@pytest.mark.contract
def test_columns_have_the_names_and_dtypes_of_the_format() -> None:
    arrays = columns_of(ROWS, PLAN)
    rows = sum(len(view.location) for view in ROWS)
    assert {name: (str(a.dtype), a.shape) for name, a in arrays.items()} == {
        "view.image_id": ("int64", (6,)),
        "view.index": ("int32", (6,)),
        "view.source_hw": ("int32", (6, 2)),
        "view.resized_hw": ("int32", (6, 2)),
        "view.padded_hw": ("int32", (6, 2)),
        "view.flip": ("bool", (6,)),
        "view.pixels_crc32": ("int64", (6,)),
        "main.offsets": ("int64", (7,)),
        "main.location": ("uint16", (rows,)),
        "main.gt_index": ("uint16", (rows,)),
        "main.bbox_logits": ("float16", (rows, 4, 5)),
        "main.cls_logits": ("float16", (rows, 3)),
    }


@pytest.mark.contract
def test_class_logits_are_left_out_where_the_plan_leaves_them_out() -> None:
    plan = make_plan(KEYS, cls_logits=None)
    assert "main.cls_logits" not in columns_of([FULL._replace(cls_logits=None)], plan)
    with pytest.raises(ValueError, match="the plan has class logits, the rows have none"):
        columns_of([FULL._replace(cls_logits=None)], PLAN)


@pytest.mark.contract
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"location": FULL.location.flip(0)}, "rise strictly"),
        ({"location": FULL.location * 0}, "rise strictly"),
        ({"location": FULL.location + 2**16}, "outside the"),
        ({"location": FULL.location - 2**16}, "outside the"),
        ({"gt_index": FULL.gt_index + 2**16}, "gt_index lies outside"),
        ({"gt_index": FULL.gt_index - 9}, "gt_index lies outside"),
        ({"gt_index": FULL.gt_index[1:]}, "a column has the shape"),
        ({"bbox_logits": FULL.bbox_logits[:, :, 1:]}, "a column has the shape"),
        ({"cls_logits": FULL.bbox_logits[:, 0]}, "a column has the shape"),
    ],
)
def test_rows_that_are_not_of_the_plan_are_a_programming_error(change, message) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        columns_of([FULL._replace(**change)], PLAN)
    assert str(caught.value).startswith(f"image {FULL.key.image_id}, view {FULL.key.view}: ")


@pytest.mark.contract
def test_a_canvas_beyond_16_bits_is_refused_with_the_way_out() -> None:
    assert locations_of((2048, 2048), (8,), "here") == 2**16
    view = View((2048, 2056), (2048, 2056), (2048, 2056), flip=False)
    plan = PLAN.model_copy(update={"axes": PLAN.axes.model_copy(update={"strides": (8,)})})
    with pytest.raises(UsageError) as caught:
        columns_of([FULL._replace(key=ViewKey(9, 1), view=view)], plan)
    assert str(caught.value) == (
        "image 9, view 1: a canvas of 2048 x 2056 pixels has 65792 locations; a cache numbers "
        "them with 16 bits, so 65536 is the most.\n"
        "Lower views.short_side_px or views.long_side_max_px, or drop the finest level."
    )


@pytest.mark.law
def test_the_checksum_of_pixels_is_that_of_the_own_canvas_in_planes() -> None:
    pixels = torch.randint(256, (3, 32, 64), dtype=torch.uint8)
    wider = torch.zeros(3, 64, 96, dtype=torch.uint8)
    wider[:, :32, :64] = pixels
    expected = zlib.crc32(np.ascontiguousarray(pixels.numpy()).tobytes())
    assert pixels_crc32(pixels, (32, 64)) == expected
    assert pixels_crc32(wider, (32, 64)) == expected
    wider[1, 31, 63] += 1
    assert pixels_crc32(wider, (32, 64)) != expected
