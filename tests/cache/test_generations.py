import hashlib
import logging
import pickle
from collections.abc import Collection, Sequence
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ldkit.cache.folder import CacheFolder
from ldkit.cache.format import Columns, Plan, RowColumns, Source, Wanted
from ldkit.cache.generations import (
    Generation,
    fingerprint,
    generation_folders,
    generation_for,
    read_generation,
    read_generations,
    stored_keys,
)
from ldkit.cache.held import missing_views
from ldkit.cache.reader import CacheReader
from ldkit.cache.writer import begin
from ldkit.errors import CacheCorrupt, CacheIncomplete, CacheMismatch
from ldkit.structures import ViewKey
from tests.cache.forgery import Arrays, forge_columns
from tests.cache.synthetic import (
    EVERY,
    SOURCES,
    build,
    make_batch,
    make_coverage,
    make_keys,
    make_plan,
)
from tests.cache.test_reader import assert_equal, said

KEYS = make_keys(6)
SOME, MORE = KEYS[:7], KEYS[7:]


def without_classes(plan: Plan) -> Plan:
    main = RowColumns(bbox_logits=plan.columns.main.bbox_logits, cls_logits=None)
    columns = plan.columns.model_dump(exclude_unset=True) | {"main": main.model_dump()}
    return plan.model_copy(update={"columns": Columns.model_validate(columns)})


def build_all(path: Path, *parts: tuple[Sequence[ViewKey], Plan]) -> None:
    """Build a cache: the root and its generations."""
    for number, (keys, plan) in enumerate(parts):
        folder = CacheFolder(path) if number == 0 else CacheFolder(path).generation(number)
        build(folder.path, plan, keys)


def digests(path: Path) -> dict[str, str]:
    """Return the sha256 of each file below a folder."""
    files = (each for each in path.rglob("*") if each.is_file())
    return {
        str(each.relative_to(path)): hashlib.sha256(each.read_bytes()).hexdigest() for each in files
    }


def all_wanted(held: Collection[str]) -> Wanted:
    return Wanted(make_coverage(held), frozenset({"main.cls_logits", "vlr.cls_logits"}))


@pytest.mark.law
@settings(max_examples=25, deadline=None)
@given(
    cut=st.integers(1, len(KEYS) - 1),
    sizes=st.tuples(st.integers(1, 5), st.integers(1, 5)),
    order=st.permutations(KEYS),
)
def test_views_added_later_are_read_as_if_built_at_once(
    cut, sizes, order, tmp_path_factory
) -> None:
    path = tmp_path_factory.mktemp("cache")
    chosen = set(order[:cut])
    parts = [[key for key in KEYS if (key in chosen) is first] for first in (True, False)]
    plans = [make_plan(keys, size) for keys, size in zip(parts, sizes, strict=True)]
    build_all(path / "parts", *zip(parts, plans, strict=True))
    build(path / "whole", make_plan(KEYS), KEYS)
    reader, whole = CacheReader.open_(path / "parts"), CacheReader.open_(path / "whole")
    assert_equal(reader.lookup(make_batch(order)), whole.lookup(make_batch(order)))
    assert [reader.view(key) for key in KEYS] == [whole.view(key) for key in KEYS]
    reader.require_keys(KEYS)


@pytest.mark.law
def test_groups_added_later_are_read_beside_those_that_were_there(tmp_path) -> None:
    first = make_plan(KEYS, held=["imitation"])
    second = without_classes(make_plan(KEYS, 5, held=["vlr", "score", "cross"]))
    build_all(tmp_path / "parts", (KEYS, first), (KEYS, second))
    build(tmp_path / "whole", make_plan(KEYS, held=EVERY), KEYS)
    for held in [(), ("vlr",), ("imitation",), EVERY]:
        reader = CacheReader.open_(tmp_path / "parts", all_wanted(held))
        found = said(reader.lookup(make_batch(KEYS)))
        names = {name for name in found if name.startswith(("main.", *held))}
        assert names == set(found)
        again = pickle.loads(pickle.dumps(reader))
        assert_equal(again.lookup(make_batch(KEYS[3:5])), reader.lookup(make_batch(KEYS[3:5])))
    everything = said(CacheReader.open_(tmp_path / "parts").lookup(make_batch(KEYS)))
    assert {"main.cls_logits", "vlr.location", "imitation.features", "cross.mean"} <= set(
        everything
    )


