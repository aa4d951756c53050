"""Arms on one cache by the same seeds: pairs, their table, going on, and what is refused."""

import json
from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from ldkit.errors import CacheCoverage, CacheMismatch, UsageError
from ldkit.jobs import ablate, build_cache, distill
from ldkit.jobs.ablate import Options
from ldkit.jobs.ablate_table import ONE_SEED, Outcome
from ldkit.jobs.arms import Arm, arms
from ldkit.jobs.progress import Note
from ldkit.jobs.scored_runs import Job, Told, trained_and_scored
from ldkit.recipe.load import load_recipe
from ldkit.recipe.schema import Recipe
from ldkit.training.events import Step
from tests.jobs.conftest import World
from tests.jobs.tiny import finish, snapshot, steps, weights

SHORT = ("schedule.max_steps=4", "train.batch_size=2", "eval.batch_size=1", "seed=5")
T3 = "t3:objective.localization.main.temperature=3"
ALL_ARMS = ("plain", "main", "t3")


def in_this_process(jobs: Sequence[Job], at_once: int) -> Generator[Told, None, None]:
    """Stands for the processes where they are not the point: they cost seconds to start."""
    assert at_once == ablate._at_once("cpu")
    for job in jobs:
        for message in trained_and_scored(job):
            yield job.stage, message


@dataclass(frozen=True)
class Trial:
    """A recipe, a folder for its runs, and what was told of the last ablation in it."""

    recipe: Recipe
    options: Options

    @property
    def folder(self) -> Path:
        return self.options.runs / "student_ablation"

    def arms(self, *lists: str) -> tuple[Arm, ...]:
        return arms(self.recipe, lists or ["main", T3])

    def run(self, *lists: str, seeds: int = 2) -> tuple[list[Told], Outcome]:
        told = []
        job = ablate.run(self.recipe, self.arms(*lists), replace(self.options, seeds=seeds))
        while True:
            try:
                told.append(next(job))
            except StopIteration as end:
                return told, end.value


@pytest.fixture(scope="module", autouse=True)
def _one_process() -> Generator[None, None, None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ablate, "in_processes", in_this_process)
        yield


def trial(world: World, root: Path, *overrides: str) -> Trial:
    return Trial(world.student(*SHORT, *overrides), Options(device="cpu", runs=root / "runs"))


@pytest.fixture
def fresh(world: World, tmp_path: Path) -> Trial:
    return trial(world, tmp_path)


@pytest.fixture(scope="module")
def done(
    world: World, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Trial, list[Told], Outcome]:
    """Three arms by two seeds."""
    made = trial(world, tmp_path_factory.mktemp("ablate"))
    return made, *made.run()


def scores(run: Path) -> dict[str, float]:
    found: dict[str, float] = json.loads((run / "eval" / "val.json").read_text())
    return found


def trained(told: list[Told]) -> set[str]:
    return {stage for stage, message in told if isinstance(message, Step)}


@pytest.mark.law
def test_arms_of_one_seed_differ_in_their_terms_alone(
    done: tuple[Trial, list[Told], Outcome],
) -> None:
    folder = done[0].folder
    for seed in (5, 6):
        plain, main, t3 = (steps(folder / f"{arm}_seed{seed}") for arm in ALL_ARMS)
        assert len(plain) == 4
        first, other = dict(main[0][1]), dict(t3[0][1])
        assert first.pop("ld_main") != other.pop("ld_main")
        assert first == other == plain[0][1]
        assert plain[-1][1]["box"] != main[-1][1]["box"]
    assert weights(folder / "plain_seed5") != weights(folder / "plain_seed6")


@pytest.mark.story
def test_every_arm_trains_its_own_terms_on_one_cache(world: World, tmp_path: Path) -> None:
    terms = (
        "objective.localization.vlr={weight: 0.25}",
        "objective.classification_kd.main={kind: binary, weight: 1}",
        "cache.vlr={}",
    )
    recipe = world.student(*SHORT, *terms, cache=tmp_path / "cache")
    finish(build_cache.run(recipe, device="cpu"))
    made = Trial(recipe, Options(device="cpu", runs=tmp_path / "runs"))
    made.run("main,kd+main,all", seeds=1)
    teaching = {
        run.name: {term for term in steps(run)[0][1] if term.startswith(("ld_", "kd_"))}
        for run in made.folder.glob("*_seed5")
    }
    assert teaching == {
        "plain_seed5": set(),
        "main_seed5": {"ld_main"},
        "main-kd_seed5": {"ld_main", "kd_main"},
        "all_seed5": {"ld_main", "ld_vlr", "kd_main"},
    }


