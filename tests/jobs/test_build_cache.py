"""A cache build may die at any time: it goes on, and ends in the same bytes."""

import random
import subprocess
import threading
import time
from pathlib import Path

import pytest

from ldkit.cache.folder import CacheFolder, missing_shards
from ldkit.cache.info import info
from ldkit.cache.reader import CacheReader
from ldkit.errors import CacheIncomplete
from ldkit.jobs import build_cache
from ldkit.jobs.cache_outline import outline
from ldkit.jobs.facts import Fact
from ldkit.jobs.progress import Note, Progress
from ldkit.recipe.load import dump_recipe
from ldkit.recipe.schema import Recipe
from tests.jobs.conftest import MAY_FORK, World
from tests.jobs.tiny import ROOT, environment, finish, python, snapshot, told, until
from tests.system_calls import system_calls

SMALL = ("cache.shard_mb=0.003", "cache.batch_size=2")
"""A few views in each shard."""

SLOW_CHILD = """
import sys, time
from pathlib import Path
import ldkit.jobs.build_cache as job
import ldkit.jobs.cache_build_memory as memory
from ldkit.recipe.load import load_recipe
forward = memory.ask
memory.ask = lambda *given: (time.sleep(0.02), forward(*given))[1]
recipe = load_recipe(sys.argv[1]).recipe
print("begin", flush=True)
for message in job.run(recipe, device="cpu"):
    pass
"""


def build(recipe: Recipe) -> None:
    finish(build_cache.run(recipe, device="cpu"))


