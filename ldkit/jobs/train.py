"""One training run from its recipe to its model file; teachers, baselines and students alike.

The caller brings what differs: how a step's predictions become loss terms, and how views are
drawn. Everything a run leaves on disk is written here.
"""

import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from ldkit import __version__
from ldkit.data.coco import CocoIndex, Record, training_records
from ldkit.data.dataset import DrawView, ViewDataset, load_batches
from ldkit.data.sampler import batches_per_epoch, epoch_batches
from ldkit.errors import DataError, UsageError
from ldkit.interrupts import interrupts_held
from ldkit.jobs import assemble
from ldkit.jobs.benchmark import Benchmark, benchmark, check_classes
from ldkit.jobs.evaluate import Target, score
from ldkit.jobs.progress import Message, Note
from ldkit.jobs.runs import RunFolder, begin, claim
from ldkit.models.checkpoint_file import ModelFile, read_model, refuse_unknown_ending, write_model
from ldkit.models.gfl import Detector
from ldkit.ops.pixels import normalise
from ldkit.recipe.schema import Recipe
from ldkit.structures import Batch, LossTerms, Predictions, ViewKey, resized_sizes
from ldkit.training.checkpoint import TrainState, latest, read_state, write_state
from ldkit.training.events import Evaluated, Event, Saved, Step
from ldkit.training.journal import Journal, read_journal
from ldkit.training.loop import Course, fit

Objective = Callable[[Predictions, Batch], LossTerms]


@dataclass(frozen=True, slots=True)
class Material:
    """What a run trains on: the index, the images that qualify, and how their views are drawn.

    `validation` is what the run is evaluated on along its way, if it is.
    """

    index: CocoIndex
    records: dict[int, Record]
    draw: DrawView
    validation: Benchmark | None = None

    @classmethod
    def of(cls, recipe: Recipe) -> "Material":
        """Return the recipe's training images, with views drawn by its policy."""
        index = assemble.index(recipe.data, recipe.data.train)
        policy = assemble.view_policy(recipe.views, recipe.seed)
        return cls(index, training_records(index), policy.draw)

    def drawn_by(self, draw: DrawView) -> "Material":
        """Return the same images with another source of views."""
        return replace(self, draw=draw)

    def with_validation(self, recipe: Recipe, model: Path) -> "Material":
        """Return the same with the images to evaluate on, where the recipe asks for it.

        Raises:
            DataError: They are not right, or their classes are not the training images'.
        """
        if recipe.eval.every_epochs is None or recipe.data.val is None:
            return self
        validation = benchmark(recipe.data, "val", recipe.data.val)
        check_classes(validation.index, self.index.class_names, model)
        return replace(self, validation=validation)


@dataclass(frozen=True, slots=True)
class Task:
    """One run: its recipe, its folder, and what the command line decides."""

    recipe: Recipe
    folder: Path
    device: torch.device
    resume: bool = False
    out: Path | None = None


def train(
    task: Task,
    material: Material,
    objective: Objective,
    *,
    watched: tuple[str, ...] = (),
    lineage: Mapping[str, str] | None = None,
) -> Generator[Message, None, None]:
    """Yield the run's messages; leave journal, checkpoints, evaluations and the model file.

    `watched` names terms that must not stay zero; `lineage` (fingerprints of `teacher` and
    `cache`) is kept in the model file.

    Raises:
        UsageError: The folder holds another run, or one that may not be continued.
        TrainingError: Training stopped; the last checkpoint stays.
    """
    run = check_start(task)
    if run.is_finished:
        yield Note(f"{run.path} is finished already; nothing was trained.")
        _write_out(task, read_model(run.model))
        return
    material = material.with_validation(task.recipe, run.model)
    state = _initial_state(task, len(material.index.categories))
    lineage = {"data": material.index.fingerprint, **(lineage or {})}
    begin(run, task.recipe, lineage)
    newest = latest(run.checkpoints)
    if newest is not None:
        read_state(newest, state)
        yield Note(f"Going on from step {state.step} ({newest}).")
    for note in material.index.notes:
        yield Note(note)
    with Journal(run.journal, step=state.step) as journal:
        yield from _steps(task, run, state, material, objective, watched, journal)
    file = _model_file(task, state, material.index.class_names, lineage)
    _write_out(task, file)
    write_model(run.model, file)


def check_start(task: Task) -> RunFolder:
    """Return the folder of the run after checking where it and its model are to go.

    Costs nothing and writes nothing, so it comes before the data set is read.

    Raises:
        UsageError: The folder or the file is taken, or its name says no format.
    """
    run = claim(task.folder, task.recipe, resume=task.resume)
    if task.out is not None:
        _refuse_out(task.out)
    return run


def _write_out(task: Task, file: ModelFile) -> None:
    if task.out is not None:
        write_model(task.out, file)


def _refuse_out(path: Path) -> None:
    refuse_unknown_ending(path)
    if path.is_dir():
        raise UsageError(
            "is a folder, but the model file is to be written there.",
            where=str(path),
            hint=f"Name a file, such as {path / 'model.pt'}.",
        )


def course(recipe: Recipe, records: dict[int, Record]) -> Course:
    """Return how many steps the run takes, and how fast."""
    return Course(
        schedule=assemble.schedule(recipe.schedule, recipe.optim.lr),
        steps_per_epoch=batches_per_epoch(records, recipe.train.batch_size),
        max_steps=recipe.schedule.max_steps,
        clip_norm=recipe.optim.clip_norm,
    )


