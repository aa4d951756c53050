"""Four levels of proof: each finds what it is for, names itself, and says what it proved."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from ldkit.cache.folder import CacheFolder
from ldkit.cache.verify import read_sealed
from ldkit.errors import CacheCorrupt, CacheIncomplete, CacheMismatch, UsageError
from ldkit.jobs import build_cache, cache_proof, cache_verify, train_teacher
from ldkit.jobs.cache_proof import Part
from ldkit.jobs.cache_verify import LEVELS, Options, Report
from ldkit.jobs.facts import Fact
from ldkit.jobs.progress import Progress
from ldkit.recipe.schema import Recipe
from ldkit.structures import ViewKey
from tests.cache import forgery
from tests.jobs.conftest import World
from tests.jobs.tiny import EVERY_TERM, finish, teacher_recipe, told

SMALL = ("cache.shard_mb=0.02", "cache.batch_size=2")


@pytest.fixture(scope="module")
def every(world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache of every group, in fp32."""
    folder = tmp_path_factory.mktemp("every") / "cache"
    finish(build_cache.run(everything(world, folder), device="cpu"))
    return folder


def everything(world: World, folder: Path) -> Recipe:
    return world.student(*EVERY_TERM, *SMALL, cache=folder)


@pytest.fixture
def cache(every: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(every, tmp_path / "cache"))


def report(cache: Path, level: str | None = None, recipe: Recipe | None = None) -> Report:
    options = Options(level, recipe, views=5, device="cpu")
    found: Report = finish(cache_verify.run(str(cache), options))
    return found


def value(found: Report, level: str) -> dict[str, Any]:
    fact = found.facts[level]
    assert isinstance(fact, Fact)
    assert isinstance(fact.value, dict)
    return fact.value


def text(found: Report, level: str) -> str:
    fact = found.facts[level]
    return fact.text if isinstance(fact, Fact) else fact


@pytest.mark.law
def test_a_cache_is_proved_at_every_level_by_its_own_recipe(world: World, every: Path) -> None:
    found = report(every, "teacher", everything(world, every))
    assert found.error is None
    assert [value(found, level)["proved"] for level in LEVELS] == [True] * 4
    assert text(found, "pixels").startswith("proved: 20 views show the pixels that the teacher saw")
    assert text(found, "teacher").startswith("proved: 5 views asked again; largest differences:\n")
    gaps = value(found, "teacher")["gaps"]
    assert set(gaps) >= {
        "main.bbox_logits",
        "main.cls_logits",
        "vlr.bbox_logits",
        "vlr.cls_logits",
        "imitation.features",
        "score.bbox_logits",
        "score_class.logit",
        "cross.mean",
        "cross.std",
    }
    assert all(gap["values"] > 0 for gap in gaps.values())
    assert all(gap["largest"] < 1e-4 for gap in gaps.values())


@pytest.mark.law
@pytest.mark.parametrize("codec", ["fp16", "u8"])
def test_what_a_codec_rounds_is_within_what_is_allowed(
    codec: str, world: World, tmp_path: Path
) -> None:
    columns = [f"cache.main.bbox_logits={codec}", f"cache.vlr={{bbox_logits: {codec}}}"]
    recipe = world.student(*columns, "cache.shard_mb=0.02", cache=tmp_path)
    finish(build_cache.run(recipe, device="cpu"))
    found = report(tmp_path, "teacher", recipe)
    assert found.error is None
    for name in ("main.bbox_logits", "vlr.bbox_logits"):
        gap = value(found, "teacher")["gaps"][name]
        assert gap["largest"] > 0
        assert 0.01 < gap["excess"] < 1
        assert 0 < gap["bins"] < 0.1


@pytest.mark.contract
def test_without_a_recipe_the_bytes_are_proved_and_with_one_the_pixels(
    world: World, every: Path
) -> None:
    assert list(report(every).facts) == ["cache", "structure", "bytes"]
    found = report(every, recipe=everything(world, every))
    assert list(found.facts) == ["cache", "structure", "bytes", "pixels"]
    assert list(report(every, "structure").facts) == ["cache", "structure"]


@pytest.mark.contract
def test_every_level_tells_how_far_it_is(world: World, every: Path) -> None:
    options = Options("teacher", everything(world, every), views=3, device="cpu")
    messages = [m for m in told(cache_verify.run(str(every), options)) if isinstance(m, Progress)]
    last = {message.unit: message for message in messages}
    shards = last["shards"].total
    assert shards > 3
    assert last == {
        "shards": Progress(shards, shards, "shards"),
        "views": Progress(20, 20, "views"),
        "views asked again": Progress(3, 3, "views asked again"),
    }


