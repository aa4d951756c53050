"""What is said of distillation terms before anything is computed."""

from pathlib import Path

import pytest

from ldkit.errors import CacheCoverage, CheckpointError, UsageError
from ldkit.jobs import cache_outline, distill, terms
from ldkit.jobs.facts import Fact
from ldkit.jobs.progress import Note
from ldkit.models.checkpoint_file import read_model
from tests.jobs.conftest import World
from tests.jobs.tiny import EVERY_TERM, finish, steps, told, weights

ONLINE = distill.Options(source=distill.Source.ONLINE, device="cpu")
CACHED = distill.Options(source=distill.Source.CACHE, device="cpu")
GI = "objective.imitation={region: gi}"
WIDE = "student.fpn.channels=24"


@pytest.mark.contract
def test_a_student_alone_has_no_term_and_the_same_rest(world: World) -> None:
    recipe = world.student(*EVERY_TERM)
    alone = terms.alone(recipe)
    assert terms.is_distilled(recipe)
    assert not terms.is_distilled(alone)
    assert alone.objective.vlr == recipe.objective.vlr
    assert alone.student == recipe.student


@pytest.mark.contract
def test_a_softmax_over_one_class_is_refused_with_its_reason(world: World) -> None:
    recipe = world.student("objective.classification_kd.vlr={kind: softmax}")
    terms.check_classes(recipe, 2)
    with pytest.raises(UsageError) as caught:
        terms.check_classes(recipe, 1)
    assert str(caught.value) == (
        "objective.classification_kd.vlr.kind = softmax: a softmax over one class is 1 for teacher "
        "and student alike, so the term is zero whatever they say.\n"
        "Take the binary form: `--set objective.classification_kd.vlr.kind=binary`."
    )


@pytest.mark.contract
@pytest.mark.parametrize("kind", ["softmax", "binary"])
def test_a_mean_over_few_classes_is_told(world: World, kind: str) -> None:
    recipe = world.student(f"objective.classification_kd.main={{kind: {kind}, weight: 10}}")
    assert not list(terms.notes_on_classes(recipe, 80))
    assert not list(terms.notes_on_classes(recipe, 41))
    [note] = terms.notes_on_classes(recipe, 8)
    assert "mean over 8 classes: for each class it is 10 times as strong" in note
    assert "classification_kd.main.weight=1`" in note
    summed = world.student(f"objective.classification_kd.main={{kind: {kind}, classes: sum}}")
    assert not list(terms.notes_on_classes(summed, 8))


@pytest.mark.contract
def test_a_run_tells_of_few_classes_before_its_first_step(world: World, tmp_path: Path) -> None:
    recipe = world.student(
        "objective.localization.main=null",
        "objective.classification_kd.main={kind: softmax}",
        "schedule.max_steps=1",
    )
    first = told(distill.run(recipe, tmp_path / "run", CACHED))[0]
    assert isinstance(first, Note)
    assert "mean over 3 classes" in first.text


@pytest.mark.contract
def test_gi_needs_a_live_teacher(world: World, tmp_path: Path) -> None:
    recipe = world.student(GI, "schedule.max_steps=2")
    with pytest.raises(UsageError, match="no cache can hold their rows") as caught:
        finish(distill.run(recipe, tmp_path / "cached", CACHED))
    assert "`--online`" in str(caught.value)
    assert not (tmp_path / "cached").exists()
    finish(distill.run(recipe, tmp_path / "online", ONLINE))
    assert all(losses["imitation"] > 1e-4 for _, losses in steps(tmp_path / "online"))


@pytest.mark.contract
def test_a_term_whose_rows_the_cache_lacks_is_refused_before_anything(
    world: World, tmp_path: Path
) -> None:
    recipe = world.student("objective.localization.vlr={}")
    with pytest.raises(CacheCoverage) as caught:
        finish(distill.run(recipe, tmp_path / "run", CACHED))
    assert "vlr" in str(caught.value)
    assert "cache.vlr" in str(caught.value)
    assert not (tmp_path / "run").exists()


