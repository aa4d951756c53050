"""Words of `--ablate`: which terms stay on, what changes, and what is refused."""

import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ldkit.errors import RecipeError, UsageError
from ldkit.jobs.arms import ALL, GROUPS, PLAIN, TERMS, arms, separated
from ldkit.recipe.load import load_recipe, override
from ldkit.recipe.schema import Recipe
from tests.jobs.tiny import STUDENT

EVERY = (
    *(f"objective.{term.key}={term.example}" for term in TERMS.values()),
    "objective.cross.after=1",  # the tiny towers have no more
)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    """A student with `main` alone."""
    path = tmp_path_factory.mktemp("arms") / "student.yaml"
    path.write_text(STUDENT)
    return load_recipe(str(path)).recipe


@pytest.fixture(scope="module")
def full(tiny: Recipe) -> Recipe:
    """A student with every term."""
    return override(tiny, "full", EVERY)


def on(recipe: Recipe) -> set[str]:
    """Return the keys of the terms that a recipe has on."""
    return {key for key, _, _ in recipe.objective.distillation_terms()}


def keys(*words: str) -> set[str]:
    return {f"objective.{TERMS[word].key}" for word in words}


def refused(recipe: Recipe, *lists: str) -> UsageError:
    with pytest.raises(UsageError) as caught:
        arms(recipe, lists)
    assert caught.value.where == "--ablate"
    return caught.value


@pytest.mark.contract
def test_there_is_a_word_for_every_term_and_its_example_is_right(full: Recipe) -> None:
    terms = [key for key, _, _ in full.objective.distillation_terms()]
    assert terms == [f"objective.{term.key}" for term in TERMS.values()]
    assert {word for words in GROUPS.values() for word in words} < set(TERMS)


@pytest.mark.contract
def test_an_arm_has_the_terms_it_names_and_no_others(full: Recipe) -> None:
    found = arms(full, ["main, vlr+main,kd_vlr", "score,cross+imitation,all"])
    assert [(arm.name, on(arm.recipe)) for arm in found] == [
        (PLAIN, set()),
        ("main", keys("main")),
        ("main+vlr", keys("main", "vlr")),
        ("kd_vlr", keys("kd_vlr")),
        ("score", keys("score_cls", "score_box")),
        ("imitation+cross", keys("imitation", "cross_cls", "cross_box")),
        (ALL, keys(*TERMS)),
    ]
    assert [arm.folder for arm in found][2::3] == ["main-vlr", "imitation-cross"]
    assert found[-1].recipe == full


@pytest.mark.law
@settings(deadline=None, max_examples=20)
@given(words=st.sets(st.sampled_from(tuple(TERMS)), min_size=1), data=st.data())
def test_the_order_of_terms_makes_no_other_arm(
    full: Recipe, words: set[str], data: st.DataObject
) -> None:
    one, other = (data.draw(st.permutations(sorted(words))) for _ in range(2))
    found = arms(full, ["+".join(one), "+".join(other)])
    assert len(found) == 2
    assert on(found[1].recipe) == keys(*words)
    assert found[1].recipe.model_copy(update={"objective": full.objective}) == full


@pytest.mark.contract
def test_plain_comes_first_and_no_arm_comes_twice(tiny: Recipe) -> None:
    found = arms(tiny, ["main,plain,all,main"])
    assert [arm.name for arm in found] == [PLAIN, "main"]
    assert [arm.name for arm in arms(tiny, ["plain"])] == [PLAIN]


@pytest.mark.contract
def test_changes_have_a_name_and_start_from_the_whole_recipe(full: Recipe) -> None:
    text = (
        "t2:objective.localization.main.temperature=2,"
        "few:objective.localization.vlr={weight: 0.5, temperature: 3}; objective.imitation=null"
    )
    _, t2, few = arms(full, [text])
    assert (t2.name, few.name) == ("t2", "few")
    assert t2.recipe == override(full, "t2", ["objective.localization.main.temperature=2"])
    assert few.recipe.objective.localization.vlr is not None
    assert few.recipe.objective.localization.vlr.temperature == 3
    assert on(few.recipe) == keys(*TERMS) - keys("imitation")


