"""The objective sections: which terms are on, under which names."""

import pytest

from ldkit.recipe.load import load_recipe
from ldkit.recipe.objective import (
    BinaryKd,
    ClassificationKd,
    Cross,
    Imitation,
    Localization,
    LocalizationTerm,
    Objective,
    Scheduled,
    Score,
    ScoreTerm,
    SoftmaxKd,
    ValuableRegion,
)
from ldkit.structures import LossTerms

pytestmark = pytest.mark.contract

EVERYTHING = Objective(
    vlr=ValuableRegion(overlap="published"),
    localization=Localization(main=LocalizationTerm(), vlr=LocalizationTerm(stop_step=9)),
    classification_kd=ClassificationKd(main=SoftmaxKd(kind="softmax"), vlr=BinaryKd(kind="binary")),
    imitation=Imitation(region="gi"),
    score=Score(floor=0.1, classification=ScoreTerm(weight=1.0), box=ScoreTerm(weight=4.0)),
    cross=Cross(after=2, classification=ScoreTerm(weight=1.0), box=ScoreTerm(weight=4.0)),
)


def test_every_term_that_is_on_has_its_key_and_the_name_of_its_loss() -> None:
    terms = list(EVERYTHING.distillation_terms())
    assert [name for _, name, _ in terms] == [
        *("ld_main", "ld_vlr", "kd_main", "kd_vlr", "imitation"),
        *("score_cls", "score_box", "cross_cls", "cross_box"),
    ]
    assert {name for _, name, _ in terms} <= set(LossTerms._fields)
    for key, _, section in terms:
        assert isinstance(section, Scheduled)
        found: object = EVERYTHING
        for part in key.removeprefix("objective.").split("."):
            found = getattr(found, part)
        assert found is section


def test_without_distillation_only_the_terms_go() -> None:
    alone = EVERYTHING.without_distillation()
    assert list(alone.distillation_terms()) == []
    assert alone == Objective(
        vlr=ValuableRegion(overlap="published"), score=Score(floor=0.1), cross=Cross(after=2)
    )
    for student in ("full_r18_r101", "bckd_r18_r101", "crosskd_r18_r101"):
        recipe = load_recipe(f"coco/{student}").recipe
        weight_sum = recipe.objective.weight_sum
        gfl = load_recipe("coco/gfl_r18", [f"objective.weight_sum={weight_sum}"]).recipe.objective
        assert recipe.objective.without_distillation() == gfl


def test_a_term_of_weight_zero_is_on_and_a_null_one_is_off() -> None:
    recipe = load_recipe("coco/full_r18_r101", ["objective.localization.vlr.weight=0"]).recipe
    assert [name for _, name, _ in recipe.objective.distillation_terms()] == [
        *("ld_main", "ld_vlr", "kd_main")
    ]
    recipe = load_recipe("coco/full_r18_r101", ["objective.localization.vlr=null"]).recipe
    assert [name for _, name, _ in recipe.objective.distillation_terms()] == ["ld_main", "kd_main"]
