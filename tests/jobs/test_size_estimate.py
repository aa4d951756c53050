"""The size of a cache, known before an image is read."""

import pytest

from ldkit.jobs import assemble, coverage, size_estimate, sources
from ldkit.jobs.train import Material
from tests.jobs.conftest import World
from tests.jobs.tiny import EVERY_TERM


@pytest.mark.law
def test_an_estimate_is_exact_while_it_looks_at_every_view(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = world.student(*EVERY_TERM)
    assert recipe.cache is not None
    held, _ = coverage.stored(recipe, recipe.cache)
    material = Material.of(recipe)
    keys = sources.planned_keys(recipe, list(material.records))
    grid = assemble.grid(recipe.detector)
    whole = size_estimate.estimate(material.records, material.draw, keys, grid, held)
    monkeypatch.setattr(size_estimate, "SAMPLE", 7)
    sample = size_estimate.estimate(material.records, material.draw, keys, grid, held)
    assert sample.rows == pytest.approx(whole.rows, rel=0.3)
    again = size_estimate.estimate(material.records, material.draw, keys, grid, held)
    assert again == sample


@pytest.mark.contract
def test_an_estimate_reads_no_image(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = world.student(*EVERY_TERM)
    assert recipe.cache is not None
    held, _ = coverage.stored(recipe, recipe.cache)
    material = Material.of(recipe)
    monkeypatch.setattr("ldkit.data.dataset.read_record", lambda _: pytest.fail("an image"))
    keys = sources.planned_keys(recipe, list(material.records))
    found = size_estimate.estimate(
        material.records, material.draw, keys[:2], assemble.grid(recipe.detector), held
    )
    assert found.locations == 64 + 16 + 4 + 1
    assert found.rows.keys() == {"main", "vlr", "imitation", "score", "score_class", "cross"}
    assert found.rows["vlr"] > found.rows["main"] > 0
    assert found.rows["cross"] == 4