@pytest.mark.contract
def test_a_level_that_needs_a_recipe_says_so(every: Path) -> None:
    for level in ("pixels", "teacher"):
        with pytest.raises(UsageError, match=f"the level {level} needs the data set") as caught:
            report(every, level)
        assert "ldkit cache verify PATH RECIPE" in caught.value.hint
    with pytest.raises(UsageError, match="is no level of proof: 'all'"):
        report(every, "all")


def flip(path: Path, place: int) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


def swapped(folder: CacheFolder) -> None:
    """Put one shard in the place of another, and let it vouch for itself."""
    content = folder.shard(0).read_bytes()
    forgery.forge_content(folder.path, 1, content)


def other_number(folder: CacheFolder) -> None:
    """Make one logit larger, and sign everything anew."""

    def change(columns: forgery.Arrays) -> None:
        columns["main.bbox_logits"][...] += 1.0

    for number in range(len(list(folder.shards.glob("*.json")))):
        forgery.forge_columns(folder.path, number, change)


def other_crc(folder: CacheFolder) -> None:
    def change(columns: forgery.Arrays) -> None:
        columns["view.pixels_crc32"][0] ^= 1

    forgery.forge_columns(folder.path, 0, change)


def other_box(folder: CacheFolder) -> None:
    def change(columns: forgery.Arrays) -> None:
        columns["vlr.gt_index"][0] = 77

    forgery.forge_columns(folder.path, 0, change)


def other_keys(folder: CacheFolder) -> None:
    """Make the last view of a shard another one, and sign everything anew."""

    def change(columns: forgery.Arrays) -> None:
        columns["view.index"][-1] = 7

    forgery.forge_columns(folder.path, 0, change)
    forgery.forge_manifest(folder.path, lambda m: m["receipts"][0]["last_key"].__setitem__(1, 7))


Damage = Callable[[CacheFolder], object]
DAMAGES: dict[str, tuple[Damage, str, str, type[Exception]]] = {
    "a flipped byte": (
        lambda f: flip(f.shard(1), middle_of_logits(f.shard(1))),
        "bytes",
        "is not what was written.\n  expected sha256",
        CacheCorrupt,
    ),
    "a swapped shard": (swapped, "structure", "", CacheCorrupt),
    "a truncated shard": (
        lambda f: f.shard(2).write_bytes(f.shard(2).read_bytes()[:-1]),
        "structure",
        "bytes; its receipt says",
        CacheCorrupt,
    ),
    "a duplicated receipt": (
        lambda f: shutil.copy(f.receipt(0), f.receipt(1)),
        "structure",
        "is not the receipt that manifest.json holds.",
        CacheCorrupt,
    ),
    "an edited plan": (
        lambda f: f.plan.write_bytes(f.plan.read_bytes().replace(b'"ldkit":"', b'"ldkit":"9')),
        "structure",
        "is not what was written.\n  expected sha256",
        CacheCorrupt,
    ),
    "other views": (
        other_keys,
        "structure",
        "has shards whose keys are not those of the plan.\n  expected sha256",
        CacheCorrupt,
    ),
    "another checksum": (other_crc, "pixels", "is not the picture the teacher saw", CacheMismatch),
    "a box that is not there": (other_box, "pixels", "a row belongs to box 77", CacheMismatch),
    "other logits": (
        other_number,
        "teacher",
        "does not hold what this teacher says of these views:\n  main.bbox_logits differs by up to",
        CacheMismatch,
    ),
}


def middle_of_logits(path: Path) -> int:
    """Return the place of the lowest byte of a logit: what it becomes is as good a number."""
    content = path.read_bytes()
    start, stop = forgery.header_of(content)["main.bbox_logits"]["data_offsets"]
    return forgery.tensors_from(content) + (start + stop) // 8 * 4


@pytest.mark.contract
@pytest.mark.parametrize("name", DAMAGES)
def test_each_damage_is_caught_at_a_named_level(name: str, world: World, cache: Path) -> None:
    damage, level, message, kind = DAMAGES[name]
    damage(CacheFolder(cache))
    found = report(cache, "teacher", everything(world, cache))
    assert type(found.error) is kind
    number = LEVELS.index(level) + 1
    assert found.error.message.startswith(f"fails at level {number} ({level}): ")
    assert message in found.error.message
    assert found.error.where.startswith(str(cache))
    assert found.error.hint
    before = LEVELS[: number - 1]
    assert all(value(found, each)["proved"] for each in before)
    assert value(found, level)["proved"] is False
    assert text(found, level).startswith("FAILED: ")


