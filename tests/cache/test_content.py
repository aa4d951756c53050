import zlib

import numpy as np
import pytest
import torch

from ldkit.cache.content import ViewRows, columns_of, locations_of, pixels_crc32
from ldkit.errors import CacheError, UsageError
from ldkit.structures import View, ViewKey
from tests.cache.synthetic import EVERY, make_keys, make_plan, make_rows

KEYS = make_keys(3)
PLAN = make_plan(KEYS, views_per_shard=6)
WHOLE = make_plan(KEYS, views_per_shard=6, held=EVERY)
ROWS = [make_rows(key, PLAN) for key in KEYS]
FULL = next(rows for rows in ROWS if len(rows.columns["main.location"]) >= 2)


def is_full(rows: ViewRows) -> bool:
    named = [values for name, values in rows.columns.items() if name.split(".")[1] == "location"]
    return all(len(values) >= 2 for values in named) and (
        len(rows.columns["score_class.row"].unique()) >= 2
    )


EACH = next(rows for rows in (make_rows(key, WHOLE, 20) for key in KEYS) if is_full(rows))


def change(rows: ViewRows, name: str, values: torch.Tensor) -> ViewRows:
    return rows._replace(columns={**rows.columns, name: values})


@pytest.mark.contract
def test_columns_have_the_names_and_dtypes_of_the_format() -> None:
    arrays = columns_of(ROWS, PLAN)
    rows = sum(len(view.columns["main.location"]) for view in ROWS)
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
def test_every_group_has_offsets_and_columns_of_its_own_length() -> None:
    arrays = columns_of([EACH, EACH], WHOLE)
    for group in WHOLE.groups:
        count = len(EACH.columns[group.columns[0].name])
        assert arrays[group.offsets.name].tolist() == [0, count, 2 * count]
        for column in group.columns:
            assert arrays[column.name].shape == (2 * count, *column.shape)
            assert arrays[column.name].dtype == column.numpy
    assert arrays["cross.offsets"].tolist() == [0, 2, 4]


@pytest.mark.contract
def test_columns_are_left_out_where_the_plan_leaves_them_out() -> None:
    plan = make_plan(KEYS, cls_logits=None)
    assert "main.cls_logits" not in columns_of([FULL], plan)
    assert not [name for name in columns_of([EACH], PLAN) if name.startswith("vlr.")]


@pytest.mark.contract
@pytest.mark.parametrize("name", ["main.cls_logits", "vlr.location", "cross.std"])
def test_a_column_that_the_rows_lack_is_a_programming_error(name) -> None:
    columns = {column: values for column, values in EACH.columns.items() if column != name}
    with pytest.raises(ValueError, match=f"the plan has {name}, the rows have none"):
        columns_of([EACH._replace(columns=columns)], WHOLE)


@pytest.mark.contract
@pytest.mark.parametrize("group", ["main", "vlr", "imitation", "score"])
@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (lambda location: location.flip(0), "locations must rise strictly"),
        (lambda location: location * 0, "locations must rise strictly"),
        (lambda location: location + 2**16, "a location lies outside the"),
        (lambda location: location - 2**16, "a location lies outside the"),
        (lambda location: location.float(), "locations must be whole numbers"),
        (lambda location: location[1:], "a column has the shape"),
    ],
)
def test_locations_that_are_not_of_the_canvas_are_a_programming_error(
    group, changed, message
) -> None:
    name = f"{group}.location"
    with pytest.raises(ValueError, match=message) as caught:
        columns_of([change(EACH, name, changed(EACH.columns[name]))], WHOLE)
    assert str(caught.value).startswith(f"image {EACH.key.image_id}, view {EACH.key.view}: ")


@pytest.mark.contract
@pytest.mark.parametrize(
    ("name", "changed", "message"),
    [
        ("main.gt_index", lambda x: x + 2**16, "a gt_index lies outside 0 … 65535: main"),
        ("vlr.gt_index", lambda x: x - 9, "a gt_index lies outside 0 … 65535: vlr"),
        ("main.gt_index", lambda x: x[1:], "a column has the shape"),
        ("main.gt_index", lambda x: x.float(), "main.gt_index must be whole numbers"),
        ("main.bbox_logits", lambda x: x[:, :, 1:], "a column has the shape"),
        ("vlr.cls_logits", lambda x: x[:, 1:], "a column has the shape"),
        ("imitation.features", lambda x: x[:, 1:], "a column has the shape"),
        ("score.bbox_logits", lambda x: x[1:], "a column has the shape"),
        ("score_class.row", lambda x: x.flip(0), "the rows of score_class must rise"),
        ("score_class.row", lambda x: x + 99, r"score_class lies outside the \d+ of score"),
        ("score_class.row", lambda x: x - 99, "a row lies outside 0"),
        ("score_class.label", lambda x: x + 3, "a label lies outside the 3 classes"),
        ("score_class.label", lambda x: x - 3, "a label lies outside 0"),
        ("score_class.logit", lambda x: x[:, None], "a column has the shape"),
        ("cross.mean", lambda x: x[:, :1], "a column has the shape"),
    ],
)
def test_rows_that_are_not_of_the_plan_are_a_programming_error(name, changed, message) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        columns_of([change(EACH, name, changed(EACH.columns[name]))], WHOLE)
    assert str(caught.value).startswith(f"image {EACH.key.image_id}, view {EACH.key.view}: ")


@pytest.mark.contract
def test_statistics_have_one_row_for_each_level() -> None:
    columns = {**EACH.columns, "cross.mean": torch.ones(3, 2, 4), "cross.std": torch.ones(3, 2, 4)}
    with pytest.raises(ValueError, match="cross must have one row for each level"):
        columns_of([EACH._replace(columns=columns)], WHOLE)


@pytest.mark.contract
@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("vlr.bbox_logits", "vlr.bbox_logits"),
        ("imitation.features", "imitation.features"),
        ("score_class.logit", "score.cls_logits"),
        ("cross.std", "cross.statistics"),
    ],
)
def test_what_is_not_finite_or_too_large_is_told_with_view_and_column(name, key) -> None:
    values = EACH.columns[name].clone()
    values.view(-1)[-1] = torch.inf
    with pytest.raises(CacheError, match=f"for {name} are not finite"):
        columns_of([change(EACH, name, values)], WHOLE)
    values.view(-1)[-1] = -66000
    with pytest.raises(CacheError, match=f"--set cache.{key}=fp32"):
        columns_of([change(EACH, name, values)], WHOLE)


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