@pytest.mark.contract
def test_every_part_that_answers_must_have_seen_the_views_of_the_batch(tmp_path) -> None:
    groups = without_classes(make_plan(KEYS, held=["vlr"]))
    build_all(tmp_path, (KEYS, make_plan(KEYS)), (KEYS, groups))

    def flip(columns: Arrays) -> None:
        columns["view.flip"][0] ^= True

    forge_columns(CacheFolder(tmp_path).generation(1).path, 0, flip)
    with pytest.raises(CacheMismatch, match=r"image 9, view 0 is another view .*\n  flip: True"):
        CacheReader.open_(tmp_path).lookup(make_batch(KEYS))


@pytest.mark.law
def test_the_newest_generation_that_holds_what_is_wanted_answers(tmp_path) -> None:
    root, same = make_plan(KEYS), make_plan(SOME)
    build_all(tmp_path, (KEYS, root), (SOME, same), (KEYS, without_classes(make_plan(KEYS))))
    wanted = frozenset({"main.cls_logits"})
    with_classes = CacheReader.open_(tmp_path, Wanted(make_coverage(), wanted))
    files = [path.parents[1].name for path in with_classes.files_of(SOME[0])]
    assert files == ["001", tmp_path.name]
    without = CacheReader.open_(tmp_path, Wanted(make_coverage(), frozenset()))
    assert next(path.parents[1].name for path in without.files_of(SOME[0])) == "002"
    for reader in (with_classes, without):
        answer = reader.lookup(make_batch([SOME[0], MORE[0]]))
        assert (answer.main.cls_logits is not None) is (reader is with_classes)


@pytest.mark.contract
def test_an_unsealed_generation_is_left_out_with_a_warning(tmp_path, caplog) -> None:
    build_all(tmp_path, (SOME, make_plan(SOME)))
    before = CacheReader.open_(tmp_path).fingerprint
    begin(CacheFolder(tmp_path).generation(1).path, make_plan(MORE))
    with caplog.at_level(logging.WARNING):
        reader = CacheReader.open_(tmp_path)
    assert "generations/001 is not sealed yet, and left out." in caplog.text
    assert (reader.fingerprint, len(reader.generations)) == (before, 1)


@pytest.mark.contract
def test_the_numbers_of_generations_rise(tmp_path) -> None:
    plan = make_plan(SOME)
    assert generation_folders(tmp_path) == []
    assert generation_for(tmp_path, plan).path == tmp_path / "generations" / "001"
    for number in (2, 11, 999):
        folder = CacheFolder(tmp_path).generation(number)
        build(folder.path, plan, SOME)
        assert generation_for(tmp_path, make_plan(MORE)).path.name == f"{number + 1:03d}"
    for name in ("notes", "2", "0011", "7"):
        (tmp_path / "generations" / name).mkdir()
    assert [each.path.name for each in generation_folders(tmp_path)] == ["002", "011", "999"]
    build(CacheFolder(tmp_path).generation(1000).path, make_plan(SOME), SOME)
    assert generation_folders(tmp_path)[-1].path.name == "1000"


@pytest.mark.contract
def test_a_generation_that_was_begun_goes_on_and_another_gets_a_number_of_its_own(tmp_path) -> None:
    begin(CacheFolder(tmp_path).generation(1).path, make_plan(SOME))
    build(CacheFolder(tmp_path).generation(2).path, make_plan(MORE), MORE)
    assert generation_for(tmp_path, make_plan(SOME)).path.name == "001"
    assert generation_for(tmp_path, make_plan(MORE)).path.name == "002"
    assert generation_for(tmp_path, make_plan(KEYS)).path.name == "003"


@pytest.mark.contract
def test_the_fingerprint_of_a_cache_is_that_of_all_its_manifests(tmp_path) -> None:
    build_all(tmp_path, (SOME, make_plan(SOME)))
    alone = CacheReader.open_(tmp_path).fingerprint
    assert alone == read_generation(CacheFolder(tmp_path)).manifest.digest
    build_all(tmp_path, (SOME, make_plan(SOME)), (MORE, make_plan(MORE)))
    parts = read_generations(tmp_path)
    text = "".join(f"{part.manifest.digest}\n" for part in parts)
    assert CacheReader.open_(tmp_path).fingerprint == hashlib.sha256(text.encode()).hexdigest()
    assert fingerprint(parts) != fingerprint(parts[::-1])


