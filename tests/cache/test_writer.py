import contextlib
import errno
import hashlib
import os
import resource
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.numpy import load_file

from ldkit.cache.content import ViewRows
from ldkit.cache.folder import CacheFolder, missing_shards, read_document
from ldkit.cache.format import Plan, Source
from ldkit.cache.reader import CacheReader
from ldkit.cache.writer import begin, seal, write_shard
from ldkit.errors import CacheCorrupt, CacheError, CacheIncomplete, CacheMismatch, StorageError
from ldkit.structures import View, ViewKey
from tests.cache.synthetic import EVERY, SOURCES, build, make_keys, make_plan, make_rows

KEYS = make_keys(6)
PLAN = make_plan(KEYS)


def content_of(number: int):
    return [make_rows(key, PLAN) for key in PLAN.keys_of(number, KEYS)]


def snapshot(folder: Path) -> dict[str, bytes]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


@pytest.mark.contract
def test_a_cache_has_the_files_of_the_format_and_no_others(tmp_path) -> None:
    build(tmp_path, PLAN, KEYS)
    assert sorted(snapshot(tmp_path)) == [
        "manifest.json",
        "plan.json",
        "shards/000000.json",
        "shards/000000.safetensors",
        "shards/000001.json",
        "shards/000001.safetensors",
        "shards/000002.json",
        "shards/000002.safetensors",
    ]


@pytest.mark.law
def test_building_twice_gives_equal_bytes_in_any_order_of_shards(tmp_path) -> None:
    build(tmp_path / "a", PLAN, KEYS)
    begin(tmp_path / "b", PLAN)
    for number in [2, 0, 1]:
        write_shard(tmp_path / "b", number, content_of(number), PLAN)
    seal(tmp_path / "b", PLAN, KEYS)
    assert snapshot(tmp_path / "a") == snapshot(tmp_path / "b")
    before = snapshot(tmp_path / "a")
    build(tmp_path / "a", PLAN, KEYS)
    assert snapshot(tmp_path / "a") == before


@pytest.mark.contract
def test_a_shard_is_a_plain_safetensors_file(tmp_path) -> None:
    build(tmp_path, PLAN, KEYS)
    tensors = load_file(CacheFolder(tmp_path).shard(0))
    assert tensors["view.image_id"].tolist() == [9, 9, 14, 14]
    assert len(tensors["main.location"]) == tensors["main.offsets"][-1]


@pytest.mark.contract
def test_the_receipt_says_what_the_shard_holds(tmp_path) -> None:
    begin(tmp_path, PLAN)
    content = content_of(0)
    receipt = write_shard(tmp_path, 0, content, PLAN)
    assert receipt.plan == PLAN.digest
    assert receipt.views == 4
    assert receipt.rows.main == sum(len(rows.columns["main.location"]) for rows in content)
    assert (receipt.first_key, receipt.last_key) == (ViewKey(9, 0), ViewKey(14, 1))
    assert receipt.bytes == CacheFolder(tmp_path).shard(0).stat().st_size


@pytest.mark.contract
def test_a_receipt_and_the_manifest_count_the_rows_of_every_group(tmp_path) -> None:
    plan = make_plan(KEYS, held=EVERY)
    manifest = build(tmp_path, plan, KEYS)
    rows = [make_rows(key, plan).columns for key in KEYS]
    assert manifest.rows.by_group == {
        group.name: sum(len(columns[group.columns[0].name]) for columns in rows)
        for group in plan.groups
    }
    assert manifest.rows.cross == len(KEYS) * len(plan.axes.strides)


def plain_rows(key: ViewKey) -> ViewRows:
    """Return rows without any chance, so that their bytes are the same everywhere."""
    count = 2 * key.view + 1
    steps = torch.arange(count * 4 * 5) / 8
    columns = {
        "main.location": torch.arange(count) * 3,
        "main.gt_index": torch.arange(count) % 5,
        "main.bbox_logits": (steps - 2).reshape(count, 4, 5),
        "main.cls_logits": steps[: count * 3].reshape(count, 3),
    }
    return ViewRows(key, View((64, 64), (32, 32), (32, 32), bool(key.view)), 7, columns)


@pytest.mark.golden
@pytest.mark.parametrize(
    ("bbox_logits", "cls_logits", "expected"),
    [
        ("fp16", "fp16", "75484b9904637e501c60b010bb51329a9df1e25f8195b3de7414311554b7368c"),
        ("fp32", None, "e826d29283dc49affc9557c5cf0dbfea9e2fe76cb3111ad8d7052338c588d6a1"),
    ],
)
def test_a_cache_of_main_rows_keeps_the_bytes_it_had_before_there_were_other_groups(
    bbox_logits, cls_logits, expected, tmp_path
) -> None:
    keys = [ViewKey(9, 0), ViewKey(9, 1), ViewKey(14, 0)]
    plan = make_plan(keys, 2, bbox_logits, cls_logits).model_copy(update={"ldkit": "0.1.0"})
    begin(tmp_path, plan)
    for number in range(plan.shards):
        content = [plain_rows(key) for key in plan.keys_of(number, keys)]
        write_shard(tmp_path, number, content, plan)
    seal(tmp_path, plan, keys)
    digest = hashlib.sha256()
    for path in sorted(tmp_path.rglob("*")):
        if path.is_file():
            digest.update(path.read_bytes())
    assert digest.hexdigest() == expected


