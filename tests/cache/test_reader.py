import multiprocessing
import pickle
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader, Dataset

from ldkit.cache.codecs import decode, encode
from ldkit.cache.columns import Column
from ldkit.cache.content import pixels_crc32
from ldkit.cache.folder import CacheFolder, missing_shards
from ldkit.cache.format import Wanted
from ldkit.cache.reader import CacheReader
from ldkit.cache.shard import PAIR, Shard
from ldkit.cache.writer import begin, seal, write_shard
from ldkit.errors import CacheCorrupt, CacheIncomplete, CacheMismatch
from ldkit.ops.anchors import relocate
from ldkit.structures import Batch, TeacherRows, ViewKey
from tests.cache.synthetic import (
    AXES,
    BOXES,
    EVERY,
    build,
    make_batch,
    make_coverage,
    make_keys,
    make_plan,
    make_rows,
    make_view,
)
from tests.cache.test_handles import linux, open_files

KEYS = make_keys(6)
PLAN = make_plan(KEYS, held=EVERY)


@pytest.fixture
def cache(tmp_path):
    build(tmp_path / "cache", PLAN, KEYS)
    return tmp_path / "cache"


def flat(found: TeacherRows) -> dict[str, torch.Tensor]:
    """Return every tensor of an answer by its place in it."""
    tensors: dict[str, torch.Tensor] = {}

    def walk(value: object, place: str) -> None:
        if isinstance(value, torch.Tensor):
            tensors[place] = value
        elif isinstance(value, tuple):
            for name, part in zip(value._fields, value, strict=True):
                walk(part, f"{place}.{name}")

    walk(found, "teacher")
    return tensors


def assert_equal(found: TeacherRows, expected: TeacherRows) -> None:
    ours, theirs = flat(found), flat(expected)
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        assert torch.equal(tensor, theirs[name]), name


def rounded(values: torch.Tensor, column: Column) -> torch.Tensor:
    stored, scale = encode(values, column, "here")
    steps = None if scale is None else torch.from_numpy(scale)
    return decode(torch.from_numpy(stored), steps)


def seen(batch: Batch, plan, most: int) -> dict[str, torch.Tensor]:
    """Return what a reader must say of a batch, made from what was written, view by view."""
    written = [make_rows(key, plan, most) for key in batch.keys]
    expected = {}
    for group in plan.groups:
        first = group.columns[0].name
        counts = torch.tensor([len(rows.columns[first]) for rows in written])
        expected[f"{group.name}.image"] = torch.arange(len(written)).repeat_interleave(counts)
        for column in group.values:
            values = [rows.columns[column.name] for rows in written]
            if column.name.endswith(".location"):
                values = [
                    relocate(own, rows.view.padded_hw, batch.canvas_hw, AXES.strides)
                    for own, rows in zip(values, written, strict=True)
                ]
            if column.name == "score_class.row":
                scored = [len(rows.columns["score.location"]) for rows in written]
                values = [own + sum(scored[:n]) for n, own in enumerate(values)]
            if column.dtype != "U16":
                values = [rounded(own, column) for own in values]
            expected[column.name] = torch.cat(values)
    return expected


def said(found: TeacherRows) -> dict[str, torch.Tensor]:
    """Return an answer by the names of the stored columns."""
    names = {}
    for name, tensor in flat(found).items():
        group, *_, column = name.removeprefix("teacher.").split(".")
        if group == "score" and column in ("row", "label", "logit"):
            group = "score_class"
        names[f"{group}.{column}"] = tensor.flatten(0, 1) if group == "cross" else tensor
    return names


def check_against_written(found: TeacherRows, batch: Batch, plan, most: int = 7) -> None:
    expected = seen(batch, plan, most)
    for name in ("score_class.image", "cross.image"):
        expected.pop(name, None)
    answer = said(found)
    assert answer.keys() == expected.keys()
    for name, tensor in answer.items():
        assert tensor.dtype == (torch.float32 if expected[name].is_floating_point() else torch.long)
        assert torch.equal(tensor, expected[name]), name