@pytest.mark.law
@pytest.mark.parametrize("region", ["main", "inside_gt"])
def test_features_of_another_width_are_projected_and_the_map_stays_out_of_the_file(
    world: World, tmp_path: Path, region: str
) -> None:
    """A student of 24 channels follows a teacher of 16, from the cache as beside the teacher."""
    recipe = world.student(
        f"objective.imitation={{region: {region}}}",
        f"cache.imitation={{region: {region}, features: fp32}}",
        *EVERY_TERM[:2],
        "cache.batch_size=1",
        WIDE,
        cache=tmp_path / "c",
    )
    from ldkit.jobs import build_cache

    finish(build_cache.run(recipe, device="cpu"))
    finish(distill.run(recipe, tmp_path / "online", ONLINE))
    finish(distill.run(recipe, tmp_path / "cached", CACHED))
    assert steps(tmp_path / "online") == steps(tmp_path / "cached")
    assert weights(tmp_path / "online") == weights(tmp_path / "cached")
    own = read_model(tmp_path / "cached" / "model.pt").weights
    plain = terms.alone(recipe)
    finish(distill.run(plain, tmp_path / "plain", CACHED))
    alone = read_model(tmp_path / "plain" / "model.pt").weights
    assert {n: t.shape for n, t in own.items()} == {n: t.shape for n, t in alone.items()}


@pytest.mark.contract
def test_features_of_another_width_cannot_cross_over(world: World, tmp_path: Path) -> None:
    cross = "objective.cross={after: 1, box: {weight: 1}}"
    recipe = world.student(cross, WIDE, "student.head.norm_groups=8")
    with pytest.raises(CheckpointError) as caught:
        finish(distill.run(recipe, tmp_path / "run", ONLINE))
    assert "channels: the teacher has 16, the student 24" in str(caught.value)
    assert "sends the student's features through the teacher's head" in str(caught.value)


@pytest.mark.contract
def test_a_dry_run_shows_the_price_of_every_group_before_anything_is_written(
    world: World, tmp_path: Path
) -> None:
    recipe = world.student(*EVERY_TERM, cache=tmp_path / "c")
    facts = cache_outline.outline(recipe, "cpu")
    price = facts["disk by group"]
    assert isinstance(price, Fact)
    assert isinstance(price.value, dict)
    assert price.value.keys() == {"main", "vlr", "imitation", "score", "score_class", "cross"}
    assert not (tmp_path / "c").exists()
    from ldkit.cache.info import info
    from ldkit.jobs import build_cache

    finish(build_cache.run(recipe, device="cpu"))
    held = {group.name: group.rows for group in info(tmp_path / "c").groups}
    per_view = facts["rows per view"]
    assert isinstance(per_view, Fact)
    assert isinstance(per_view.value, dict)
    for name in ("main", "vlr", "imitation", "cross"):
        assert per_view.value[name] * 20 == pytest.approx(held[name])
    assert per_view.value["score"] * 20 == pytest.approx(held["score"], rel=0.5)


@pytest.mark.law
def test_terms_warm_up_and_stop(world: World, tmp_path: Path) -> None:
    recipe = world.student(
        "objective.localization.main={weight: 1.0, temperature: 2, warmup_steps: 4}",
        "schedule.max_steps=6",
    )
    short = world.student(
        "objective.localization.main={weight: 1.0, temperature: 2, stop_step: 3}",
        "schedule.max_steps=6",
    )
    finish(distill.run(recipe, tmp_path / "warm", CACHED))
    finish(distill.run(short, tmp_path / "short", CACHED))
    full = [losses["ld_main"] for _, losses in steps(tmp_path / "short")[:1]]
    assert steps(tmp_path / "warm")[0][1]["ld_main"] == pytest.approx(full[0] / 4)
    assert ["ld_main" in losses for _, losses in steps(tmp_path / "short")] == [True] * 3 + [
        False
    ] * 3


@pytest.mark.law
def test_no_term_on_a_cache_assigns_anything(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every region comes from the cache: neither main rows nor VLR are found again."""
    from ldkit.jobs import build_cache

    recipe = world.student(*EVERY_TERM, "schedule.max_steps=2", cache=tmp_path / "c")
    finish(build_cache.run(recipe, device="cpu"))

    def refuse(*_: object, **__: object) -> None:
        pytest.fail("a student on a cache assigns nothing")

    monkeypatch.setattr("ldkit.jobs.train_teacher.assign_atss", refuse)
    monkeypatch.setattr("ldkit.jobs.teacher_rows.vlr_rows_below", refuse)
    for place in ("jobs.teacher_rows", "jobs.size_estimate", "ops.vlr", "ops.regions"):
        monkeypatch.setattr(f"ldkit.{place}.atss", refuse)
    finish(distill.run(recipe, tmp_path / "run", CACHED))
    assert len(steps(tmp_path / "run")) == 2
