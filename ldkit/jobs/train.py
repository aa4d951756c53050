"""One training run from its recipe to its model file; teachers, baselines and students alike.

The caller brings what differs: how a step's predictions become loss terms, and how views are
drawn. Everything a run leaves on disk is written here.
"""

import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from ldkit.data.coco import Record
from ldkit.data.dataset import ViewDataset, load_batches
from ldkit.data.sampler import batches_per_epoch, epoch_batches
from ldkit.errors import DataError
from ldkit.interrupts import interrupts_held
from ldkit.jobs import assemble
from ldkit.jobs.evaluate import Target, score
from ldkit.jobs.material import Material
from ldkit.jobs.model_out import model_file, refuse_out
from ldkit.jobs.progress import Message, Note
from ldkit.jobs.runs import RunFolder, begin, claim
from ldkit.models.checkpoint_file import ModelFile, read_model, write_model
from ldkit.models.gfl import Detector
from ldkit.ops.pixels import normalise
from ldkit.recipe.schema import Recipe
from ldkit.structures import Batch, LossTerms, Predictions, ViewKey, resized_sizes
from ldkit.training.checkpoint import TrainState, latest, read_state, write_state
from ldkit.training.events import Contributions, Evaluated, Event, Saved, Step
from ldkit.training.journal import Journal, read_journal
from ldkit.training.loop import Course, fit

__all__ = [
    "Forward",
    "Material",
    "Objective",
    "Task",
    "check_start",
    "course",
    "plain_forward",
    "seeded",
    "train",
]

Objective = Callable[[Predictions, Batch, int], LossTerms]
"""From what the model says of a batch, and how many steps are done, to the loss terms."""

Forward = Callable[[Detector, Tensor], Predictions]
"""How the model is asked, given normalised images: for objectives that read more than logits."""


@dataclass(frozen=True, slots=True)
class Task:
    """One run: its recipe, its folder, and what the command line decides."""

    recipe: Recipe
    folder: Path
    device: torch.device
    resume: bool = False
    out: Path | None = None


@dataclass(frozen=True, slots=True)
class _Run:
    """What the steps of a run need."""

    task: Task
    files: RunFolder
    state: TrainState
    material: Material
    objective: Objective
    forward: Forward
    watched: tuple[str, ...]


def plain_forward(model: Detector, images: Tensor) -> Predictions:
    """Return what the model says of images when nothing more is asked of it."""
    predictions: Predictions = model(images)
    return predictions


