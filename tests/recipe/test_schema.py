import pytest
from pydantic import ValidationError

from ldkit.recipe.detector import Detector, SmallBackbone, TimmBackbone, backbone_kind
from ldkit.recipe.load import load_recipe, shipped_recipes
from ldkit.recipe.schema import Recipe
from ldkit.recipe.section import Section


def sections(section: Section) -> list[Section]:
    inner = [value for _, value in section if isinstance(value, Section)]
    return [section, *(found for value in inner for found in sections(value))]


@pytest.mark.contract
@pytest.mark.parametrize("name", shipped_recipes())
def test_a_recipe_survives_json_and_never_changes(name: str) -> None:
    recipe = load_recipe(name).recipe
    assert Recipe.model_validate_json(recipe.model_dump_json()) == recipe
    assert hash(recipe) == hash(load_recipe(name).recipe)
    for section in sections(recipe):
        field = next(iter(type(section).model_fields))
        with pytest.raises(ValidationError, match="frozen"):
            setattr(section, field, None)


@pytest.mark.contract
def test_the_detector_that_is_trained_is_the_student_or_the_model() -> None:
    alone, taught = load_recipe("coco/gfl_r18").recipe, load_recipe("coco/ld_r18_r101").recipe
    assert alone.detector is alone.model
    assert taught.detector is taught.student
    assert alone.detector == taught.detector


@pytest.mark.contract
def test_a_detector_section_reads_back_from_the_json_of_a_model_file() -> None:
    for name in ("coco/gfl_r18", "shapes/teacher"):
        detector = load_recipe(name).recipe.detector
        assert Detector.model_validate_json(detector.model_dump_json()) == detector


@pytest.mark.contract
def test_a_backbone_is_small_by_that_name_only() -> None:
    small, timm = SmallBackbone(name="small"), TimmBackbone(name="resnet18")
    kinds = [backbone_kind(v) for v in (small, timm, {"name": "small"}, {"name": "x"}, {}, 5)]
    assert kinds == ["small", "timm", "small", "timm", "timm", "timm"]
