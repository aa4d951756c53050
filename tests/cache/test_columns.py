import pytest

from ldkit.cache.columns import VIEW_COLUMNS, main_columns
from tests.cache.synthetic import make_keys, make_plan


@pytest.mark.contract
def test_only_planned_columns_exist() -> None:
    names = [column.name for column in main_columns(5, 3, "fp16", None)]
    assert names == ["main.location", "main.gt_index", "main.bbox_logits"]
    columns = {column.name: column for column in main_columns(5, 3, "fp32", "fp16")}
    assert columns["main.bbox_logits"].dtype == "F32"
    assert columns["main.bbox_logits"].entry_bytes == 4 * 5 * 4
    assert columns["main.cls_logits"].dtype == "F16"
    assert columns["main.cls_logits"].entry_bytes == 3 * 2


@pytest.mark.contract
def test_a_plan_has_the_columns_of_its_axes() -> None:
    plan = make_plan(make_keys(2), cls_logits="fp32")
    assert plan.row_columns == main_columns(5, 3, "fp16", "fp32")


@pytest.mark.contract
def test_a_main_row_of_80_classes_takes_300_bytes_and_a_view_45() -> None:
    rows = main_columns(17, 80, "fp16", "fp16")
    assert sum(column.entry_bytes for column in rows) == 2 + 2 + 136 + 160
    assert sum(column.entry_bytes for column in VIEW_COLUMNS) == 8 + 4 + 24 + 1 + 8
