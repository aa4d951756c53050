import hashlib
import json
import os

import numpy as np
import pytest
from safetensors.numpy import load, save

from ldkit.cache.folder import CacheFolder
from ldkit.cache.handles import Handles
from ldkit.cache.receipts import RowCounts
from ldkit.cache.shard import Shard
from ldkit.errors import CacheCorrupt, StorageError
from ldkit.structures import ViewKey
from tests.cache.synthetic import EVERY, build, make_keys, make_plan, make_rows, make_view

KEYS = make_keys(5, views=3)
PLAN = make_plan(KEYS, views_per_shard=15, held=EVERY)


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    path = tmp_path_factory.mktemp("cache")
    return CacheFolder(path), build(path, PLAN, KEYS).receipts[0]


@pytest.fixture
def damaged(tmp_path):
    """Return a function that writes other bytes in place of the shard."""
    folder = CacheFolder(tmp_path)
    folder.shards.mkdir()

    def damage(content: bytes) -> CacheFolder:
        folder.shard(0).write_bytes(content)
        return folder

    return damage


@pytest.mark.law
def test_every_view_is_found_at_its_place_and_no_other_key_is(built) -> None:
    shard = Shard(*built, PLAN)
    assert [shard.find(key) for key in KEYS] == list(range(15))
    assert [shard.view(position) for position in range(15)] == [make_view(key) for key in KEYS]
    absent = [ViewKey(8, 0), ViewKey(9, 3), ViewKey(9, -1), ViewKey(10, 0), ViewKey(10**9, 0)]
    assert [shard.find(key) for key in absent] == [None] * 5


@pytest.mark.law
def test_views_of_an_image_may_be_left_out(tmp_path) -> None:
    some = [key for number, key in enumerate(KEYS) if number not in (1, 3, 4, 8)]
    plan = make_plan(some, views_per_shard=15)
    shard = Shard(CacheFolder(tmp_path), build(tmp_path, plan, some).receipts[0], plan)
    found = {key: shard.find(key) for key in KEYS}
    assert found == {key: some.index(key) if key in some else None for key in KEYS}


@pytest.mark.law
@pytest.mark.parametrize(
    "name",
    ["main.location", "vlr.gt_index", "imitation.location", "score.location", "score_class.row"],
)
def test_rows_are_read_where_they_lie(name, built) -> None:
    shard, handles = Shard(*built, PLAN), Handles()
    offsets = shard.offsets[name.split(".")[0]]
    for position, key in enumerate(KEYS):
        stored = np.empty(offsets[position + 1] - offsets[position], "<u2")
        memory = stored.view(np.uint8).data
        shard.read_rows(handles.of(shard.file, shard.admit), offsets[position], [(name, memory)])
        assert stored.tolist() == make_rows(key, PLAN).columns[name].tolist()


@pytest.mark.law
def test_a_flipped_bit_anywhere_in_a_shard_is_refused(built, damaged) -> None:
    folder, receipt = built
    content = folder.shard(0).read_bytes()
    for position in range(0, len(content), 37):
        other = bytearray(content)
        other[position] ^= 1 << position % 8
        with pytest.raises(CacheCorrupt, match="is not what was written"):
            Shard(damaged(bytes(other)), receipt, PLAN)


@pytest.mark.contract
def test_the_message_names_the_shard_both_digests_and_the_way_to_rebuild_it(built, damaged) -> None:
    folder, receipt = built
    content = bytearray(folder.shard(0).read_bytes())
    content[-1] ^= 1
    other = damaged(bytes(content))
    with pytest.raises(CacheCorrupt) as caught:
        Shard(other, receipt, PLAN)
    assert str(caught.value) == (
        f"{other.shard(0)}: is not what was written.\n"
        f"  expected sha256 {receipt.sha256}\n"
        f"  found           {hashlib.sha256(content).hexdigest()}\n"
        f"Delete this file, 000000.json beside it and {other.manifest}, then run "
        "`ldkit cache-logits` again with the same recipe and teacher: it rebuilds just this shard."
    )


@pytest.mark.contract
def test_a_truncated_or_missing_shard_is_told(built, damaged) -> None:
    folder, receipt = built
    content = folder.shard(0).read_bytes()
    expected = f"has {len(content) - 1} bytes; its receipt says {len(content)}"
    with pytest.raises(CacheCorrupt, match=expected):
        Shard(damaged(content[:-1]), receipt, PLAN)
    other = damaged(b"")
    other.shard(0).unlink()
    with pytest.raises(CacheCorrupt, match=r"000000\.safetensors: is missing"):
        Shard(other, receipt, PLAN)


