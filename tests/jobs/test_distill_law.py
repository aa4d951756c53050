"""THE law: a student on a cache hears what it would hear from the teacher itself."""

from pathlib import Path

import pytest

from ldkit.jobs import build_cache, distill
from ldkit.recipe.schema import Recipe
from tests.jobs.conftest import MAY_FORK, World
from tests.jobs.tiny import EVERY_TERM, finish, steps, weights

ONLINE = distill.Options(source=distill.Source.ONLINE, device="cpu")
CACHED = distill.Options(source=distill.Source.CACHE, device="cpu")
LONG = ("schedule.epochs=3",)


def both(recipe: Recipe, folder: Path) -> tuple[Path, Path]:
    """Distill twice, from the live teacher and from the cache, which is built here."""
    online, cached = folder / "online", folder / "cached"
    finish(distill.run(recipe, online, ONLINE))
    finish(build_cache.run(recipe, device="cpu"))
    finish(distill.run(recipe, cached, CACHED))
    return online, cached


def largest_gap(online: Path, cached: Path) -> float:
    """Return the largest relative difference of any term of any step."""
    pairs = list(zip(steps(online), steps(cached), strict=True))
    assert [a for (a, _), _ in pairs] == [b for _, (b, _) in pairs]
    return max(
        abs(terms[name] - other[name]) / abs(terms[name])
        for (_, terms), (_, other) in pairs
        for name in terms
    )


@pytest.mark.law
@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_a_float32_cache_trains_to_the_bit_like_the_live_teacher_on_equal_batches(
    world: World, tmp_path: Path, optimizer: str
) -> None:
    recipe = world.exact(
        *LONG, "cache.batch_size=1", f"optim={{kind: {optimizer}, lr: 0.002}}", cache=tmp_path / "c"
    )
    online, cached = both(recipe, tmp_path)
    assert len(steps(online)) == 12
    assert all(terms["ld_main"] > 1e-3 for _, terms in steps(online))
    assert steps(online) == steps(cached)
    assert weights(online) == weights(cached)


@pytest.mark.law
def test_every_term_hears_from_a_float32_cache_what_the_live_teacher_says(
    world: World, tmp_path: Path
) -> None:
    recipe = world.student(*EVERY_TERM, *LONG, "cache.batch_size=1", cache=tmp_path / "c")
    online, cached = both(recipe, tmp_path)
    names = {name for _, name, _ in recipe.objective.distillation_terms()}
    assert len(names) == 9
    for _, terms in steps(online):
        assert all(terms[name] > 1e-4 for name in names)
    assert steps(online) == steps(cached)
    assert weights(online) == weights(cached)


@pytest.mark.law
def test_every_term_hears_it_in_batches_of_many_canvases(world: World, tmp_path: Path) -> None:
    recipe = world.student(
        *EVERY_TERM,
        *LONG,
        "cache.batch_size=4",
        "optim={kind: sgd, lr: 0.002}",
        cache=tmp_path / "c",
    )
    online, cached = both(recipe, tmp_path)
    assert largest_gap(online, cached) < 1e-4


@pytest.mark.law
@pytest.mark.parametrize("normalizer", ["weights", "paper"])
def test_batches_of_other_images_change_the_losses_by_rounding_only(
    world: World, tmp_path: Path, normalizer: str
) -> None:
    chosen = f"objective.localization.main.normalizer={normalizer}"
    recipe = world.exact(
        *LONG, "cache.batch_size=4", "optim={kind: sgd, lr: 0.002}", chosen, cache=tmp_path / "c"
    )
    online, cached = both(recipe, tmp_path)
    assert largest_gap(online, cached) < 1e-5


@pytest.mark.law
def test_a_float16_cache_changes_the_losses_by_its_rounding_only(
    world: World, tmp_path: Path
) -> None:
    recipe = world.student(*LONG, "cache.batch_size=1", cache=tmp_path / "c")
    online, cached = both(recipe, tmp_path)
    assert 0 < largest_gap(online, cached) < 1e-3


@pytest.mark.law
def test_views_of_many_sizes_replay_to_the_bit(world: World, tmp_path: Path) -> None:
    sizes = ("views.short_side_px=[40, 96]", "views.count=3", "seed=5", "cache.batch_size=1")
    recipe = world.exact(*LONG, *sizes, cache=tmp_path / "c")
    online, cached = both(recipe, tmp_path)
    assert steps(online) == steps(cached)
    assert weights(online) == weights(cached)


@pytest.mark.law
@MAY_FORK
def test_loading_in_other_processes_changes_nothing(world: World, tmp_path: Path) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    finish(distill.run(world.student(), here, CACHED))
    finish(distill.run(world.student("data.workers=2"), there, CACHED))
    assert steps(here) == steps(there)