@pytest.mark.contract
def test_a_term_whose_rows_the_cache_lacks_is_told_before_anything_is_trained(
    world: World, tmp_path: Path
) -> None:
    made = trial(world, tmp_path, "objective.localization.vlr={weight: 0.25}")
    with pytest.raises(CacheCoverage, match="vlr"):
        made.run("main,vlr")
    assert not made.options.runs.exists()


@pytest.mark.contract
def test_a_run_is_a_run_of_its_own_recipe(done: tuple[Trial, list[Told], Outcome]) -> None:
    folder = done[0].folder
    recipe = load_recipe(str(folder / "t3_seed6" / "recipe.yaml")).recipe
    assert (recipe.name, recipe.seed) == ("student_t3_seed6", 6)
    assert recipe.objective.localization.main is not None
    assert recipe.objective.localization.main.temperature == 3
    plain = load_recipe(str(folder / "plain_seed5" / "recipe.yaml")).recipe
    assert plain.objective.localization.main is None


@pytest.mark.contract
def test_the_table_has_means_errors_and_paired_differences(
    done: tuple[Trial, list[Told], Outcome],
) -> None:
    made, _, result = done
    runs = {arm: [made.folder / f"{arm}_seed{seed}" for seed in (5, 6)] for arm in ALL_ARMS}
    ap = {arm: [scores(run)["ap"] for run in folders] for arm, folders in runs.items()}
    assert [row[0] for row in result.rows] == list(ALL_ARMS)
    assert [row[0] for row in result.gaps] == ["main", "t3"]
    assert result.columns == ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR100")
    assert all(len(row) == 8 for row in [*result.rows, *result.gaps])
    assert result.title == "student on val, AP in percent (2 seeds)"
    assert "over 2 seeds" in result.caveat
    one, two = (100 * (b - a) for a, b in zip(ap["plain"], ap["main"], strict=True))
    assert result.gaps[0][1].endswith(f"\n±{abs(one - two) / 2:.1f}")
    document = result.document
    assert [arm["arm"] for arm in document["arms"]] == list(ALL_ARMS)
    assert document["seeds"] == [5, 6]
    _, main, _ = document["arms"]
    assert main["runs"] == [str(run) for run in runs["main"]]
    assert [found["ap"] for found in main["figures"]] == ap["main"]
    assert main["mean"]["ap"] == pytest.approx(sum(ap["main"]) / 2)
    assert main["difference"]["standard_error"]["ap"] == pytest.approx(abs(one - two) / 200)
    assert document["arms"][0]["difference"] is None
    assert json.loads((made.folder / "ablation.json").read_text()) == document


@pytest.mark.story
def test_more_arms_and_seeds_leave_finished_runs_as_they_are(
    done: tuple[Trial, list[Told], Outcome],
) -> None:
    made, told, first = done
    assert trained(told) == {f"{arm}, seed {seed}" for arm in ALL_ARMS for seed in (5, 6)}
    before = {path: path.stat().st_mtime_ns for path in made.folder.glob("*_seed*/**/*")}
    told, again = made.run()
    assert told == [("ablation", Note("Taking 6 runs of 6 as they are: finished before."))]
    assert again.document == first.document
    told, more = made.run("main", T3, "t4:objective.localization.main.temperature=4", seeds=3)
    new = {f"{arm}, seed 7" for arm in (*ALL_ARMS, "t4")} | {"t4, seed 5", "t4, seed 6"}
    assert trained(told) == new
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert len(more.document["arms"]) == 4


