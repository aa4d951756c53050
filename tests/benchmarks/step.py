"""Does learning from a cache cost more than plain training, and how much more does a live teacher?

    OMP_NUM_THREADS=1 OMP_WAIT_POLICY=PASSIVE .venv/bin/python tests/benchmarks/step.py [COCO_ROOT]

Four arms take the same steps with the same student on the same batches through ldkit's own loop:
plain (assignment and GFL terms), plain again (A/A), cached (rows from a sealed cache, no
assignment, LD), online (the teacher runs beside the student). Random weights; without COCO_ROOT
drawn shapes. Loading images is not part of a step. A second table isolates what a cached step
adds (looking up, decoding and placing rows; the LD term and its gradient) and what it saves (the
assignment). On a busy machine `--clock cpu` counts this process's processor time instead.
"""

import argparse
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import torch

from ldkit.jobs import assemble, distill_objective, train_teacher
from ldkit.jobs.assemble_terms import distill_settings
from ldkit.jobs.train import Objective
from ldkit.objectives.gfl import gfl_values
from ldkit.objectives.localization import ld_main
from ldkit.objectives.normalizers import totals
from ldkit.objectives.student import Student
from ldkit.ops.anchors import anchors, valid_locations
from ldkit.ops.pixels import normalise
from ldkit.ops.regions import assign_atss, main_rows
from ldkit.structures import Anchors, Batch, LossTerms, padded_sizes, resized_sizes
from ldkit.training.checkpoint import TrainState
from ldkit.training.loop import Course, fit
from tests.benchmarks.paired import (
    Arm,
    Goal,
    measure,
    ratio,
    say,
    show_arms,
    show_machine,
    spread,
    verdict,
)
from tests.benchmarks.step_setting import Setting, prepare

PAIR_OF_GOAL = ("resnet101", "resnet18")
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}


def main() -> None:
    """Time the arms and say which goals they meet."""
    options = _options()
    clock = CLOCKS[options.clock]
    torch.manual_seed(0)
    with TemporaryDirectory() as folder:
        setting = prepare(Path(folder), options)
        canvases = sorted({batch.canvas_hw for batch in setting.batches})
        say(f"{options.teacher} to {options.student}, batch {options.batch}, canvases {canvases}")
        threads = f"{torch.get_num_threads()} threads"
        show_machine(f"torch {torch.__version__}", str(setting.device), threads)
        say(f"\nwhole steps, {options.rounds} rounds, {options.clock} clock")
        steps = measure(_steps(setting), options.rounds, clock=clock)
        show_arms(steps, "plain")
        say(f"\nparts of a step, {5 * options.rounds} rounds")
        parts = measure(_parts(setting), 5 * options.rounds, clock=clock)
        added = _show_parts(parts, median(steps["plain"]))
    cached, online = (ratio(steps, "cached", base) for base in ("plain", "online"))
    noise = spread(ratio(steps, "plain (A/A)", "plain"))
    say("")
    say(verdict(Goal("cached / plain", 1.02), cached.median, noise))
    say(f"cached / online: {online}")
    if (options.teacher, options.student) == PAIR_OF_GOAL:
        say(verdict(Goal("cached / online", 0.65), online.median, noise))
    noise = spread(ratio(parts, "lookup (A/A)", "lookup"))
    say(verdict(Goal("lookup + ld term, share of a plain step", 0.002), added, noise))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("root", nargs="?", type=Path, metavar="COCO_ROOT")
    parser.add_argument("--teacher", default="resnet101", help="backbone, by its timm name")
    parser.add_argument("--student", default="resnet18", help="backbone, by its timm name")
    parser.add_argument("--short", type=int, default=256, help="short side of the views, pixels")
    parser.add_argument("--long", type=int, default=320, help="most of the long side, pixels")
    parser.add_argument("--batch", type=int, default=2, help="images of a step")
    parser.add_argument("--batches", type=int, default=8, help="batches, taken in turn")
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--clock", choices=CLOCKS, default="wall")
    parser.add_argument("--device", default="cpu")
    return parser.parse_args()


