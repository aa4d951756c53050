import pytest

from ldkit.cache.columns import VIEW_COLUMNS, Column, region_group, score_groups
from tests.cache.synthetic import EVERY, make_keys, make_plan


@pytest.mark.contract
def test_only_planned_columns_exist() -> None:
    names = [column.name for column in region_group("main", 5, 3, "fp16", None).columns]
    assert names == ["main.location", "main.gt_index", "main.bbox_logits"]
    group = region_group("vlr", 5, 3, "fp32", "fp16")
    columns = {column.name: column for column in group.columns}
    assert columns["vlr.bbox_logits"].dtype == "F32"
    assert columns["vlr.bbox_logits"].entry_bytes == 4 * 5 * 4
    assert columns["vlr.cls_logits"].dtype == "F16"
    assert columns["vlr.cls_logits"].entry_bytes == 3 * 2
    assert group.offsets == Column("vlr.offsets", "I64")
    assert group.row_bytes == 2 + 2 + 4 * 5 * 4 + 3 * 2


@pytest.mark.contract
def test_an_u8_column_has_its_widths_beside_it() -> None:
    group = region_group("vlr", 17, 3, "u8", "fp16")
    bins, scale = group.columns[2:4]
    assert bins == Column("vlr.bbox_logits", "U8", (4, 17), "vlr.bbox_logits")
    assert bins.scale == scale == Column("vlr.bbox_logits.scale", "U8", (4,), "vlr.bbox_logits")
    assert scale.scale is None
    assert all(column.scale is None for column in region_group("main", 17, 3, "fp16", None).columns)
    assert [column.name for column in group.values] == [
        "vlr.location",
        "vlr.gt_index",
        "vlr.bbox_logits",
        "vlr.cls_logits",
    ]
    assert group.row_bytes == 2 + 2 + 4 * 18 + 3 * 2
    scored, _ = score_groups(17, "u8", "fp16")
    assert scored.row_bytes == 2 + 4 * 18


@pytest.mark.contract
def test_a_plan_has_the_groups_of_its_coverage() -> None:
    plan = make_plan(make_keys(2), cls_logits="fp32")
    assert plan.groups == (region_group("main", 5, 3, "fp16", "fp32"),)
    groups = make_plan(make_keys(2), held=EVERY).groups
    assert {group.name: [column.name for column in group.columns] for group in groups} == {
        "main": ["main.location", "main.gt_index", "main.bbox_logits", "main.cls_logits"],
        "vlr": ["vlr.location", "vlr.gt_index", "vlr.bbox_logits", "vlr.cls_logits"],
        "imitation": ["imitation.location", "imitation.features"],
        "score": ["score.location", "score.bbox_logits"],
        "score_class": ["score_class.row", "score_class.label", "score_class.logit"],
        "cross": ["cross.mean", "cross.std"],
    }
    shapes = {column.name: column.shape for group in groups for column in group.columns}
    assert shapes["imitation.features"] == (4,)
    assert shapes["cross.mean"] == shapes["cross.std"] == (2, 4)
    assert shapes["score_class.logit"] == ()


@pytest.mark.contract
def test_a_main_row_of_80_classes_takes_300_bytes_and_a_view_45() -> None:
    assert region_group("main", 17, 80, "fp16", "fp16").row_bytes == 2 + 2 + 136 + 160
    assert sum(column.entry_bytes for column in VIEW_COLUMNS) == 8 + 4 + 24 + 1 + 8