@pytest.mark.story
def test_a_stopped_ablation_goes_on_where_it_was(
    fresh: Trial, done: tuple[Trial, list[Told], Outcome]
) -> None:
    options = replace(fresh.options, seeds=1)
    job = ablate.run(fresh.recipe, fresh.arms("main"), options)
    for stage, message in job:
        if stage.startswith("main") and isinstance(message, Step) and message.step == 2:
            break
    job.close()
    states = {plan.arm: plan.state for plan in ablate.outline(fresh.recipe, fresh.arms(), options)}
    assert states == {"plain": "finished", "main": "goes on from step_0000002", "t3": "to do"}
    (fresh.folder / "plain_seed5" / "eval" / "val.json").unlink()
    plan, *_ = ablate.outline(fresh.recipe, fresh.arms(), options)
    assert plan.state == "trained, not evaluated"
    told, result = fresh.run("main", seeds=1)
    assert [step for step, _ in steps(fresh.folder / "main_seed5")] == [1, 2, 3, 4]
    assert trained(told) == {"main, seed 5"}
    assert weights(fresh.folder / "main_seed5") == weights(done[0].folder / "main_seed5")
    assert result.title.endswith("(seed 5)")
    assert result.caveat == ONE_SEED
    assert not any("±" in cell for row in [*result.rows, *result.gaps] for cell in row)


@pytest.mark.contract
def test_a_changed_recipe_is_not_mixed_with_finished_runs(
    done: tuple[Trial, list[Told], Outcome],
) -> None:
    made = done[0]
    before = snapshot(made.folder)
    optim = made.recipe.optim.model_copy(update={"lr": 0.5})
    other = Trial(made.recipe.model_copy(update={"optim": optim}), made.options)
    for attempt in (
        lambda: ablate.outline(other.recipe, other.arms(), other.options),
        lambda: other.run(),
    ):
        with pytest.raises(UsageError, match="was begun with another recipe") as caught:
            attempt()
        assert caught.value.where == str(made.folder / "plain_seed5")
        assert "`--set name=...`" in caught.value.hint
    assert snapshot(made.folder) == before


@pytest.mark.contract
def test_a_plan_names_every_run_and_writes_nothing(fresh: Trial) -> None:
    found = ablate.outline(fresh.recipe, fresh.arms(), replace(fresh.options, seeds=2))
    assert [(plan.arm, plan.seed) for plan in found] == [
        (arm, seed) for arm in ALL_ARMS for seed in (5, 6)
    ]
    assert found[0].as_dict() == {
        "arm": "plain",
        "seed": 5,
        "run": str(fresh.folder / "plain_seed5"),
        "steps": 4,
        "state": "to do",
    }
    assert not fresh.options.runs.exists()


@pytest.mark.contract
def test_an_arm_that_does_not_fit_the_cache_is_told_before_anything_is_trained(
    fresh: Trial,
) -> None:
    with pytest.raises(CacheMismatch, match="48"):
        fresh.run("main,small:views.short_side_px=48")
    assert not fresh.options.runs.exists()


@pytest.mark.contract
def test_views_that_the_seed_draws_allow_one_seed_of_a_cache(world: World, tmp_path: Path) -> None:
    made = trial(world, tmp_path, "views.short_side_px=[48, 64]")
    for live in (False, True):
        source = distill.Source.ONLINE if live else distill.Source.CACHE
        options = replace(made.options, seeds=2, source=source)
        if live:
            assert len(ablate.outline(made.recipe, made.arms(), options)) == 6
            continue
        with pytest.raises(UsageError, match="one cache serves one seed, not 2") as caught:
            ablate.outline(made.recipe, made.arms(), options)
        assert caught.value.where == "student, --seeds 2"
        assert "--online" in caught.value.hint
    with pytest.raises(CacheMismatch):  # one seed is no problem of its own, but this cache is
        ablate.outline(made.recipe, made.arms(), made.options)


@pytest.mark.contract
def test_without_images_to_compare_on_nothing_is_trained(world: World, tmp_path: Path) -> None:
    made = trial(world, tmp_path, "data.val=null")
    with pytest.raises(UsageError, match="no images to compare the arms on"):
        made.run()


@pytest.mark.contract
def test_students_train_side_by_side_on_a_cpu_and_alone_on_a_gpu(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(ablate.os, "sched_getaffinity", lambda _: {0, 3, 7}, raising=False)
    assert ablate._at_once("cpu") == 3
    monkeypatch.delattr(ablate.os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(ablate.os, "cpu_count", lambda: 5)
    assert ablate._at_once("cpu") == 5
    monkeypatch.setattr(ablate.assemble, "device", lambda _: ablate.assemble.torch.device("cuda"))
    assert ablate._at_once("auto") == 1