def _steps(setting: Setting) -> dict[str, Arm]:
    plain = train_teacher.objective(setting.recipe)
    return {
        "plain": _loop(setting, plain),
        "plain (A/A)": _loop(setting, plain),
        "cached": _loop(setting, distill_objective.objective(setting.recipe, setting.cache)),
        "online": _loop(setting, distill_objective.objective(setting.recipe, setting.live)),
    }


def _loop(setting: Setting, objective: Objective) -> Arm:
    """Return an arm that takes one step of ldkit's loop at each call."""
    recipe, student = setting.recipe, setting.student
    layout = torch.channels_last if recipe.train.channels_last else torch.contiguous_format

    state = TrainState(student.train(), assemble.optimizer(recipe.optim, student))

    def step(batch: Batch) -> LossTerms:
        images = normalise(batch.pixels, resized_sizes(batch.views, setting.device))
        return objective(student(images.contiguous(memory_format=layout)), batch, state.step)

    def epoch(_: int, first: int) -> Iterable[Batch]:
        return setting.batches[first:]

    schedule = assemble.schedule(recipe.schedule, recipe.optim.lr)
    course = Course(schedule, len(setting.batches), clip_norm=recipe.optim.clip_norm)
    events = fit(step, epoch, state, course)
    next(events)  # the announcement of the run
    return _synchronised(events, setting.device)


def _synchronised(events: Iterator[object], device: torch.device) -> Arm:
    def run(_: int) -> None:
        next(events)
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    return run


def _parts(setting: Setting) -> dict[str, Arm]:
    recipe, device, batches = setting.recipe, setting.device, setting.batches
    grid, beta = assemble.grid(recipe.detector), recipe.objective.classification.beta
    settings = distill_settings(recipe.objective).ld_main
    assert settings is not None

    def of(number: int) -> Batch:
        return batches[number % len(batches)]

    def lookup(number: int) -> object:
        return setting.cache.lookup(of(number))

    def canvas_of(batch: Batch) -> tuple[Anchors, torch.Tensor]:
        valid = valid_locations(batch.canvas_hw, padded_sizes(batch.views, device), grid)
        return anchors(batch.canvas_hw, grid, device), valid

    def assignment(number: int) -> object:
        batch = of(number)
        topk = recipe.objective.assign.topk
        return main_rows(assign_atss(*canvas_of(batch), batch.ground_truth, topk))

    prepared = []
    for batch in batches:
        answer = setting.cache.lookup(batch)
        with torch.no_grad():
            said = setting.student(normalise(batch.pixels, resized_sizes(batch.views, device)))
            places, rows = canvas_of(batch), answer.main.rows
            values = gfl_values(said, *places, batch.ground_truth, rows, beta)
        own = values._replace(bbox_logits=values.bbox_logits.requires_grad_())
        sums = totals(rows, own.weight, len(batch.keys))
        prepared.append((Student(said, *places, batch.ground_truth, own, sums), answer.main))

    def ld_term(number: int) -> object:
        student, main = prepared[number % len(prepared)]
        return torch.autograd.grad(ld_main(student, main, settings), student.values.bbox_logits)

    return {"lookup": lookup, "lookup (A/A)": lookup, "ld term": ld_term, "assignment": assignment}


def _show_parts(parts: dict[str, list[float]], step: float) -> float:
    """Return the share of a plain step that reading and the LD term take."""
    say(f"{'part':<24} {'median':>12}   share of a plain step")
    for name, values in parts.items():
        say(f"{name:<24} {median(values) * 1e3:>9.3f} ms   {median(values) / step:.3%}")
    added = median(parts["lookup"]) + median(parts["ld term"])
    say(f"{'lookup + ld term':<24} {added * 1e3:>9.3f} ms   {added / step:.3%}")
    return added / step


if __name__ == "__main__":
    main()