@pytest.fixture(scope="module")
def whole(world: World, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The bytes of an undisturbed build."""
    folder = tmp_path_factory.mktemp("whole") / "cache"
    build(world.student(*SMALL, cache=folder))
    found = snapshot(folder)
    assert len(found) >= 2 * 4 + 2
    return found


@pytest.mark.law
def test_a_build_killed_at_random_times_ends_in_the_same_bytes(
    world: World, tmp_path: Path, whole: dict[str, bytes]
) -> None:
    folder, dice = tmp_path / "cache", random.Random(time.time_ns())
    recipe = world.student(*SMALL, cache=folder)
    (tmp_path / "recipe.yaml").write_text(dump_recipe(recipe))
    for _ in range(2):
        with subprocess.Popen(
            python(SLOW_CHILD, tmp_path / "recipe.yaml"),
            cwd=ROOT,
            env=environment(),
            stdout=subprocess.PIPE,
        ) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == b"begin\n"
            time.sleep(dice.uniform(0.02, 0.25))
            receipts = set(folder.glob("shards/0*.json"))
            process.kill()
        left = snapshot(folder)
        assert receipts <= set(folder.glob("shards/0*.json"))
        assert {name: whole[name] for name in left if ".tmp" not in name} == {
            name: content for name, content in left.items() if ".tmp" not in name
        }
    build(recipe)
    assert snapshot(folder) == whole


@pytest.mark.law
@pytest.mark.parametrize("views", [1, 5, 12])
def test_a_stopped_build_goes_on_with_what_is_missing(
    world: World, tmp_path: Path, whole: dict[str, bytes], views: int
) -> None:
    folder = CacheFolder(tmp_path)
    recipe = world.student(*SMALL, cache=tmp_path)
    job = build_cache.run(recipe, device="cpu")
    last = until(job, lambda told: isinstance(told, Progress) and told.done >= views)
    job.close()
    assert not writing_threads()
    with pytest.raises(CacheIncomplete):
        CacheReader.open_(tmp_path)
    plan = build_cache.order(recipe).plan
    missing = missing_shards(folder, plan)
    done = plan.keys.count - sum(len(plan.views_of(shard)) for shard in missing)
    assert isinstance(last, Progress)
    assert last.done - plan.build.views_per_shard < done <= last.done  # nothing taken is lost
    finished = {path: path.stat().st_mtime_ns for path in folder.shards.glob("*")}
    said = told(build_cache.run(recipe, device="cpu"))
    if done:
        text = f"Going on: {plan.shards - len(missing)} of {plan.shards} shards of {tmp_path}"
        assert said[0] == Note(f"{text} are complete.")
    assert {path: path.stat().st_mtime_ns for path in finished} == finished
    left = plan.keys.count - done
    assert said[-1] == Progress(left, left, "views")
    assert snapshot(tmp_path) == whole


def writing_threads() -> list[str]:
    """Return the threads that write shards and are alive."""
    return [each.name for each in threading.enumerate() if each.name.startswith("ldkit-shards")]


@pytest.mark.contract
def test_an_interrupt_waits_for_what_is_being_written(world: World, tmp_path: Path) -> None:
    recipe = world.student(*SMALL, cache=tmp_path)
    job = build_cache.run(recipe, device="cpu")
    until(job, lambda told: isinstance(told, Progress) and told.done >= 8)
    with pytest.raises(KeyboardInterrupt):
        job.throw(KeyboardInterrupt)
    assert not writing_threads()
    assert not list(tmp_path.rglob("*.tmp"))
    shards, receipts = (list(tmp_path.glob(f"shards/*.{kind}")) for kind in ("safe*", "json"))
    assert len(shards) == len(receipts) >= 1


@pytest.mark.law
def test_nothing_is_named_before_it_is_durable(world: World, tmp_path: Path) -> None:
    folder = tmp_path / "cache"
    with system_calls(folder) as calls:
        build(world.student(*SMALL, cache=folder))
    written = [call.split()[-1] for call in calls if call.startswith(("link ", "rename "))]
    assert written[0] == "plan.json"
    assert written[-1] == "manifest.json"
    shards = written[1:-1]
    assert len(shards) == 2 * len(set(map(stem, shards)))
    for shard, receipt in zip(shards[::2], shards[1::2], strict=True):
        assert (shard, receipt) == (f"{stem(shard)}.safetensors", f"{stem(shard)}.json")
    for name in written:
        path = Path(name)
        position = next(n for n, call in enumerate(calls) if call.endswith(f"~ {name}"))
        assert calls[position - 1] == f"sync {path.with_name(f'.{path.name}~')}"
        assert calls[position + 1] == f"sync {path.parent}"  # before anything else is begun


def stem(name: str) -> str:
    """Return the path of a shard or receipt without its ending."""
    return name.partition(".")[0]


@pytest.mark.law
def test_a_lost_shard_alone_is_built_anew(
    world: World, tmp_path: Path, whole: dict[str, bytes]
) -> None:
    recipe = world.student(*SMALL, cache=tmp_path)
    build(recipe)
    CacheFolder(tmp_path).shard(1).unlink()
    build(recipe)
    assert snapshot(tmp_path) == whole


@pytest.mark.contract
def test_a_complete_cache_is_left_as_it_is(world: World, tmp_path: Path) -> None:
    recipe = world.student(cache=tmp_path)
    build(recipe)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.*")}
    content = snapshot(tmp_path)
    (note,) = told(build_cache.run(recipe, device="cpu"))
    assert note == Note(f"{tmp_path} is complete already.")
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert snapshot(tmp_path) == content


@pytest.mark.contract
def test_a_shard_that_is_written_anew_beside_the_seal_is_left_to_its_builder(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def seal(*_: object) -> None:
        raise CacheIncomplete("is not sealed: 2 of 3 shards are complete.")

    monkeypatch.setattr(build_cache.writer, "seal", seal)
    assert finish(build_cache.run(world.student(cache=tmp_path / "c"), device="cpu")) is False


@pytest.mark.law
@MAY_FORK
def test_other_processes_that_load_change_no_byte(
    world: World, tmp_path: Path, whole: dict[str, bytes]
) -> None:
    build(world.student(*SMALL, "data.workers=2", cache=tmp_path))
    assert snapshot(tmp_path) == whole


@pytest.mark.contract
def test_the_size_is_known_before_anything_runs(world: World, tmp_path: Path) -> None:
    recipe = world.student(*SMALL, cache=tmp_path / "cache")
    order = build_cache.order(recipe)
    assert not order.folder.exists()
    build(recipe)
    found = info(order.folder)
    assert found.plan == order.plan
    assert found.views == len(order.keys) == 20
    assert found.rows_per_view == pytest.approx(order.size.rows["main"])
    columns = sum(size for name, size in found.column_bytes.items() if name.startswith("main."))
    assert order.bytes_per_view("main") == pytest.approx(
        (columns - found.column_bytes["main.offsets"]) / found.views, rel=0.01
    )
    assert order.dense_bytes_per_view == pytest.approx(found.dense_bytes / found.views)


@pytest.mark.contract
def test_an_outline_says_what_would_be_built_and_what_is_left(world: World, tmp_path: Path) -> None:
    recipe = world.student(*SMALL, cache=tmp_path / "cache")
    shards = build_cache.order(recipe).plan.shards
    facts = outline(recipe)
    assert facts["cache"] == str(tmp_path / "cache")
    assert facts["views"] == Fact("20 of 10 images", {"count": 20, "images": 10})
    assert facts["shards"] == to_build(shards, shards)
    assert not (tmp_path / "cache").exists()
    build(recipe)
    assert outline(recipe)["shards"] == to_build(0, shards)


def to_build(missing: int, shards: int) -> Fact:
    return Fact(f"{missing} to build of {shards}", {"missing": missing, "of": shards})


@pytest.mark.contract
def test_columns_that_a_recipe_leaves_out_are_not_stored(world: World, tmp_path: Path) -> None:
    build(world.student("cache.main.cls_logits=null", cache=tmp_path))
    assert "main.cls_logits" not in info(tmp_path).column_bytes
