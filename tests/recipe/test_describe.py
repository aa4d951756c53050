import pytest

from ldkit.errors import RecipeError
from ldkit.recipe.describe import closest, describe, describe_all, keys_named, kinds_of, names_in
from ldkit.recipe.load import leaves, load_recipe, shipped_recipes


@pytest.mark.contract
def test_every_section_and_every_key_has_a_text() -> None:
    for section in describe_all():
        assert section.text.endswith("."), section.key
        for key in section.keys:
            assert key.text, key.key
            assert key.text[-1] in ".:", key.key


@pytest.mark.contract
@pytest.mark.parametrize("name", shipped_recipes())
def test_every_key_of_a_recipe_is_described(name: str) -> None:
    described = {key.key for section in describe_all() for key in section.keys}
    sections = {section.key for section in describe_all()}
    for key, value in leaves(load_recipe(name).document):
        assert key in described or (key in sections and value is None)


@pytest.mark.contract
def test_a_section_is_described_with_those_inside_it() -> None:
    found = describe("objective.localization")
    assert [section.key for section in found] == [
        "objective.localization",
        "objective.localization.main",
        "objective.localization.vlr",
    ]
    rows = {key.key.rpartition(".")[2]: key for key in found[1].keys}
    assert found[1].default == "null"
    assert rows["weight"].type == "number >= 0"
    assert rows["temperature"].type == "number > 0"
    assert rows["temperature"].default == "10.0"
    assert rows["normalizer"].type == "paper | weights"


@pytest.mark.contract
def test_types_read_as_words() -> None:
    types = {key.key: key.type for section in describe_all() for key in section.keys}
    assert types["views.short_side_px"] == (
        "whole number > 0 | [whole number > 0, whole number > 0]"
    )
    assert types["views.flip"] == "number 0 to 1"
    assert types["views.count"] == "whole number >= 1 | null"
    assert types["model.backbone.pretrained"] == "true | false | text"
    assert types["model.fpn.levels"] == "list of whole number 2 to 9"
    assert types["optim.betas"] == "[number 0 to below 1, number 0 to below 1]"
    assert types["cache.main.cls_logits"] == "fp32 | fp16 | null"
    assert types["cache.imitation.region"] == "main | inside_gt | fine_grained"
    assert types["objective.imitation.stop_step"] == "whole number > 0 | null"
    assert types["objective.vlr.floor"] == "number 0 to below 1"


@pytest.mark.contract
def test_each_kind_is_described_on_its_own() -> None:
    assert [section.kind for section in describe("optim")] == ["kind: sgd", "kind: adamw"]
    assert kinds_of("schedule") == ("milestones", "cosine")
    assert "momentum" in names_in("optim", "sgd")
    assert "momentum" not in names_in("optim", "adamw")
    assert "width" in names_in("student.backbone", "small")
    assert "width" not in names_in("student.backbone", "resnet18")
    assert kinds_of("objective.classification_kd.main") == ("softmax", "binary")
    assert kinds_of("objective.classification_kd.vlr") == ("softmax", "binary")


@pytest.mark.contract
def test_a_term_is_described_with_its_kind_first_and_its_schedule_last() -> None:
    terms = [
        section
        for section in describe("objective")
        if any(key.key.endswith(".stop_step") for key in section.keys)
    ]
    assert len({section.key for section in terms}) == 9
    for section in terms:
        names = [key.key.rpartition(".")[2] for key in section.keys]
        assert names[-2:] == ["warmup_steps", "stop_step"], section.key
        assert "kind" not in names[1:], section.key
        assert section.default == "null"


@pytest.mark.contract
def test_every_term_tells_its_name_in_the_log() -> None:
    texts = {section.key: section.text for section in describe("objective")}
    recipe = load_recipe("coco/full_r18_r101").recipe
    for key, name, _ in recipe.objective.distillation_terms():
        assert f"({name})" in texts[key]


@pytest.mark.contract
def test_a_single_key_is_described_in_its_section() -> None:
    (section,) = describe("train.batch_size")
    assert section.key == "train"
    assert [key.key for key in section.keys] == ["train.batch_size"]


@pytest.mark.contract
def test_an_unknown_section_is_refused_with_the_nearest() -> None:
    with pytest.raises(RecipeError, match="optm: there is no such section") as caught:
        describe("optm")
    assert caught.value.hint == "Did you mean `optim`?"
    with pytest.raises(RecipeError) as caught:
        describe("qqqqqq")
    assert caught.value.hint.startswith("A recipe holds: name, seed, data, views, model")


@pytest.mark.contract
def test_suggestions_know_near_words_and_keys_of_other_sections() -> None:
    assert closest("temprature", ["weight", "temperature"]) == ["temperature"]
    assert closest("xyz", ["weight", "temperature"]) == []
    assert keys_named("lr") == ("optim.lr",)
    assert keys_named("batch_size") == ("cache.batch_size", "train.batch_size", "eval.batch_size")