def train(
    task: Task,
    material: Material,
    objective: Objective,
    *,
    forward: Forward = plain_forward,
    companion: nn.Module | None = None,
    watched: tuple[str, ...] = (),
    lineage: Mapping[str, str] | None = None,
) -> Generator[Message, None, None]:
    """Yield the run's messages; leave journal, checkpoints, evaluations and the model file.

    Args:
        task: The run.
        material: What it trains on.
        objective: How a step's predictions become loss terms.
        forward: How the model is asked for them.
        companion: What is trained along with the model and stays out of its file. It has its
            first weights already (`seeded`), and is moved to the model's device.
        watched: Names of terms that must not stay zero while they are on.
        lineage: Fingerprints of `teacher` and `cache`, kept in the model file.

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
    state = _initial_state(task, len(material.index.categories), companion)
    lineage = {"data": material.index.fingerprint, **(lineage or {})}
    begin(run, task.recipe, lineage)
    newest = latest(run.checkpoints)
    if newest is not None:
        read_state(newest, state)
        yield Note(f"Going on from step {state.step} ({newest}).")
    for note in material.index.notes:
        yield Note(note)
    steps = _Run(task, run, state, material, objective, forward, watched)
    with Journal(run.journal, step=state.step) as journal:
        yield from _steps(steps, journal)
    file = model_file(task.recipe, state.model, state.step, material.index.class_names, lineage)
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
        refuse_out(task.out)
    return run


def _write_out(task: Task, file: ModelFile) -> None:
    if task.out is not None:
        write_model(task.out, file)


def course(recipe: Recipe, records: dict[int, Record]) -> Course:
    """Return how many steps the run takes, and how fast."""
    return Course(
        schedule=assemble.schedule(recipe.schedule, recipe.optim.lr),
        steps_per_epoch=batches_per_epoch(records, recipe.train.batch_size),
        max_steps=recipe.schedule.max_steps,
        clip_norm=recipe.optim.clip_norm,
        measure_every=recipe.train.log_terms_every_steps,
    )


def seeded(recipe: Recipe, make: Callable[[], nn.Module]) -> nn.Module:
    """Return a new module whose weights follow from the recipe's seed, as the model's do."""
    torch.manual_seed(recipe.seed)
    return make()


def _initial_state(task: Task, num_classes: int, companion: nn.Module | None) -> TrainState:
    torch.manual_seed(task.recipe.seed)
    model = assemble.detector(task.recipe.detector, num_classes)
    trained = nn.ModuleList([model] if companion is None else [model, companion])
    trained.to(task.device)
    if task.recipe.train.channels_last:
        trained.to(memory_format=torch.channels_last)
    optimizer = assemble.optimizer(task.recipe.optim, trained.train())
    return TrainState(model, optimizer, companion=companion)


def _steps(run: _Run, journal: Journal) -> Generator[Message, None, None]:
    """Yield the loop's events, written down, and save and evaluate where the recipe says so.

    What ends the run early between two events leaves a checkpoint: Ctrl-C, a closed terminal, an
    image that cannot be read. A run that goes on makes up for an evaluation that was cut short.
    """
    recipe, state = run.task.recipe, run.state
    planned = course(recipe, run.material.records)
    every = recipe.train.checkpoint_every_steps
    try:
        if _is_evaluation_due(recipe, state.step, planned) and not _is_evaluated(run):
            yield from _written(journal, _evaluated(run))
        # A step is saved only after it was written down, or the journal would lack its line.
        for event in _written(journal, _fit(run, planned)):
            yield event
            if not isinstance(event, Step):
                continue
            # A resumed run goes on after its checkpoint, so what belongs before comes before.
            if _is_evaluation_due(recipe, event.step, planned):
                yield from _written(journal, _evaluated(run))
            if event.step % every == 0 or event.step == planned.total_steps:
                yield from _written(journal, [_saved(run)])
    except (KeyboardInterrupt, GeneratorExit, DataError):
        if state.step:
            _saved(run)
        raise


def _written(journal: Journal, messages: Iterable[Message]) -> Generator[Message, None, None]:
    """Yield the messages, each event after it was written to the journal.

    Contributions come before their step, whose update is done: both are written before either
    is told, so that a run closed between them is not saved at a step its journal lacks.
    """
    held: list[Event] = []
    for message in messages:
        if not isinstance(message, Event):
            yield message
            continue
        held.append(message)
        if not isinstance(message, Contributions):
            journal.write(*held)
            yield from held
            held = []


def _fit(run: _Run, planned: Course) -> Iterator[Event]:
    """Return the loop over this run's batches."""
    recipe, device, model = run.task.recipe, run.task.device, run.state.model
    assert isinstance(model, Detector)
    layout = torch.channels_last if recipe.train.channels_last else torch.contiguous_format

    def step(batch: Batch) -> LossTerms:
        images = normalise(batch.pixels, resized_sizes(batch.views, device))
        predictions = run.forward(model, images.contiguous(memory_format=layout))
        return run.objective(predictions, batch, run.state.step)

    def epoch(number: int, first: int) -> Iterator[Batch]:
        keys = _keys(recipe, run.material, number)[first:]
        dataset = ViewDataset(run.material.records, run.material.draw)
        return load_batches(dataset, run.material.lead(keys), recipe.data.workers, device)

    return fit(step, epoch, run.state, planned, run.watched)


def _keys(recipe: Recipe, material: Material, epoch: int) -> list[list[ViewKey]]:
    policy = assemble.view_policy(recipe.views, recipe.seed)
    return epoch_batches(
        material.records,
        policy.view_of_epoch,
        batch_size=recipe.train.batch_size,
        seed=recipe.seed,
        epoch=epoch,
    )


def _saved(run: _Run) -> Saved:
    with interrupts_held() as held:  # impatience must not cost the work of hours
        folder = write_state(run.files.checkpoints, run.state, keep=run.task.recipe.train.keep)
    held.release()
    return Saved(run.state.step, str(folder))


def _is_evaluation_due(recipe: Recipe, step: int, planned: Course) -> bool:
    every = recipe.eval.every_epochs
    if every is None or recipe.data.val is None or step == 0:
        return False
    return step % (every * planned.steps_per_epoch) == 0 or step == planned.total_steps


def _is_evaluated(run: _Run) -> bool:
    """Say whether the journal tells of an evaluation at this very step."""
    told = read_journal(run.files.journal)
    return any(isinstance(event, Evaluated) and event.step == run.state.step for event in told)


def _evaluated(run: _Run) -> Generator[Message, None, None]:
    task, model, validation = run.task, run.state.model, run.material.validation
    assert isinstance(model, Detector)
    assert validation is not None
    classes = run.material.index.class_names
    goal = Target(task.recipe.name, run.files.model, classes, task.recipe, run.files.evaluations)
    began = time.perf_counter()
    scores = yield from score(model, validation, goal, task.device)
    yield Evaluated(run.state.step, scores.metrics.figures(), time.perf_counter() - began)