@pytest.mark.contract
def test_a_recipe_is_taken_on_the_same_data_teacher_cache_and_evaluation(tiny: Recipe) -> None:
    _, arm = arms(tiny, ["shapes/ld"], ["optim.lr=0.5"])
    own = load_recipe("shapes/ld").recipe
    assert (arm.name, arm.folder) == ("shapes/ld", "shapes_ld")
    assert (arm.recipe.data, arm.recipe.teacher) == (tiny.data, tiny.teacher)
    assert arm.recipe.eval == tiny.eval
    assert tiny.cache is not None
    assert arm.recipe.cache is not None
    assert own.cache is not None
    assert arm.recipe.cache == own.cache.model_copy(update={"path": tiny.cache.path})
    assert (arm.recipe.student, arm.recipe.objective) == (own.student, own.objective)
    assert arm.recipe.optim.lr == 0.5


@pytest.mark.contract
def test_a_recipe_of_a_file_is_known_by_its_ending(tiny: Recipe, tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(STUDENT)
    _, arm = arms(tiny, [str(tmp_path / "mine.yaml")])
    assert arm.folder.endswith("_mine")
    assert re.fullmatch(r"[A-Za-z0-9_-]+", arm.folder)
    with pytest.raises(RecipeError, match="there is no such recipe"):
        arms(tiny, ["other.yaml"])


@pytest.mark.contract
def test_a_term_that_is_off_is_refused_with_a_value_that_works(tiny: Recipe) -> None:
    error = refused(tiny, "main+vlr")
    assert error.message == (
        "vlr: the recipe student has objective.localization.vlr = null, so there is nothing to "
        "compare."
    )
    (value,) = re.findall(r"--set '(.*?)'", error.hint)
    assert on(override(tiny, "hint", [value])) == keys("main", "vlr")
    error = refused(tiny, "score")
    assert "objective.score.classification and objective.score.box = null" in error.message
    values = re.findall(r"--set '(.*?)'", error.hint)
    assert on(override(tiny, "hint", values)) == keys("main", "score_cls", "score_box")


@pytest.mark.contract
def test_a_group_takes_what_there_is_of_it(tiny: Recipe) -> None:
    half = override(tiny, "half", ["objective.score.box={weight: 1}"])
    assert on(arms(half, ["score"])[1].recipe) == keys("score_box")


@pytest.mark.contract
@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ("main+vrl", "'vrl' is no term. Did you mean `vlr`?", "main, vlr, kd, kd_vlr, imitation"),
        ("", "'' is no term.", "(NAME:KEY=VALUE;KEY=VALUE)"),
        ("main,", "'' is no term.", "shapes/ld, mine.yaml"),
        ("main+plain", "main+plain: plain means no term at all.", "name it alone"),
        ("all:train.batch_size=2", "all is a word for terms", "`my_all:train.batch_size=2`"),
        ("s:seed=3", "s changes `name` or `seed`", "--seeds N"),
        ("a:optim.lr=1,a:optim.lr=2", "a and a are two arms of one name.", "NAME:KEY=VALUE"),
        ("shapes/teacher", "shapes/teacher trains a detector alone", "`student` section"),
    ],
)
def test_what_means_nothing_is_refused(tiny: Recipe, text: str, message: str, hint: str) -> None:
    error = refused(tiny, text)
    assert error.message.startswith(message)
    assert hint in error.hint


@pytest.mark.contract
def test_all_of_nothing_is_refused(tiny: Recipe) -> None:
    plain = override(tiny, "plain", ["objective.localization.main=null"])
    assert "has no distillation term" in refused(plain, "all").message


@pytest.mark.contract
def test_a_wrong_change_is_told_as_a_wrong_recipe_with_the_name_of_the_arm(tiny: Recipe) -> None:
    with pytest.raises(RecipeError) as caught:
        arms(tiny, ["t2:objective.localization.main.temperatur=2"])
    assert caught.value.where == "--ablate t2"
    assert "temperature" in caught.value.message


@pytest.mark.law
@given(parts=st.lists(st.text("ab,;[]{}:= ", max_size=9).map(str.strip), min_size=1, max_size=4))
def test_separators_within_brackets_separate_nothing(parts: list[str]) -> None:
    whole = [f"{{x{part.translate(str.maketrans('', '', '[]{}'))}}}" for part in parts]
    assert separated(";".join(whole), ";") == whole
    assert separated(", ".join(whole), ",") == whole
