"""What `verify` proves of a cache alone: every number that a reader relies on."""

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from ldkit.cache.folder import CacheFolder
from ldkit.cache.verify import Structure, check_bytes, leftovers, read_sealed
from ldkit.errors import CacheCorrupt, CacheIncomplete
from ldkit.structures import ViewKey
from tests.cache import forgery
from tests.cache.conftest import KEYS, PLAN
from tests.cache.forgery import Arrays, Fields
from tests.cache.synthetic import EVERY, build, make_plan

SHARD = 1


def verify(path: Path) -> list[ViewKey]:
    """Return the keys of a cache whose structure and bytes are right."""
    keys = []
    for generation in read_sealed(path):
        structure = Structure(generation)
        for number in range(generation.plan.shards):
            structure.check(number)
            check_bytes(generation, number)
        keys += structure.keys()
    return keys


@pytest.mark.law
@pytest.mark.parametrize("codec", ["fp16", "fp32", "u8"])
@pytest.mark.parametrize("held", [(), ("score",), EVERY])
def test_what_was_built_is_proved(codec, held, tmp_path: Path) -> None:
    build(tmp_path, make_plan(KEYS, 5, codec, None, held), KEYS)
    assert verify(tmp_path) == list(KEYS)


@pytest.mark.law
def test_views_without_rows_are_proved(tmp_path: Path) -> None:
    build(tmp_path, PLAN, KEYS, most=0)
    assert verify(tmp_path) == list(KEYS)