def _initial_state(task: Task, num_classes: int) -> TrainState:
    torch.manual_seed(task.recipe.seed)
    model = assemble.detector(task.recipe.detector, num_classes).to(task.device)
    if task.recipe.train.channels_last:
        model = model.to(memory_format=torch.channels_last)
    return TrainState(model.train(), assemble.optimizer(task.recipe.optim, model))


def _steps(
    task: Task,
    run: RunFolder,
    state: TrainState,
    material: Material,
    objective: Objective,
    watched: tuple[str, ...],
    journal: Journal,
) -> Generator[Message, None, None]:
    """Yield the loop's events, written down, and save and evaluate where the recipe says so.

    What ends the run early between two events leaves a checkpoint: Ctrl-C, a closed terminal, an
    image that cannot be read. A run that goes on makes up for an evaluation that was cut short.
    """
    planned = course(task.recipe, material.records)
    keep, every = task.recipe.train.keep, task.recipe.train.checkpoint_every_steps
    try:
        if _is_evaluation_due(task.recipe, state.step, planned) and not _is_evaluated(run, state):
            yield from _written(journal, _evaluated(task, run, state, material))
        # A step is saved only after it was written down, or the journal would lack its line.
        for event in _written(journal, _fit(task, state, material, objective, watched)):
            yield event
            if not isinstance(event, Step):
                continue
            # A resumed run goes on after its checkpoint, so what belongs before comes before.
            if _is_evaluation_due(task.recipe, event.step, planned):
                yield from _written(journal, _evaluated(task, run, state, material))
            if event.step % every == 0 or event.step == planned.total_steps:
                yield from _written(journal, [_saved(run, state, keep)])
    except (KeyboardInterrupt, GeneratorExit, DataError):
        if state.step:
            _saved(run, state, keep)
        raise


def _written(journal: Journal, messages: Iterable[Message]) -> Generator[Message, None, None]:
    """Yield the messages, each event after it was written to the journal."""
    for message in messages:
        if isinstance(message, Event):
            journal.write(message)
        yield message


def _fit(
    task: Task,
    state: TrainState,
    material: Material,
    objective: Objective,
    watched: tuple[str, ...],
) -> Iterator[Event]:
    """Return the loop over this run's batches."""
    recipe = task.recipe
    layout = torch.channels_last if recipe.train.channels_last else torch.contiguous_format

    def step(batch: Batch) -> LossTerms:
        images = normalise(batch.pixels, resized_sizes(batch.views, task.device))
        return objective(state.model(images.contiguous(memory_format=layout)), batch)

    def epoch(number: int, first: int) -> Iterator[Batch]:
        keys = _keys(recipe, material, number)[first:]
        dataset = ViewDataset(material.records, material.draw)
        return load_batches(dataset, keys, recipe.data.workers, task.device)

    return fit(step, epoch, state, course(recipe, material.records), watched)


def _keys(recipe: Recipe, material: Material, epoch: int) -> list[list[ViewKey]]:
    policy = assemble.view_policy(recipe.views, recipe.seed)
    return epoch_batches(
        material.records,
        policy.view_of_epoch,
        batch_size=recipe.train.batch_size,
        seed=recipe.seed,
        epoch=epoch,
    )


def _saved(run: RunFolder, state: TrainState, keep: int) -> Saved:
    with interrupts_held() as held:  # impatience must not cost the work of hours
        folder = write_state(run.checkpoints, state, keep=keep)
    held.release()
    return Saved(state.step, str(folder))


def _is_evaluation_due(recipe: Recipe, step: int, planned: Course) -> bool:
    every = recipe.eval.every_epochs
    if every is None or recipe.data.val is None or step == 0:
        return False
    return step % (every * planned.steps_per_epoch) == 0 or step == planned.total_steps


def _is_evaluated(run: RunFolder, state: TrainState) -> bool:
    """Say whether the journal tells of an evaluation at this very step."""
    told = read_journal(run.journal)
    return any(isinstance(event, Evaluated) and event.step == state.step for event in told)


def _evaluated(
    task: Task, run: RunFolder, state: TrainState, material: Material
) -> Generator[Message, None, None]:
    model, validation = state.model, material.validation
    assert isinstance(model, Detector)
    assert validation is not None
    classes = material.index.class_names
    goal = Target(task.recipe.name, run.model, classes, task.recipe, run.evaluations)
    began = time.perf_counter()
    scores = yield from score(model, validation, goal, task.device)
    yield Evaluated(state.step, scores.metrics.figures(), time.perf_counter() - began)


def _model_file(
    task: Task, state: TrainState, classes: tuple[str, ...], lineage: Mapping[str, str]
) -> ModelFile:
    origin = {
        "ldkit": __version__,
        "name": task.recipe.name,
        "steps": state.step,
        "recipe": task.recipe.model_dump(mode="json"),
        **lineage,
    }
    weights = {name: tensor.detach().cpu() for name, tensor in state.model.state_dict().items()}
    return ModelFile(
        weights=weights,
        detector=task.recipe.detector.model_dump(mode="json"),
        classes=classes,
        origin=origin,
    )