@pytest.mark.contract
def test_all_damaged_shards_are_told_at_once(every: Path, cache: Path) -> None:
    folder = CacheFolder(cache)
    shards = len(list(folder.shards.glob("*.json")))
    for number in range(shards):
        flip(folder.shard(number), middle_of_logits(folder.shard(number)))
    found = report(cache)
    assert found.error is not None
    assert found.error.where == str(folder.shard(0))
    assert f"\n  and {folder.shard(1)}\n" in found.error.message
    assert found.error.message.endswith(f"\n  and {shards - 4} more")
    assert text(found, "bytes") == f"FAILED: {shards} of {shards} shards"
    assert value(report(every), "bytes")["faulty"] == 0


@pytest.mark.contract
def test_what_was_not_reached_says_so(world: World, cache: Path) -> None:
    CacheFolder(cache).shard(0).unlink()
    found = report(cache, "teacher", everything(world, cache))
    assert value(found, "structure")["proved"] is False
    assert value(found, "bytes")["proved"] is False
    assert text(found, "pixels") == text(found, "teacher") == "not reached"
    assert value(found, "teacher")["proved"] is None


@pytest.mark.contract
def test_a_cache_that_is_not_sealed_is_told_as_ever(cache: Path) -> None:
    CacheFolder(cache).manifest.unlink()
    with pytest.raises(CacheIncomplete, match="is not sealed"):
        report(cache)


@pytest.mark.contract
def test_another_image_is_found_by_its_pixels(world: World, cache: Path, tmp_path: Path) -> None:
    data = Path(shutil.copytree(world.data, tmp_path / "data"))
    picture = data / "train" / "3.png"
    pixels = cv2.imread(str(picture))
    pixels[0, 0] ^= 1
    assert cv2.imwrite(str(picture), np.ascontiguousarray(pixels))
    recipe = everything(world, cache)
    moved = recipe.model_copy(update={"data": recipe.data.model_copy(update={"root": str(data)})})
    found = report(cache, recipe=moved)
    assert isinstance(found.error, CacheMismatch)
    assert "image 3, view 0 is not the picture the teacher saw" in found.error.message
    assert text(found, "pixels") == "FAILED: 2 of 20 views"


@pytest.mark.contract
def test_every_view_of_a_batch_that_is_another_counts(world: World, cache: Path) -> None:
    def change(columns: forgery.Arrays) -> None:
        offsets = columns["vlr.offsets"]
        rows = offsets[:-1][np.diff(offsets) > 0][:3]
        columns["vlr.gt_index"][rows] = 77

    forgery.forge_columns(cache, 0, change)
    found = report(cache, recipe=everything(world, cache))
    assert text(found, "pixels") == "FAILED: 3 of 20 views"


@pytest.mark.contract
def test_another_data_set_or_view_policy_is_told_field_by_field(world: World, cache: Path) -> None:
    recipe = world.student(*EVERY_TERM, *SMALL, "views.short_side_px=96", cache=cache)
    found = report(cache, recipe=recipe)
    assert isinstance(found.error, CacheMismatch)
    assert "was made for another view policy" in found.error.message
    assert "views.short_side_px" in found.error.message or "short_side_px" in found.error.message


@pytest.mark.contract
def test_another_teacher_is_told_before_it_is_asked(
    world: World, cache: Path, tmp_path: Path
) -> None:
    finish(train_teacher.run(teacher_recipe(world.data, "seed=5"), tmp_path / "run", device="cpu"))
    other = f"teacher.checkpoint={tmp_path / 'run' / 'model.pt'}"
    recipe = world.student(*EVERY_TERM, *SMALL, other, cache=cache)
    assert report(cache, "pixels", recipe).error is None
    found = report(cache, "teacher", recipe)
    assert isinstance(found.error, CacheMismatch)
    assert "was made for another teacher" in found.error.message


@pytest.mark.contract
def test_the_seed_decides_which_views_are_asked_again(every: Path) -> None:
    parts = [Part(each, [ViewKey(n, 0) for n in range(99)]) for each in read_sealed(every)]
    drawn = [cache_proof.sample(parts, 5, seed) for seed in (0, 0, 1)]
    assert drawn[0] == drawn[1] != drawn[2]


@pytest.mark.contract
def test_files_of_killed_builds_are_listed_and_harmless(cache: Path) -> None:
    (cache / "shards" / ".000001.safetensors.77.tmp").write_bytes(b"half")
    found = report(cache)
    assert found.error is None
    assert text(found, "left over") == (
        "1 file that no reader looks at: shards/.000001.safetensors.77.tmp"
    )