@pytest.mark.law
@settings(deadline=None, max_examples=30)
@given(
    images=st.integers(1, 6),
    size=st.integers(1, 6),
    codecs=st.tuples(
        st.sampled_from(["fp32", "fp16", "u8"]), st.sampled_from(["fp32", "fp16", None])
    ),
    held=st.sets(st.sampled_from(EVERY)),
    most=st.sampled_from([0, 1, 7, 60]),
    order=st.randoms(use_true_random=False),
)
def test_the_reader_gives_back_the_rows_that_were_written(
    images, size, codecs, held, most, order, tmp_path_factory
) -> None:
    path = tmp_path_factory.mktemp("cache")
    keys = make_keys(images)
    plan = make_plan(keys, size, *codecs, held=held)
    build(path, plan, keys, most)
    reader = CacheReader.open_(path)
    assert [reader.view(key) for key in keys] == [make_view(key) for key in keys]
    for _ in range(3):
        batch = make_batch(order.sample(keys, order.randint(1, len(keys))))
        found = reader.lookup(batch)
        check_against_written(found, batch, plan, most)
        for group in (found.main.rows, *(g for g in (found.imitation, found.score) if g)):
            assert ((group.image * 10**6 + group.location).diff() > 0).all()


@pytest.mark.law
def test_a_reader_gives_and_reads_only_what_is_wanted(tmp_path, monkeypatch) -> None:
    plan = make_plan(KEYS, held=EVERY)
    build(tmp_path, plan, KEYS)
    everything = said(CacheReader.open_(tmp_path).lookup(make_batch(KEYS)))
    read = set()
    read_rows = Shard.read_rows

    def listen(shard: Shard, handle: int, row: int, into: list[tuple[str, memoryview]]) -> None:
        read.update(name for name, _ in into)
        read_rows(shard, handle, row, into)

    monkeypatch.setattr(Shard, "read_rows", listen)
    for held, columns in [
        ((), ()),
        ((), ("main.cls_logits",)),
        (("vlr",), ("vlr.bbox_logits",)),
        (("vlr", "cross"), ("vlr.cls_logits", "cross.mean")),
        (("imitation",), ("imitation.features",)),
        (("score",), ("score_class.logit",)),
    ]:
        read.clear()
        wanted = Wanted(make_coverage(held), frozenset(columns))
        reader = pickle.loads(pickle.dumps(CacheReader.open_(tmp_path, wanted)))
        answer = said(reader.lookup(make_batch(KEYS)))
        groups = {"main", *held} | ({"score_class"} if "score" in held else set())
        assert {name.split(".")[0] for name in read} == groups
        classes = {name for name in read if name.endswith("cls_logits")}
        assert classes == {name for name in columns if name.endswith("cls_logits")}
        images = {f"{name}.image" for name in {"main", *held} - {"cross"}}
        assert read | images | set(PAIR) == set(answer)
        for name, tensor in answer.items():
            assert torch.equal(tensor, everything[name])


@pytest.mark.contract
def test_what_a_cache_lacks_is_left_out_of_the_answer(tmp_path) -> None:
    build(tmp_path, make_plan(KEYS), KEYS)
    wanted = Wanted(make_coverage(EVERY), frozenset({"main.cls_logits"}))
    found = CacheReader.open_(tmp_path, wanted).lookup(make_batch(KEYS))
    assert found.main.cls_logits is not None
    assert found[1:] == (None, None, None, None, None)


@pytest.mark.law
@pytest.mark.parametrize("codec", ["fp16", "fp32", "u8"])
def test_answers_stay_when_the_reader_reuses_its_buffers(codec, tmp_path) -> None:
    plan = make_plan(KEYS, bbox_logits=codec, held=EVERY)
    build(tmp_path, plan, KEYS)
    reader = CacheReader.open_(tmp_path)
    first = reader.lookup(make_batch(KEYS[:6]))
    copy = pickle.loads(pickle.dumps(first))
    logits = first.main.bbox_logits[1:]  # what is left of an answer keeps its memory
    for count in (1, 6, 3):
        reader.lookup(make_batch(KEYS[6 : 6 + count]))
    assert_equal(first, copy)
    del first
    reader.lookup(make_batch(KEYS[6:]))
    assert torch.equal(logits, copy.main.bbox_logits[1:])