@pytest.mark.contract
def test_a_shard_that_the_system_does_not_let_us_read_is_told(built, damaged) -> None:
    folder = damaged(b"")
    folder.shard(0).unlink()
    folder.shard(0).mkdir()
    with pytest.raises(StorageError, match="could not be read: it is no regular file"):
        Shard(folder, built[1], PLAN)


def with_receipt(receipt, content: bytes):
    """Return a receipt that vouches for other bytes, as an attacker would write it."""
    digest = hashlib.sha256(content).hexdigest()
    return receipt.model_copy(update={"bytes": len(content), "sha256": digest})


@pytest.mark.contract
@pytest.mark.parametrize(
    "name",
    [
        "view.flip",
        "view.padded_hw",
        "main.offsets",
        "main.gt_index",
        "main.bbox_logits",
        "vlr.offsets",
        "imitation.features",
        "score_class.label",
        "cross.std",
    ],
)
def test_a_shard_without_a_column_or_with_another_dtype_or_length_is_refused(
    name, built, damaged
) -> None:
    tensors = load(built[0].shard(0).read_bytes())
    without = {key: value for key, value in tensors.items() if key != name}
    others = [without, {**without, name: tensors[name].astype("f8")}]
    others.append({**without, name: np.concatenate([tensors[name], tensors[name][-1:]])})
    for other in others:
        content = save(other)
        with pytest.raises(CacheCorrupt, match=f"has {name} as .*; the plan says"):
            Shard(damaged(content), with_receipt(built[1], content), PLAN)


@pytest.mark.contract
@pytest.mark.parametrize("group", ["main", "vlr", "imitation", "score", "score_class", "cross"])
@pytest.mark.parametrize("change", [(0, 1), (3, 10**6), (-1, 0)])
def test_offsets_that_lead_outside_are_refused(change, group, built, damaged) -> None:
    tensors = load(built[0].shard(0).read_bytes())
    position, value = change
    offsets = tensors[f"{group}.offsets"].copy()
    offsets[position] = value
    content = save({**tensors, f"{group}.offsets": offsets})
    message = rf"offsets that do not rise from 0 to its number of rows: {group}\.offsets"
    with pytest.raises(CacheCorrupt, match=message):
        Shard(damaged(content), with_receipt(built[1], content), PLAN)


@pytest.mark.contract
def test_a_receipt_that_leaves_out_a_group_is_refused(built) -> None:
    folder, receipt = built
    less = receipt.model_copy(update={"rows": RowCounts(main=receipt.rows.main)})
    with pytest.raises(CacheCorrupt, match="a receipt that does not count the rows of vlr"):
        Shard(folder, less, PLAN)


@pytest.mark.contract
def test_a_shard_cut_while_it_is_open_is_told(built, damaged) -> None:
    folder = damaged(built[0].shard(0).read_bytes())
    shard, handles = Shard(folder, built[1], PLAN), Handles()
    handle = handles.of(shard.file, shard.admit)
    os.truncate(shard.path, 100)
    column = PLAN.groups[0].columns[2]
    memory = memoryview(bytearray(column.entry_bytes))
    with pytest.raises(CacheCorrupt, match="was truncated while it was being read"):
        shard.read_rows(handle, 0, [(column.name, memory)])


@pytest.mark.law
def test_a_shard_keeps_the_pairs_of_its_main_rows_where_the_cache_is_not_large(
    built, monkeypatch
) -> None:
    pairs = Shard(*built, PLAN).pairs
    written = [make_rows(key, PLAN).columns for key in KEYS]
    for number, name in enumerate(("main.location", "main.gt_index")):
        assert pairs is not None
        assert pairs[:, number].tolist() == [one for each in written for one in each[name].tolist()]
    monkeypatch.setattr("ldkit.cache.shard.PAIRS_LIMIT", 4 * len(pairs) - 1)
    assert Shard(*built, PLAN).pairs is None


@pytest.mark.contract
def test_equal_columns_give_equal_bytes_with_one_metadata_key(built) -> None:
    content = built[0].shard(0).read_bytes()
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    assert list(header["__metadata__"]) == ["ldkit-cache"]
    identity = json.loads(header["__metadata__"]["ldkit-cache"])
    assert identity == {"plan": PLAN.digest, "shard": 0, "version": 1}
    assert save(load(content), metadata=header["__metadata__"]) == content