@pytest.mark.contract
def test_a_build_goes_on_only_with_its_own_plan(tmp_path) -> None:
    assert begin(tmp_path, PLAN) == PLAN
    assert begin(tmp_path, PLAN) == PLAN
    weights = Source(fingerprint="a9" * 32, facts={"file": "r101.pt"})
    other = PLAN.model_copy(update={"sources": SOURCES.model_copy(update={"weights": weights})})
    with pytest.raises(CacheMismatch, match="was made for another teacher"):
        begin(tmp_path, other)
    assert (tmp_path / "plan.json").read_bytes() == PLAN.to_bytes()


@pytest.mark.contract
def test_the_plan_on_disk_counts_where_only_file_names_differ(tmp_path) -> None:
    build(tmp_path, PLAN, KEYS)
    before = snapshot(tmp_path)
    moved = SOURCES.weights.model_copy(update={"facts": {"file": "elsewhere.pt"}})
    plan = PLAN.model_copy(update={"sources": SOURCES.model_copy(update={"weights": moved})})
    build(tmp_path, plan, KEYS)
    assert snapshot(tmp_path) == before


@pytest.mark.contract
def test_a_damaged_plan_is_refused_and_can_be_written_anew_without_losing_shards(tmp_path) -> None:
    build(tmp_path, PLAN, KEYS)
    before = snapshot(tmp_path)
    plan = tmp_path / "plan.json"
    plan.write_bytes(plan.read_bytes().replace(b'"topk":9', b'"topk":8'))
    with pytest.raises(CacheCorrupt, match="every intact shard is kept"):
        begin(tmp_path, PLAN)
    plan.unlink()
    (tmp_path / "manifest.json").unlink()
    begin(tmp_path, PLAN)
    assert missing_shards(CacheFolder(tmp_path), PLAN) == []
    seal(tmp_path, PLAN, KEYS)
    assert snapshot(tmp_path) == before


@pytest.mark.contract
def test_a_cache_is_unsealed_from_the_moment_a_shard_is_written_again(tmp_path) -> None:
    build(tmp_path, PLAN, KEYS)
    before = snapshot(tmp_path)
    CacheFolder(tmp_path).shard(1).unlink()
    write_shard(tmp_path, 1, content_of(1), begin(tmp_path, PLAN))
    assert not (tmp_path / "manifest.json").exists()
    seal(tmp_path, PLAN, KEYS)
    assert snapshot(tmp_path) == before


@pytest.mark.contract
def test_sealing_with_a_shard_missing_or_with_other_keys_is_refused(tmp_path) -> None:
    begin(tmp_path, PLAN)
    write_shard(tmp_path, 0, content_of(0), PLAN)
    with pytest.raises(CacheIncomplete, match="1 of 3 shards are complete"):
        seal(tmp_path, PLAN, KEYS)
    with pytest.raises(ValueError, match="not the keys of the plan"):
        seal(tmp_path, PLAN, make_keys(5))


@pytest.mark.contract
def test_a_shard_of_other_views_than_planned_is_a_programming_error(tmp_path) -> None:
    begin(tmp_path, PLAN)
    with pytest.raises(ValueError, match="shard 0 has 4 views, not 3"):
        write_shard(tmp_path, 0, content_of(0)[:3], PLAN)
    with pytest.raises(ValueError, match="rise strictly"):
        write_shard(tmp_path, 0, content_of(0)[::-1], PLAN)
    for number, part in [(0, 1), (1, 0), (2, 2)]:
        write_shard(tmp_path, number, content_of(part), PLAN)
    with pytest.raises(ValueError, match="shard 0 was written with other keys"):
        seal(tmp_path, PLAN, KEYS)


@pytest.mark.contract
def test_a_broken_teacher_is_told_with_its_image_and_leaves_no_shard(tmp_path) -> None:
    begin(tmp_path, PLAN)
    content = content_of(0)
    name = "main.bbox_logits"
    spot = next(index for index, rows in enumerate(content) if len(rows.columns[name]))
    broken = content[spot].columns[name].clone()
    broken[0, 0, 0] = torch.nan
    content[spot] = content[spot]._replace(columns={**content[spot].columns, name: broken})
    key = content[spot].key
    with pytest.raises(CacheError, match=f"image {key.image_id}, view {key.view}: the teacher's"):
        write_shard(tmp_path, 0, content, PLAN)
    assert list(snapshot(tmp_path)) == ["plan.json"]