@pytest.mark.law
def test_views_without_rows_give_empty_tensors_of_the_right_shape(tmp_path) -> None:
    plan = make_plan(KEYS, held=EVERY)
    build(tmp_path, plan, KEYS, most=0)
    found = CacheReader.open_(tmp_path).lookup(make_batch(KEYS[:3], boxes=0))
    shapes = {name: tuple(tensor.shape) for name, tensor in said(found).items()}
    assert shapes["main.bbox_logits"] == shapes["vlr.bbox_logits"] == (0, 4, 5)
    assert shapes["main.cls_logits"] == shapes["vlr.cls_logits"] == (0, 3)
    assert shapes["imitation.features"] == (0, 4)
    assert shapes["score_class.logit"] == shapes["score_class.row"] == (0,)
    assert found.main.rows.location.dtype == torch.int64
    assert found.cross is not None
    assert found.cross.mean.shape == found.cross.std.shape == (3, 2, 2, 4)


@pytest.mark.contract
def test_an_unsealed_cache_is_refused_with_counts(tmp_path) -> None:
    begin(tmp_path, PLAN)
    write_shard(tmp_path, 0, [make_rows(key, PLAN) for key in PLAN.keys_of(0, KEYS)], PLAN)
    with pytest.raises(CacheIncomplete, match=r"is not sealed: 1 of 3 shards are complete\."):
        CacheReader.open_(tmp_path)
    with pytest.raises(CacheIncomplete, match="nowhere: is no folder"):
        CacheReader.open_(tmp_path / "nowhere")


