"""A module that is trained along with the model, and stays out of its file."""

from collections.abc import Generator
from pathlib import Path

import pytest
import torch
from torch import nn

from ldkit.jobs import train_teacher
from ldkit.jobs.progress import Message
from ldkit.jobs.train import Material, Objective, Task, _initial_state, seeded, train
from ldkit.models.checkpoint_file import read_model
from ldkit.recipe.schema import Recipe
from ldkit.structures import Batch, LossTerms, Predictions
from ldkit.training.events import Contributions
from ldkit.training.journal import read_journal
from ldkit.training.optimizer import trainable_parameters
from tests.jobs.conftest import World
from tests.jobs.tiny import (
    CLASSES,
    at_step,
    finish,
    last_checkpoint,
    steps,
    teacher_recipe,
    until,
    weights,
)

CPU = torch.device("cpu")


def projection() -> nn.Module:
    return nn.Sequential(nn.Linear(len(CLASSES), 4), nn.LayerNorm(4))


def with_companion(recipe: Recipe, companion: nn.Module, calls: list[int]) -> Objective:
    """The GFL objective with one more term that trains the companion, too."""
    plain = train_teacher.objective(recipe)

    def terms(predictions: Predictions, batch: Batch, step: int) -> LossTerms:
        calls.append(step)
        projected = companion(predictions.cls_logits)
        return plain(predictions, batch, step)._replace(imitation=(projected - 1).square().mean())

    return terms


def run(
    recipe: Recipe, folder: Path, companion: nn.Module, calls: list[int] | None = None
) -> Generator[Message, None, None]:
    objective = with_companion(recipe, companion, [] if calls is None else calls)
    task = Task(recipe, folder, CPU, resume=True)
    return train(task, Material.of(recipe), objective, companion=companion)


def tensors(module: nn.Module) -> dict[str, bytes]:
    return {name: value.numpy().tobytes() for name, value in module.state_dict().items()}


def measured(folder: Path) -> list[Contributions]:
    events = read_journal(folder / "metrics.jsonl")
    return [event for event in events if isinstance(event, Contributions)]


@pytest.mark.law
@pytest.mark.parametrize("step", [1, 4, 7])
@pytest.mark.parametrize("optim", ["{kind: adamw, lr: 2e-3}", "{kind: sgd, lr: 1e-2}"])
def test_a_run_with_a_companion_goes_on_as_if_nothing_had_happened(
    world: World, tmp_path: Path, step: int, optim: str
) -> None:
    recipe = teacher_recipe(world.data, f"optim={optim}", "train.log_terms_every_steps=2")
    whole = seeded(recipe, projection)
    finish(run(recipe, tmp_path / "whole", whole))
    calls: list[int] = []
    job = run(recipe, tmp_path / "stopped", seeded(recipe, projection), calls)
    until(job, at_step(step))
    job.close()
    other = projection()  # of whatever weights: those that were saved replace them
    finish(run(recipe, tmp_path / "stopped", other, calls))
    assert calls == list(range(8))
    assert tensors(other) == tensors(whole)
    assert weights(tmp_path / "stopped") == weights(tmp_path / "whole")
    assert steps(tmp_path / "stopped") == steps(tmp_path / "whole")
    assert measured(tmp_path / "stopped") == measured(tmp_path / "whole")
    assert len(measured(tmp_path / "whole")) == 4


@pytest.mark.contract
def test_a_companion_is_trained_and_saved_but_stays_out_of_the_model_file(
    world: World, tmp_path: Path
) -> None:
    recipe = teacher_recipe(world.data)
    companion = seeded(recipe, projection)
    before = tensors(companion)
    finish(run(recipe, tmp_path / "run", companion))
    after = tensors(companion)
    assert all(after[name] != before[name] for name in before)
    state = _initial_state(Task(recipe, tmp_path, CPU), len(CLASSES), None)
    found = read_model(tmp_path / "run" / "model.pt").weights
    assert found.keys() == state.model.state_dict().keys()
    folder = tmp_path / "run" / "checkpoints" / last_checkpoint(tmp_path / "run")
    assert (folder / "companion.safetensors").is_file()


@pytest.mark.law
@pytest.mark.parametrize("optim", ["{kind: adamw, lr: 2e-3}", "{kind: sgd, lr: 1e-2}"])
def test_a_model_begins_the_same_whether_it_has_a_companion_or_not(
    world: World, tmp_path: Path, optim: str
) -> None:
    recipe = teacher_recipe(world.data, f"optim={optim}", "train.channels_last=true")
    task = Task(recipe, tmp_path, CPU)
    first, second = seeded(recipe, projection), seeded(recipe, projection)
    assert tensors(first) == tensors(second)
    alone = _initial_state(task, len(CLASSES), None)
    both = _initial_state(task, len(CLASSES), nn.Sequential(first, nn.Conv2d(3, 4, 3)))
    assert tensors(alone.model) == tensors(both.model)
    assert both.companion is not None
    kernel = both.companion.get_parameter("1.weight")
    assert kernel.is_contiguous(memory_format=torch.channels_last)
    optimized = [id(one) for group in both.optimizer.param_groups for one in group["params"]]
    assert len(optimized) == len(set(optimized))
    assert set(optimized) == {
        id(one) for part in (both.model, both.companion) for one in trainable_parameters(part)
    }