@pytest.mark.law
def test_blocks_of_any_size_prove_the_same(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for views, size in ((1, 1), (3, 100), (2, 10**6)):
        monkeypatch.setattr("ldkit.cache.verify_shard.BLOCK_VIEWS", views)
        monkeypatch.setattr("ldkit.cache.verify_shard.BLOCK_BYTES", size)
        assert verify(cache) == list(KEYS)


def put(name: str, place: int | tuple[int, ...], value: object) -> Callable[[Arrays], None]:
    def change(columns: Arrays) -> None:
        columns[name][place] = value

    return change


def swap_first_two(name: str) -> Callable[[Arrays], None]:
    def change(columns: Arrays) -> None:
        offsets = columns[f"{name.split('.')[0]}.offsets"]
        first = next(n for n in offsets[:-1] if np.diff(offsets)[offsets[:-1] == n][0] >= 2)
        columns[name][[first, first + 1]] = columns[name][[first + 1, first]]

    return change


def reverse(name: str) -> Callable[[Arrays], None]:
    """Turn the numbers of each view around."""

    def change(columns: Arrays) -> None:
        offsets = columns[f"{name.split('.')[0]}.offsets"]
        for first, end in pairwise(offsets):
            columns[name][first:end] = columns[name][first:end][::-1].copy()

    return change


def share_rows(name: str) -> Callable[[Arrays], None]:
    """Move a row from one view to its neighbour."""

    def change(columns: Arrays) -> None:
        offsets = columns[f"{name}.offsets"]
        offsets[1] += 1 if offsets[1] < offsets[2] else -1

    return change


FAULTS: dict[str, tuple[Callable[[Arrays], None], str]] = {
    "keys": (put("view.index", 1, 0), "has keys that do not rise: image 19, view 0."),
    "ends": (put("view.image_id", 0, 18), r"has the keys \(18, 0\) to .*; its receipt says others"),
    "empty": (put("view.resized_hw", (2, 0), 0), "has a view without pixels: image 24, view 0."),
    "negative": (put("view.source_hw", (0, 1), -3), "has a view without pixels: image 19"),
    "canvas": (put("view.padded_hw", (0, 0), 999), "has a view padded to another canvas: image 19"),
    "crc": (put("view.pixels_crc32", 3, 2**32), "has a checksum of pixels that is none: image 24"),
    "outside": (put("main.location", -1, 65535), "has a number out of range, main.location: image"),
    "falls": (swap_first_two("vlr.location"), "has numbers that do not rise, vlr.location: image"),
    "twice": (swap_first_two("imitation.location"), "do not rise, imitation.location: image"),
    "score": (put("score.location", -1, 65535), "has a number out of range, score.location: image"),
    "row": (put("score_class.row", -1, 60000), "has a number out of range, score_class.row: image"),
    "rows": (reverse("score_class.row"), "has numbers that do not rise, score_class.row: image"),
    "label": (put("score_class.label", 0, 3), "has a number out of range, score_class.label: ima"),
    "nan": (put("main.bbox_logits", (0, 0, 0), np.nan), "not finite: main.bbox_logits of image"),
    "inf": (put("cross.std", (3, 1, 2), np.inf), "not finite: cross.std of image"),
    "levels": (share_rows("cross"), "does not have one row for each level: image 19, view 0."),
    "offsets": (put("vlr.offsets", 0, 1), "offsets that do not rise from 0 .*: vlr.offsets."),
}


@pytest.mark.contract
@pytest.mark.parametrize("fault", FAULTS)
def test_each_wrong_number_is_found_although_all_digests_agree(fault: str, cache: Path) -> None:
    change, message = FAULTS[fault]
    forgery.forge_columns(cache, SHARD, change)
    with pytest.raises(CacheCorrupt, match=message) as caught:
        verify(cache)
    assert caught.value.where == str(CacheFolder(cache).shard(SHARD))
    assert "it rebuilds just this shard" in caught.value.hint


@pytest.mark.contract
@pytest.mark.parametrize(
    "fault", ["outside", "falls", "twice", "row", "rows", "label", "nan", "inf"]
)
def test_a_wrong_number_is_found_in_whichever_block_it_lies(
    fault: str, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ldkit.cache.verify_shard.BLOCK_VIEWS", 1)
    monkeypatch.setattr("ldkit.cache.verify_shard.BLOCK_BYTES", 1)
    change, message = FAULTS[fault]
    forgery.forge_columns(cache, SHARD, change)
    with pytest.raises(CacheCorrupt, match=message):
        verify(cache)


@pytest.mark.contract
def test_a_number_that_is_not_finite_is_found_in_fp32_too(tmp_path: Path) -> None:
    build(tmp_path, make_plan(KEYS, bbox_logits="fp32"), KEYS)
    change, message = FAULTS["nan"]
    forgery.forge_columns(tmp_path, SHARD, change)
    with pytest.raises(CacheCorrupt, match=message):
        verify(tmp_path)


@pytest.mark.contract
def test_offsets_so_wild_that_their_differences_run_over_are_refused(cache: Path) -> None:
    def change(columns: Arrays) -> None:
        columns["main.offsets"][1:4] = [2**63 - 1, -2, -2]

    forgery.forge_columns(cache, SHARD, change)
    assert (np.diff([0, 2**63 - 1, -2]) >= 0).all()
    with pytest.raises(CacheCorrupt, match="do not rise from 0 to its number of rows"):
        verify(cache)


@pytest.mark.contract
def test_a_flip_that_is_no_bool_is_refused(cache: Path) -> None:
    content = CacheFolder(cache).shard(SHARD).read_bytes()
    first = forgery.header_of(content)["view.flip"]["data_offsets"][0]
    place = forgery.tensors_from(content) + first
    forgery.forge_content(cache, SHARD, content[:place] + b"\2" + content[place + 1 :])
    with pytest.raises(CacheCorrupt, match="has a `flip` that is no bool: image 19, view 0"):
        verify(cache)


def totals(change: Callable[[Fields], object]) -> Callable[[Path], None]:
    return lambda cache: forgery.forge_manifest(cache, change)


def add(fields: Fields, name: str, count: int = 1) -> None:
    fields[name] += count


DOCUMENTS: dict[str, tuple[Callable[[Path], None], str]] = {
    "views": (totals(lambda m: add(m, "views")), "states other views than its receipts have"),
    "bytes": (totals(lambda m: add(m, "bytes")), "states other bytes than its receipts have"),
    "rows": (totals(lambda m: add(m["rows"], "vlr")), "states other rows than its receipts have"),
    "count": (
        lambda cache: forgery.forge_plan(cache, lambda p: p["keys"].update(count=11)),
        "has 12 views; plan.json says 11",
    ),
    "locations": (
        totals(lambda m: add(m["receipts"][1], "locations")),
        "has canvases of .* locations; its receipt says others",
    ),
    "first key": (
        totals(lambda m: m["receipts"][1].update(first_key=[18, 0])),
        "has the keys .*; its receipt says others",
    ),
    "keys": (
        lambda cache: forgery.forge_plan(cache, lambda p: p["keys"].update(digest="0" * 64)),
        "calls itself another shard, or one of another cache",
    ),
}


@pytest.mark.contract
@pytest.mark.parametrize("name", DOCUMENTS)
def test_documents_that_contradict_each_other_are_found(name: str, cache: Path) -> None:
    change, message = DOCUMENTS[name]
    change(cache)
    with pytest.raises(CacheCorrupt, match=message):
        verify(cache)


@pytest.mark.contract
def test_shards_that_are_not_the_plans_are_found_by_their_keys(cache: Path) -> None:
    """A forger who takes over everything but the digest of the keys."""
    forgery.forge_plan(cache, lambda plan: plan["keys"].update(digest="0" * 64))
    digest = forgery.digest_of(CacheFolder(cache).plan)
    for number in range(PLAN.shards):

        def rename(header: Fields) -> None:
            text = header["__metadata__"]["ldkit-cache"]
            header["__metadata__"]["ldkit-cache"] = text.replace(PLAN.digest, digest)

        forgery.forge_header(cache, number, rename)
    with pytest.raises(CacheCorrupt, match="has shards whose keys are not those of the plan"):
        verify(cache)


@pytest.mark.contract
def test_a_cache_that_is_not_sealed_is_told_as_ever(cache: Path) -> None:
    CacheFolder(cache).manifest.unlink()
    with pytest.raises(CacheIncomplete, match="is not sealed: 3 of 3 shards are complete"):
        read_sealed(cache)


@pytest.mark.contract
def test_files_that_no_reader_looks_at_are_listed(cache: Path) -> None:
    (cache / "origin.json").write_bytes(b"{}")  # of a mirror
    assert leftovers(read_sealed(cache)) == []
    foreign = [cache / "notes.txt", cache / "shards" / ".000001.safetensors.7.tmp"]
    foreign.append(cache / "shards" / "000003.safetensors")
    for path in foreign:
        path.write_bytes(b"x")
    assert leftovers(read_sealed(cache)) == sorted(foreign)
