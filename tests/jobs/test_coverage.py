"""What a recipe stores and what its objective reads are told from the same sections."""

import pytest

from ldkit.errors import UsageError
from ldkit.jobs import coverage
from ldkit.recipe.schema import Recipe
from tests.jobs.conftest import World
from tests.jobs.tiny import EVERY_TERM


def stored(recipe: Recipe) -> coverage.Stored:
    assert recipe.cache is not None
    return coverage.stored(recipe, recipe.cache)


@pytest.mark.contract
def test_main_ld_reads_box_logits_of_the_main_region_alone(world: World) -> None:
    wanted = coverage.wanted(world.student())
    assert wanted.columns == {"main.bbox_logits"}
    assert wanted.coverage.model_fields_set == {"main"}


@pytest.mark.contract
def test_every_term_reads_what_a_cache_of_every_group_stores(world: World) -> None:
    recipe = world.student(*EVERY_TERM)
    held, columns = stored(recipe)
    wanted = coverage.wanted(recipe)
    assert wanted.coverage == held
    assert wanted.columns <= coverage.everything(held, columns).columns


@pytest.mark.contract
def test_what_is_not_stored_is_not_set_in_a_plan(world: World) -> None:
    held, columns = stored(world.student("cache.score={}"))
    assert held.model_fields_set == columns.model_fields_set == {"main", "score"}


@pytest.mark.contract
def test_gi_reads_nothing_that_a_cache_could_hold(world: World) -> None:
    recipe = world.student("objective.imitation={region: gi}")
    assert coverage.wanted(recipe) == coverage.wanted(world.student())


@pytest.mark.contract
def test_a_cache_without_what_a_term_reads_is_not_begun(world: World) -> None:
    recipe = world.student(
        "objective.localization.vlr={}",
        "objective.classification_kd.main={kind: binary}",
        "objective.imitation={region: inside_gt}",
        "objective.score.box={weight: 1}",
        "cache.main.cls_logits=null",
    )
    with pytest.raises(UsageError) as caught:
        stored(recipe)
    assert str(caught.value) == (
        "student: the objective reads rows that the cache section does not store:\n"
        "  objective.localization.vlr reads vlr.bbox_logits: `--set 'cache.vlr={}'`\n"
        "  objective.classification_kd.main reads main.cls_logits: "
        "`--set 'cache.main.cls_logits=fp16'`\n"
        "  objective.imitation reads imitation.features: "
        "`--set 'cache.imitation={region: inside_gt}'`\n"
        "  objective.score.box reads score.bbox_logits, score_class.logit: "
        "`--set 'cache.score={}'`\n"
        "Store them, or set the terms to null. `--dry-run` shows what they weigh."
    )
