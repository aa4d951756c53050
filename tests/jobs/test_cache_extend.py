"""What is added to a sealed cache later is heard as if it had been there from the start."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ldkit.cache.folder import CacheFolder
from ldkit.cache.reader import CacheReader
from ldkit.errors import CacheCoverage, CacheMismatch
from ldkit.jobs import build_cache, cache_extend, distill
from ldkit.jobs.cache_build_share import WHOLE, Share
from ldkit.jobs.facts import Fact
from ldkit.jobs.progress import Note
from ldkit.recipe.schema import Recipe
from tests.jobs.conftest import World
from tests.jobs.tiny import EVERY_TERM, EXACT, finish, snapshot, steps, told, until, weights

CACHED = distill.Options(device="cpu")
ONE = ("cache.batch_size=1", "cache.shard_mb=0.01")
RANGE = ("views.short_side_px=[40, 96]", "seed=5", "schedule.epochs=3")
SOME = "data.train.annotations=annotations/instances_some.json"


@pytest.fixture(scope="module", autouse=True)
def _some(world: World) -> None:
    """Seven of the ten images, as an annotation file of their own."""
    write_some(world.data)


def write_some(
    data: Path, change: Callable[[Any], None] = lambda _: None, name: str = "some"
) -> None:
    folder = data / "annotations"
    document = json.loads((folder / "instances_train.json").read_text())
    document["images"] = [image for image in document["images"] if image["id"] <= 7]
    document["annotations"] = [row for row in document["annotations"] if row["image_id"] <= 7]
    change(document)
    (folder / f"instances_{name}.json").write_text(json.dumps(document))


def build(recipe: Recipe) -> None:
    finish(build_cache.run(recipe, device="cpu"))


def extend(recipe: Recipe, share: Share = WHOLE) -> bool:
    return finish(cache_extend.run(recipe, device="cpu", share=share))


def check_equal(world: World, folder: Path, first: tuple[str, ...], then: tuple[str, ...]) -> Path:
    """Extend a cache built for `first` to `then`, and train on it and on one built at once."""
    grown, whole = folder / "grown", folder / "whole"
    build(world.student(*first, cache=grown))
    before = snapshot(grown)
    assert extend(world.student(*then, cache=grown))
    after = snapshot(grown)
    assert {name: after[name] for name in before} == before
    build(world.student(*then, cache=whole))
    for cache in (grown, whole):
        finish(distill.run(world.student(*then, cache=cache), folder / f"on_{cache.name}", CACHED))
    assert steps(folder / "on_grown") == steps(folder / "on_whole")
    assert weights(folder / "on_grown") == weights(folder / "on_whole")
    return grown


@pytest.mark.law
def test_groups_that_are_added_train_to_the_bit_like_a_cache_built_at_once(
    world: World, tmp_path: Path
) -> None:
    bare = (*EXACT, *ONE)
    grown = check_equal(world, tmp_path, bare, (*EVERY_TERM, *ONE))
    reader = CacheReader.open_(grown)
    assert [sorted(plan.coverage.model_fields_set) for plan in reader.plans] == [
        ["main"],
        ["cross", "imitation", "main", "score", "vlr"],
    ]
    assert reader.plans[1].columns.main.cls_logits is None


@pytest.mark.law
def test_images_that_are_added_train_to_the_bit_like_a_cache_built_at_once(
    world: World, tmp_path: Path
) -> None:
    grown = check_equal(world, tmp_path, (*EXACT, *ONE, SOME), (*EXACT, *ONE))
    assert [plan.keys.count for plan in CacheReader.open_(grown).plans] == [14, 6]
    finish(distill.run(world.student(*EXACT, *ONE, SOME, cache=grown), tmp_path / "old", CACHED))


@pytest.mark.law
def test_views_that_are_added_train_to_the_bit_like_a_cache_built_at_once(
    world: World, tmp_path: Path
) -> None:
    few, many = "views.count=1", "views.count=3"
    grown = check_equal(world, tmp_path, (*EXACT, *ONE, *RANGE, few), (*EXACT, *ONE, *RANGE, many))
    assert [plan.keys.count for plan in CacheReader.open_(grown).plans] == [10, 20]


@pytest.mark.law
def test_images_and_groups_are_added_in_a_generation_for_what_each_lacks(
    world: World, tmp_path: Path
) -> None:
    vlr = (
        *EXACT,
        "objective.localization.vlr={weight: 1.0, temperature: 2}",
        "cache.vlr={bbox_logits: fp32}",
    )
    grown = check_equal(world, tmp_path, (*EXACT, *ONE, SOME), (*vlr, *ONE))
    root, old, new = CacheReader.open_(grown).plans
    assert (root.keys.count, old.keys.count, new.keys.count) == (14, 14, 6)
    assert (old.columns.main.cls_logits, new.columns.main.cls_logits) == (None, "fp32")


@pytest.mark.contract
def test_a_student_is_told_to_extend_and_then_trains(world: World, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    build(world.student(SOME, cache=cache))
    recipe = world.student("schedule.max_steps=1", cache=cache)
    with pytest.raises(CacheMismatch, match=r"for another data set.*(?s:.)*RECIPE --extend"):
        finish(distill.run(recipe, tmp_path / "run", CACHED))
    with pytest.raises(CacheMismatch, match=r"RECIPE --extend"):
        build(recipe)
    extend(recipe)
    finish(distill.run(recipe, tmp_path / "run", CACHED))


@pytest.mark.contract
def test_a_data_set_that_lacks_nothing_is_added_by_one_view(world: World, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    build(world.student(cache=cache))
    fewer = world.student(SOME, "schedule.max_steps=1", cache=cache)
    with pytest.raises(CacheMismatch, match=r"for another data set.*(?s:.)*RECIPE --extend"):
        finish(distill.run(fewer, tmp_path / "run", CACHED))
    extend(fewer)
    assert [plan.keys.count for plan in CacheReader.open_(cache).plans] == [20, 1]
    finish(distill.run(fewer, tmp_path / "run", CACHED))
    assert cache_extend.outline(fewer)["to add"] == Fact("nothing", [])


@pytest.mark.contract
def test_nothing_is_added_where_nothing_is_missing(world: World) -> None:
    before = snapshot(world.cache)
    (note,) = told(cache_extend.run(world.student(), device="cpu"))
    assert note == Note(f"{world.cache} holds all that this recipe stores.")
    assert snapshot(world.cache) == before


@pytest.mark.contract
def test_an_outline_says_what_would_be_added(world: World) -> None:
    before = snapshot(world.cache)
    recipe = world.student("cache.vlr={}", "cache.score={}")
    facts = cache_extend.outline(recipe)
    assert facts["cache"] == str(world.cache)
    added = facts["to add"]
    assert isinstance(added, Fact)
    assert re.fullmatch(r"vlr, score  20 views, about \d+\.\d KB", added.text)
    assert snapshot(world.cache) == before


@pytest.mark.law
def test_an_extension_that_was_stopped_goes_on(world: World, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    build(world.student(*ONE, cache=cache))
    recipe = world.student("cache.vlr={}", *ONE, cache=cache)
    shards = CacheFolder(cache).generation(1).shards
    job = cache_extend.run(recipe, device="cpu")
    until(job, lambda _: len(list(shards.glob("*.json"))) == 1)
    job.close()
    assert len(CacheReader.open_(cache).generations) == 1
    notes = [
        note.text for note in told(cache_extend.run(recipe, device="cpu")) if isinstance(note, Note)
    ]
    assert notes[0] == f"Adding vlr with 20 views in {cache}/generations/001."
    assert notes[1].startswith("Going on: ")
    assert len(CacheReader.open_(cache).generations) == 2


@pytest.mark.law
def test_several_processes_share_an_extension(world: World, tmp_path: Path) -> None:
    alone, shared = tmp_path / "alone", tmp_path / "shared"
    for cache in (alone, shared):
        build(world.student(*ONE, SOME, cache=cache))
    wanted = ("cache.vlr={}", *ONE)
    assert extend(world.student(*wanted, cache=alone))
    assert not extend(world.student(*wanted, cache=shared), Share(0, 2))
    assert extend(world.student(*wanted, cache=shared), Share(1, 2))
    assert snapshot(alone) == snapshot(shared)
    assert len(CacheReader.open_(shared).generations) == 3


@pytest.mark.law
def test_two_builders_of_an_extension_add_nothing_twice(world: World, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    build(world.student(*ONE, SOME, cache=cache))
    recipe = world.student("cache.vlr={}", *ONE, cache=cache)
    slow = cache_extend.run(recipe, device="cpu", share=WHOLE)
    until(slow, lambda message: isinstance(message, Note) and "Adding" in message.text)
    assert extend(recipe)
    before = snapshot(cache)
    assert finish(slow)
    assert snapshot(cache) == before
    assert len(CacheReader.open_(cache).generations) == 3


@pytest.mark.contract
def test_images_whose_boxes_have_changed_are_refused(world: World, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    build(world.student(SOME, cache=cache))

    def move(document: Any) -> None:
        document["annotations"][0]["bbox"][2] -= 6

    write_some(world.data, move, "moved")
    moved = world.student("data.train.annotations=annotations/instances_moved.json", cache=cache)
    with pytest.raises(CacheMismatch) as caught:
        extend(moved)
    assert str(caught.value) == (
        f"{cache}: image 1, view 0: its rows are not those of the boxes that the image has here.\n"
        "The annotations of this image have changed since the cache was built. Use those of then, "
        "or build a new cache (`--out caches/NAME`)."
    )
    assert not CacheFolder(cache).generations.exists()


@pytest.mark.contract
@pytest.mark.parametrize(
    ("change", "phrase"),
    [
        ("views.short_side_px=48", "another view policy"),
        ("cache.main.bbox_logits=fp32", "other columns"),
    ],
)
def test_what_cannot_stand_in_one_cache_is_refused(world: World, change: str, phrase: str) -> None:
    with pytest.raises(CacheMismatch) as caught:
        extend(world.student(change))
    assert f"{world.cache}: was made for {phrase}." in str(caught.value)
    assert "--extend" not in str(caught.value)


@pytest.mark.contract
def test_a_region_held_otherwise_is_added_beside(world: World, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    build(world.student(cache=cache))
    other = world.student("objective.assign.topk=5", "schedule.max_steps=1", cache=cache)
    with pytest.raises(CacheCoverage, match="RECIPE --extend"):
        finish(distill.run(other, tmp_path / "run", CACHED))
    extend(other)
    finish(distill.run(other, tmp_path / "run", CACHED))
    finish(distill.run(world.student("schedule.max_steps=1", cache=cache), tmp_path / "9", CACHED))