@pytest.mark.contract
def test_a_generation_of_another_teacher_is_refused_with_both_sides(tmp_path) -> None:
    weights = Source(fingerprint="a9" * 32, facts={"file": "r50.pt"})
    other = make_plan(MORE).model_copy(
        update={"sources": SOURCES.model_copy(update={"weights": weights})}
    )
    build_all(tmp_path, (SOME, make_plan(SOME)), (MORE, other))
    with pytest.raises(CacheMismatch) as caught:
        CacheReader.open_(tmp_path)
    assert str(caught.value) == "\n".join(
        [
            (
                f"{tmp_path}/generations/001: does not belong to this cache: it was made for "
                "another teacher."
            ),
            "",
            "            cache          001",
            "  weights   4f4f4f4f4f4f   a9a9a9a9a9a9",
            "    file    r101.pt        r50.pt",
            "  model     same",
            "  render    same",
            "  views     same",
            "  axes      same",
            "  columns   same",
            "  build     same",
            "",
            (
                "Parts of one cache must come from one teacher and one view policy. Move this "
                "folder away."
            ),
        ]
    )


@pytest.mark.contract
@pytest.mark.parametrize("name", ["manifest.json", "plan.json", "shards/000000.json"])
def test_a_damaged_document_of_a_generation_is_refused(name, tmp_path) -> None:
    build_all(tmp_path, (SOME, make_plan(SOME)), (MORE, make_plan(MORE)))
    path = tmp_path / "generations" / "001" / name
    path.write_bytes(path.read_bytes()[:-9] + b"x" * 9)
    with pytest.raises(CacheCorrupt, match=rf"generations/001/{name}: is not"):
        CacheReader.open_(tmp_path)


@pytest.mark.law
def test_the_keys_of_a_cache_are_known_from_its_shards(tmp_path) -> None:
    build_all(tmp_path, (SOME, make_plan(SOME)), (MORE, make_plan(MORE)))
    parts = read_generations(tmp_path)
    assert [tuple(map(ViewKey._make, stored_keys(part).tolist())) for part in parts] == [SOME, MORE]
    assert missing_views(parts, KEYS) == []
    assert missing_views(parts[:1], KEYS) == list(MORE)
    assert missing_views((), SOME) == list(SOME)
    strange = (ViewKey(1, 0), *SOME)
    assert missing_views(parts, strange) == [ViewKey(1, 0)]


@pytest.mark.contract
def test_keys_that_are_not_those_of_the_plan_are_refused(tmp_path) -> None:
    build_all(tmp_path, (SOME, make_plan(SOME)))
    part = read_generation(CacheFolder(tmp_path))
    foreign = Generation(part.folder, make_plan(KEYS[:6] + KEYS[8:9]), part.manifest)
    with pytest.raises(CacheCorrupt, match="has shards whose keys are not those of the plan"):
        stored_keys(foreign)
    part.folder.shard(0).write_bytes(b"no shard at all, but long enough")
    with pytest.raises(CacheCorrupt, match=r"000000\.safetensors: cannot be read"):
        stored_keys(part)


@pytest.mark.contract
def test_a_generation_is_no_cache_without_its_root(tmp_path) -> None:
    build(CacheFolder(tmp_path).generation(1).path, make_plan(SOME), SOME)
    with pytest.raises(CacheIncomplete):
        CacheReader.open_(tmp_path)


@pytest.mark.law
def test_rows_below_a_higher_floor_are_left_out(tmp_path) -> None:
    plan = make_plan(KEYS, bbox_logits="fp32", held=["score"])
    build(tmp_path, plan, KEYS, most=40)
    floor = 0.4
    score = plan.coverage.score
    assert score is not None
    region = score.model_copy(update={"floor": floor})
    coverage = make_coverage(["score"]).model_copy(update={"score": region})
    everything = CacheReader.open_(tmp_path).lookup(make_batch(KEYS)).score
    found = CacheReader.open_(tmp_path, Wanted(coverage, frozenset())).lookup(make_batch(KEYS))
    assert everything is not None
    assert found.score is not None
    enough = everything.logit.sigmoid() >= floor
    rows = everything.row[enough].unique()
    assert 0 < len(rows) < len(everything.location)
    assert torch.equal(found.score.location, everything.location[rows])
    assert torch.equal(found.score.bbox_logits, everything.bbox_logits[rows])
    assert torch.equal(found.score.logit, everything.logit[enough])
    assert torch.equal(
        found.score.location[found.score.row], everything.location[everything.row][enough]
    )
