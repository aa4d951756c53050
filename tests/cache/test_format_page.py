"""The reader of docs/cache-format.md, run as it stands there."""

import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from ldkit.cache.columns import SCALE, VIEW_COLUMNS
from ldkit.cache.folder import CacheFolder
from ldkit.cache.receipts import Manifest, Receipt
from tests.cache.synthetic import EVERY, build, make_keys, make_plan, make_rows, make_view

PAGE = Path(__file__).parents[2] / "docs" / "cache-format.md"
KEYS = make_keys(5)


@pytest.fixture(scope="module")
def page() -> SimpleNamespace:
    """Return the functions that the page defines."""
    match = re.search(r"^```python\n(.*?)^```", PAGE.read_text("utf-8"), re.DOTALL | re.MULTILINE)
    assert match is not None
    names: dict[str, object] = {}
    exec(compile(match[1], str(PAGE), "exec"), names)
    return SimpleNamespace(**names)


@pytest.mark.contract
@pytest.mark.parametrize("codecs", [("fp16", "fp16"), ("fp32", None), ("u8", "fp16")])
@pytest.mark.parametrize("held", [(), EVERY])
def test_the_reader_of_the_page_reads_what_was_written(codecs, held, page, tmp_path) -> None:
    plan = make_plan(KEYS, 4, *codecs, held=held)
    build(tmp_path, plan, KEYS)
    columns = [column for group in plan.groups for column in group.columns]
    for key in KEYS:
        found, rows, view = page.read_view(tmp_path, *key), make_rows(key, plan), make_view(key)
        for column in [column for column in columns if not column.name.endswith(SCALE)]:
            written = rows.columns[column.name]
            if column.dtype != "U8":
                assert found[column.name].tolist() == written.numpy().astype(column.numpy).tolist()
                continue
            relative = (written - written.amax(-1, keepdim=True)).numpy()
            step = relative.min(axis=-1, keepdims=True, initial=0) / -255 * 1.1
            assert (np.abs(page.logits(found, column.name) - relative) <= step / 2 + 1e-6).all()
        assert set(found) == {column.name for column in [*VIEW_COLUMNS, *columns]}
        assert tuple(found["view.padded_hw"]) == view.padded_hw
        assert found["view.pixels_crc32"] == rows.pixels_crc32
        assert found["view.flip"] == view.flip


@pytest.mark.contract
def test_the_reader_of_the_page_refuses_flipped_bytes(page, tmp_path) -> None:
    build(tmp_path, make_plan(KEYS), KEYS)
    for path in [CacheFolder(tmp_path).shard(0), CacheFolder(tmp_path).manifest]:
        content = bytearray(path.read_bytes())
        content[-9] ^= 1
        path.write_bytes(content)
        with pytest.raises(ValueError, match="is damaged"):
            page.read_view(tmp_path, *KEYS[0])


@pytest.mark.contract
def test_every_column_and_every_field_is_on_the_page() -> None:
    plan = make_plan(KEYS, bbox_logits="u8", held=EVERY)
    names = {column.name for column in VIEW_COLUMNS}
    for group in plan.groups:
        names |= {group.offsets.name, f"rows.{group.name}"}
        names |= {column.name for column in group.columns}
    names |= {*Receipt.model_fields, *Manifest.model_fields}
    content = plan.model_dump()
    for section in ("axes", "build", "keys", "sources"):
        names |= {f"{section}.{name}" for name in content[section]}
    names |= {"version", "ldkit", "coverage.main.topk", "columns.main.bbox_logits"}
    names |= {"coverage.vlr", "coverage.vlr.overlap", "coverage.vlr.floor", "columns.vlr"}
    for region in ("imitation", "score", "cross"):
        for section in ("coverage", "columns"):
            names |= {f"{section}.{region}.{name}" for name in content[section][region]}
    documented = set(re.findall(r"`([a-z0-9_.]+)`", PAGE.read_text("utf-8")))
    assert names <= documented