@pytest.mark.contract
@pytest.mark.parametrize("name", ["plan.json", "manifest.json", "shards/000001.json"])
def test_a_flipped_byte_in_a_document_is_refused_before_any_row(name, cache) -> None:
    content = bytearray((cache / name).read_bytes())
    content[len(content) // 2] ^= 1
    (cache / name).write_bytes(content)
    with pytest.raises(CacheCorrupt) as caught:
        CacheReader.open_(cache)
    assert str(caught.value).startswith(f"{cache / name}: is not ")
    assert "Delete this file and manifest.json" in str(caught.value)


@pytest.mark.contract
@pytest.mark.parametrize("name", ["plan.json", "shards/000001.json"])
def test_a_missing_document_is_told(name, cache) -> None:
    (cache / name).unlink()
    with pytest.raises(CacheCorrupt, match=r"json: is missing"):
        CacheReader.open_(cache)


@pytest.mark.contract
def test_documents_of_two_caches_do_not_mix(cache) -> None:
    other = make_plan(make_keys(5))
    (cache / "plan.json").write_bytes(other.to_bytes())
    with pytest.raises(CacheCorrupt, match=r"plan\.json: is not the plan of manifest\.json"):
        CacheReader.open_(cache)


@pytest.mark.contract
def test_a_manifest_that_lists_other_shards_than_the_plan_is_refused(cache) -> None:
    manifest = CacheReader.open_(cache).manifest
    shorter = manifest.model_copy(update={"receipts": manifest.receipts[:-1]})
    (cache / "manifest.json").write_bytes(shorter.to_bytes())
    with pytest.raises(CacheCorrupt, match="does not list the 3 shards of the plan"):
        CacheReader.open_(cache)


@pytest.mark.contract
def test_a_shard_with_a_flipped_byte_is_refused_when_first_used_and_others_are_not(cache) -> None:
    shard = CacheFolder(cache).shard(1)
    content = bytearray(shard.read_bytes())
    content[-1] ^= 1
    shard.write_bytes(content)
    reader = CacheReader.open_(cache)
    reader.lookup(make_batch(KEYS[:4]))
    for _ in range(2):
        with pytest.raises(CacheCorrupt, match=r"000001\.safetensors: is not what was written"):
            reader.lookup(make_batch(KEYS[3:6]))


@pytest.mark.contract
def test_a_damaged_shard_is_rebuilt_alone_as_the_message_says(cache) -> None:
    before, files = CacheReader.open_(cache).fingerprint, CacheFolder(cache)
    for path in [files.shard(1), files.receipt(1), files.manifest]:
        path.unlink()
    plan = begin(cache, PLAN)
    assert missing_shards(files, plan) == [1]
    write_shard(cache, 1, [make_rows(key, plan) for key in plan.keys_of(1, KEYS)], plan)
    seal(cache, plan, KEYS)
    assert CacheReader.open_(cache).fingerprint == before


@pytest.mark.contract
def test_a_view_that_the_cache_lacks_is_told(cache) -> None:
    reader = CacheReader.open_(cache)
    for key in [ViewKey(1, 0), ViewKey(9, 2), ViewKey(10**6, 0)]:
        message = rf"has no image {key.image_id}, view {key.view}\."
        with pytest.raises(CacheMismatch, match=message):
            reader.view(key)


@pytest.mark.contract
def test_a_batch_of_other_views_is_told_field_by_field(cache) -> None:
    batch = make_batch(KEYS[:2])
    height, width = batch.views[1].resized_hw
    other = type(batch.views[1])(
        batch.views[1].source_hw, (height - 1, width), batch.views[1].padded_hw, flip=False
    )
    with pytest.raises(CacheMismatch) as caught:
        CacheReader.open_(cache).lookup(batch._replace(views=(batch.views[0], other)))
    assert str(caught.value) == (
        f"{cache}: image 9, view 1 is another view than the teacher saw.\n"
        f"  resized_hw: {(height, width)} in the cache, {(height - 1, width)} here\n"
        "  flip: True in the cache, False here\n"
        "Set `views` and `seed` as in the cache (`ldkit cache info` shows them), or build a new "
        "cache."
    )


@pytest.mark.contract
def test_a_row_of_a_box_that_is_not_there_is_told(cache) -> None:
    batch = make_batch(KEYS[:6], boxes=BOXES + 2)
    labels = batch.ground_truth.labels.clone()
    labels[:, BOXES:] = -1  # padding of the batch is no box
    reader = CacheReader.open_(cache)
    reader.lookup(batch._replace(ground_truth=batch.ground_truth._replace(labels=labels)))
    labels[:] = -1
    with pytest.raises(CacheMismatch, match=r"belongs to box \d, counted from 0, but .* has 0"):
        reader.lookup(batch._replace(ground_truth=batch.ground_truth._replace(labels=labels)))


@pytest.mark.contract
def test_boxes_of_vlr_rows_are_checked_too(tmp_path) -> None:
    plan = make_plan(KEYS, held=["vlr"])
    rows = [make_rows(key, plan) for key in KEYS]
    nothing = {name: values[:0] for name, values in rows[0].columns.items()}
    begin(tmp_path, plan)
    for number in range(plan.shards):
        content = []
        for position in plan.views_of(number):
            vlr = {n: v for n, v in rows[position].columns.items() if n.startswith("vlr.")}
            content.append(rows[position]._replace(columns=nothing | vlr))
        write_shard(tmp_path, number, content, plan)
    seal(tmp_path, plan, KEYS)
    batch = make_batch(KEYS)
    labels = torch.full_like(batch.ground_truth.labels, -1)
    other = batch._replace(ground_truth=batch.ground_truth._replace(labels=labels))
    with pytest.raises(CacheMismatch, match=r"belongs to box \d, counted from 0, but .* has 0"):
        CacheReader.open_(tmp_path).lookup(other)
    main_only = Wanted(make_coverage(), frozenset())
    assert len(CacheReader.open_(tmp_path, main_only).lookup(other).main.rows.image) == 0


@pytest.mark.contract
def test_a_canvas_smaller_than_a_view_is_a_programming_error(cache) -> None:
    key = next(key for key in KEYS if make_view(key).padded_hw[0] > 32)
    batch = make_batch([key])
    with pytest.raises(ValueError, match="does not fit"):
        CacheReader.open_(cache).lookup(batch._replace(pixels=batch.pixels[:, :, :32]))


@pytest.mark.contract
def test_pixels_are_proved_to_be_those_the_teacher_saw(tmp_path) -> None:
    key = KEYS[0]
    plan = make_plan([key], 1)
    height, width = make_view(key).padded_hw
    pixels = torch.randint(256, (3, height, width), dtype=torch.uint8)
    rows = make_rows(key, plan)._replace(pixels_crc32=pixels_crc32(pixels, (height, width)))
    begin(tmp_path, plan)
    write_shard(tmp_path, 0, [rows], plan)
    seal(tmp_path, plan, [key])
    reader = CacheReader.open_(tmp_path)
    reader.check_pixels(key, pixels)
    reader.check_pixels(key, torch.nn.functional.pad(pixels, (0, 32, 0, 64)))
    pixels[0, 0, 0] += 1
    with pytest.raises(CacheMismatch, match="image 9, view 0 is not the picture the teacher saw"):
        reader.check_pixels(key, pixels)


class Lookups(Dataset[TeacherRows]):
    """Batches of a cache, looked up where the loader's worker runs."""

    def __init__(self, reader: CacheReader) -> None:
        self.reader = reader

    def __len__(self) -> int:
        return len(KEYS) // 3

    def __getitem__(self, index: int) -> TeacherRows:
        return self.reader.lookup(make_batch(KEYS[3 * index : 3 * index + 3]))


def first(items: list[TeacherRows]) -> TeacherRows:
    return items[0]


@pytest.mark.contract
@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_workers_read_what_the_main_process_reads(method, cache) -> None:
    reader = CacheReader.open_(cache)
    expected = [Lookups(reader)[index] for index in range(len(Lookups(reader)))]
    context = multiprocessing.get_context(method)
    loader = DataLoader(
        Lookups(reader), num_workers=1, multiprocessing_context=context, collate_fn=first
    )
    for found, ours in zip(loader, expected, strict=True):
        assert_equal(found, ours)


@linux
@pytest.mark.contract
def test_a_reader_leaves_no_file_open(cache) -> None:
    for _ in range(3):
        reader = CacheReader.open_(cache)
        for key in KEYS:
            reader.lookup(make_batch([key]))
        assert open_files(cache) == 3
        reader.close()
        assert open_files(cache) == 0
        reader.lookup(make_batch(KEYS))
        del reader
        assert open_files(cache) == 0


@pytest.mark.contract
def test_a_copy_sent_to_another_process_carries_neither_files_nor_buffers(cache) -> None:
    reader = CacheReader.open_(cache)
    fresh = len(pickle.dumps(reader))
    expected = reader.lookup(make_batch(KEYS))
    assert len(pickle.dumps(reader)) == fresh
    again = pickle.loads(pickle.dumps(reader))
    assert_equal(again.lookup(make_batch(KEYS)), expected)
    assert again.fingerprint == reader.fingerprint
    assert again.path == Path(cache)


@pytest.mark.law
def test_a_shard_that_was_replaced_under_a_reader_is_proved_before_it_is_read(tmp_path) -> None:
    build(tmp_path, make_plan(KEYS), KEYS)
    reader, batch = CacheReader.open_(tmp_path), make_batch(KEYS)
    before = reader.lookup(batch)
    shard = CacheFolder(tmp_path).shard(0)
    same, other = shard.read_bytes(), bytearray(shard.read_bytes())
    other[-1] ^= 1
    for content in (same, bytes(other)):
        fresh = shard.with_name("fresh")
        fresh.write_bytes(content)
        fresh.replace(shard)
        assert_equal(reader.lookup(batch), before)  # the file that is open is still the proved one
        reader.close()
        if content == same:
            assert_equal(reader.lookup(batch), before)
    with pytest.raises(CacheCorrupt, match="is not what was written"):
        reader.lookup(batch)
