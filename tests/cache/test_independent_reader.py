"""Two readers that share no code read the same rows."""

import ast
from pathlib import Path

import numpy as np
import pytest

from ldkit.cache.reader import CacheReader
from ldkit.structures import TeacherRows, ViewKey
from tests.cache import independent_reader
from tests.cache.synthetic import EVERY, build, make_batch, make_keys, make_plan, make_view

KEYS = make_keys(7)


def told_of(rows: TeacherRows) -> dict[str, list[object]]:
    """Return what the reader of ldkit says of a single view, by name of the column."""
    found = {}
    for name, region in {"main": rows.main, "vlr": rows.vlr}.items():
        assert region is not None
        assert region.cls_logits is not None
        found |= {
            f"{name}.location": region.rows.location,
            f"{name}.gt_index": region.rows.gt_index,
        }
        found |= {
            f"{name}.bbox_logits": region.bbox_logits,
            f"{name}.cls_logits": region.cls_logits,
        }
    assert rows.imitation is not None
    assert rows.score is not None
    assert rows.cross is not None
    found["imitation.location"] = rows.imitation.location
    found["imitation.features"] = rows.imitation.features
    found |= {"score.location": rows.score.location, "score.bbox_logits": rows.score.bbox_logits}
    found |= {"score_class.row": rows.score.row, "score_class.label": rows.score.label}
    found["score_class.logit"] = rows.score.logit
    found |= {"cross.mean": rows.cross.mean[0], "cross.std": rows.cross.std[0]}
    return {name: values.tolist() for name, values in found.items()}


def cell(location: int, canvas_hw: tuple[int, int], strides: list[int]) -> tuple[int, int, int]:
    """Return (level, row, column) of a location, as the page of the format counts them."""
    for level, stride in enumerate(strides):
        rows, cols = (-(-side // stride) for side in canvas_hw)
        if location < rows * cols:
            return level, location // cols, location % cols
        location -= rows * cols
    raise ValueError("a location beyond its canvas.")


@pytest.mark.law
@pytest.mark.parametrize("codec", ["fp16", "fp32", "u8"])
def test_both_readers_read_the_same_rows_of_every_group(codec, tmp_path) -> None:
    plan = make_plan(KEYS, 4, codec, "fp16", held=EVERY)
    build(tmp_path, plan, KEYS)
    reader, found = CacheReader.open_(tmp_path), independent_reader.views(tmp_path)
    assert list(found) == [tuple(key) for key in KEYS]
    for key in KEYS:
        told = told_of(reader.lookup(make_batch([key])))
        stored = {name: values.tolist() for name, values in found[tuple(key)].items()}
        assert {name: stored[name] for name in told} == told
        rows = {name for name in stored if not name.startswith("view.")}
        assert rows == set(told) == {c.name for group in plan.groups for c in group.values}


@pytest.mark.law
def test_both_readers_know_the_same_views(tmp_path) -> None:
    build(tmp_path, make_plan(KEYS, 4), KEYS)
    reader, found = CacheReader.open_(tmp_path), independent_reader.views(tmp_path)
    for key, stored in found.items():
        view = make_view(ViewKey(*key))
        assert reader.view(ViewKey(*key)) == view
        for name in ("source_hw", "resized_hw", "padded_hw"):
            assert tuple(stored[f"view.{name}"]) == getattr(view, name)
        assert stored["view.flip"] == view.flip


@pytest.mark.law
def test_both_readers_find_the_same_cell_on_a_larger_canvas(tmp_path) -> None:
    plan = make_plan(KEYS, 4)
    build(tmp_path, plan, KEYS)
    found, batch = independent_reader.views(tmp_path), make_batch(KEYS)
    rows = CacheReader.open_(tmp_path).lookup(batch).main.rows
    strides = list(plan.axes.strides)
    assert any(view.padded_hw != batch.canvas_hw for view in batch.views)
    for image, (key, view) in enumerate(zip(KEYS, batch.views, strict=True)):
        own = [
            cell(location, view.padded_hw, strides)
            for location in found[tuple(key)]["main.location"].tolist()
        ]
        moved = [
            cell(location, batch.canvas_hw, strides)
            for location in rows.location[rows.image == image].tolist()
        ]
        assert moved == own


@pytest.mark.contract
def test_the_second_reader_refuses_a_flipped_byte(tmp_path) -> None:
    build(tmp_path, make_plan(KEYS, 4), KEYS)
    for name in ("plan.json", "manifest.json", "shards/000001.safetensors"):
        path, whole = tmp_path / name, (tmp_path / name).read_bytes()
        path.write_bytes(whole[:-9] + bytes([whole[-9] ^ 1]) + whole[-8:])
        with pytest.raises(ValueError, match="not what was written"):
            independent_reader.views(tmp_path)
        path.write_bytes(whole)
    assert len(independent_reader.views(tmp_path)) == len(KEYS)


@pytest.mark.contract
def test_the_second_reader_is_short_and_stands_alone() -> None:
    text = Path(independent_reader.__file__).read_text("utf-8")
    assert len(text.splitlines()) <= 60
    nodes = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Import)]
    assert {name.name for node in nodes for name in node.names} == {
        "hashlib",
        "json",
        "struct",
        np.__name__,
    }