@pytest.mark.contract
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EIO])
def test_a_failed_fsync_leaves_no_receipt_and_a_build_that_can_go_on(
    number, tmp_path, monkeypatch
) -> None:
    build(tmp_path / "whole", PLAN, KEYS)
    begin(tmp_path / "cache", PLAN)

    def fail(_handle: int) -> None:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fail)
        with pytest.raises(StorageError) as caught:
            write_shard(tmp_path / "cache", 0, content_of(0), PLAN)
    assert f"000000.safetensors: could not be written: {os.strerror(number)}." in str(caught.value)
    assert "it goes on where it stopped" in str(caught.value)
    assert list(snapshot(tmp_path / "cache")) == ["plan.json"]
    build(tmp_path / "cache", PLAN, KEYS)
    assert snapshot(tmp_path / "cache") == snapshot(tmp_path / "whole")


@pytest.mark.contract
def test_a_disk_that_fills_up_in_the_middle_of_a_shard_leaves_nothing(tmp_path) -> None:
    begin(tmp_path, PLAN)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        with pytest.raises(StorageError, match="could not be written"):
            write_shard(tmp_path, 0, content_of(0), PLAN)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert list(snapshot(tmp_path)) == ["plan.json"]


@pytest.mark.contract
def test_a_disk_that_is_full_at_the_receipt_leaves_a_shard_that_does_not_count(
    tmp_path, monkeypatch
) -> None:
    begin(tmp_path, PLAN)
    write = Path.write_bytes

    def fail_on_receipts(path: Path, content: bytes) -> int:
        if ".json." in path.name:
            write(path, content[:50])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(path, content)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", fail_on_receipts)
        with pytest.raises(StorageError, match=r"000000\.json: could not be written: No space"):
            write_shard(tmp_path, 0, content_of(0), PLAN)
    assert sorted(snapshot(tmp_path)) == ["plan.json", "shards/000000.safetensors"]
    assert missing_shards(CacheFolder(tmp_path), PLAN) == [0, 1, 2]


@pytest.mark.contract
def test_a_rewritten_shard_is_not_covered_by_its_old_receipt(tmp_path, monkeypatch) -> None:
    build(tmp_path, PLAN, KEYS)

    def fail(_path: Path, _content: bytes) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", fail)
        with pytest.raises(StorageError):
            write_shard(tmp_path, 1, content_of(1), PLAN)
    assert missing_shards(CacheFolder(tmp_path), PLAN) == [1]


def told_without_rights(action: Callable[[], object]) -> str:
    """Return the StorageError of an action in a child process that is not root."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        with contextlib.suppress(PermissionError):
            os.setuid(65534)
        try:
            action()
        except StorageError as error:
            os.write(writer, str(error).encode())
        finally:
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as pipe:
        text = pipe.read()
    os.waitpid(child, 0)
    return text


@pytest.fixture
def visible():
    """Return a folder that every user may enter."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)


@pytest.mark.contract
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # Python 3.12: fork beside threads
@pytest.mark.parametrize(
    ("rights", "message"),
    [
        (0o555, "plan.json: could not be written: Permission denied"),
        (0o000, "plan.json: could not be read: Permission denied"),
    ],
)
def test_a_folder_without_rights_is_told(rights, message, visible) -> None:
    folder = visible / "cache"
    folder.mkdir()
    folder.chmod(rights)
    assert message in told_without_rights(lambda: begin(folder, PLAN))
    folder.chmod(0o755)


@pytest.mark.contract
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("name", ["plan.json", "manifest.json", "shards/000000.json", "shards"])
def test_a_cache_that_may_not_be_read_is_told(name, visible) -> None:
    build(visible / "cache", PLAN, KEYS)
    (visible / "cache" / name).chmod(0)
    text = told_without_rights(lambda: CacheReader.open_(visible / "cache"))
    assert "could not be read: Permission denied" in text
    assert "Check the disk and the permissions of the folder" in text
    (visible / "cache" / name).chmod(0o755)


@pytest.mark.contract
def test_a_read_only_file_system_is_told(tmp_path, monkeypatch) -> None:
    build(tmp_path, PLAN, KEYS)
    begin(tmp_path, PLAN)

    def fail(*_arguments: object, **_named: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", fail)
        with pytest.raises(StorageError, match=r"manifest\.json: could not be removed: Read-only"):
            write_shard(tmp_path, 1, content_of(1), PLAN)


@pytest.mark.contract
def test_a_file_where_the_folder_should_be_is_told(tmp_path) -> None:
    (tmp_path / "cache").write_text("")
    with pytest.raises(StorageError, match="could not be written"):
        begin(tmp_path / "cache", PLAN)


@pytest.mark.law
def test_of_two_builders_that_begin_at_once_the_first_plan_counts(tmp_path, monkeypatch) -> None:
    facts = PLAN.sources.data.model_copy(update={"facts": {"path": "elsewhere"}})
    other = PLAN.model_copy(update={"sources": PLAN.sources.model_copy(update={"data": facts})})
    begin(tmp_path, PLAN)
    monkeypatch.setattr("ldkit.cache.writer.file_size", lambda _: None)  # as the second one saw it
    assert begin(tmp_path, other) == PLAN
    assert read_document(CacheFolder(tmp_path).plan, Plan) == PLAN
