"""How much of LD's loss and gradient does each codec of box logits change?

    .venv/bin/python tests/benchmarks/cache_codecs.py ROOT TEACHER STUDENT [--recipe shapes/full]

TEACHER and STUDENT are trained files of the recipe's classes and bins, ROOT is its data set. Both
say what they see at the rows of main and VLR of `--images` training views. Then the teacher's
logits go through each codec of the cache, and the LD term (its plain mean over edges) and its
gradient by the student's logits are compared with those of the logits as they are. `+ 2-byte
width` is u8 with a float16 for each edge in place of the byte that it stores: what that byte
costs. `student in bf16` is a yardstick: the teacher's logits stay as they are, the student's are
rounded as training in bfloat16 would. Nothing is timed; equal files give equal figures.
"""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from ldkit.cache.codecs import LEVELS, decode, encode
from ldkit.cache.columns import BoxCodec, region_group
from ldkit.cache.format import Coverage, MainRegion, VlrRegion, Wanted
from ldkit.data.dataset import ViewDataset, load_batches
from ldkit.jobs import assemble
from ldkit.jobs.canvases import groups_of_equal_canvas
from ldkit.jobs.live_teacher import part_of_batch
from ldkit.jobs.material import Material
from ldkit.jobs.sources import planned_keys
from ldkit.jobs.teacher_rows import rows_of_group
from ldkit.ops.distribution import project
from ldkit.ops.losses import localization_kl
from ldkit.recipe.load import load_recipe
from ldkit.recipe.schema import Recipe
from ldkit.structures import TeacherRows
from tests.benchmarks.paired import say

TEMPERATURES = (10.0, 1.0)
WANTED = Wanted(
    Coverage(main=MainRegion(topk=9), vlr=VlrRegion(topk=9, overlap="published", floor=0.25)),
    frozenset({"main.bbox_logits", "vlr.bbox_logits"}),
)


class Sides(NamedTuple):
    """The logits of both networks at the same rows."""

    teacher: Tensor
    student: Tensor


class Term(NamedTuple):
    """The LD term and its gradient."""

    loss: float
    gradient: Tensor


def main() -> None:
    """Ask both networks, send the teacher's logits through the codecs, show what changes."""
    options = _options()
    recipe = load_recipe(options.recipe, [f"data.root={options.root.resolve()}"]).recipe
    bins = recipe.detector.head.reg_max + 1
    for region, sides in _asked(recipe, options).items():
        teacher = sides.teacher
        spread = (teacher.amax(-1) - teacher.amin(-1)).flatten()
        say(f"\n{region}: {len(teacher):,} rows, {bins} bins; an edge's logits spread over")
        say(f"{spread.median():.1f} (median), {spread.max():.1f} (largest)")
        heads = "".join(f"  {f'T = {t:g}: loss':>14} {'gradient':>9}" for t in TEMPERATURES)
        say(f"{'codec':<18} {'bytes/edge':>10}{heads}  {'bins, worst':>11}")
        exact = [_term(sides, temperature) for temperature in TEMPERATURES]
        for name, (size, change) in _changes(bins).items():
            found = [_term(change(sides), temperature) for temperature in TEMPERATURES]
            errors = "".join(_errors(*pair) for pair in zip(found, exact, strict=True))
            bins_off = (project(change(sides).teacher) - project(teacher)).abs().max().item()
            say(f"{name:<18} {size:>10}{errors}  {bins_off:>11.2g}")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("root", type=Path, metavar="ROOT")
    parser.add_argument("teacher", type=Path, metavar="TEACHER")
    parser.add_argument("student", type=Path, metavar="STUDENT")
    parser.add_argument("--recipe", default="shapes/full")
    parser.add_argument("--images", type=int, default=100)
    return parser.parse_args()


def _asked(recipe: Recipe, options: argparse.Namespace) -> dict[str, Sides]:
    material = Material.of(recipe)
    networks = [assemble.trained_detector(file)[0] for file in (options.teacher, options.student)]
    chosen = sorted(material.records)[: options.images]
    keys = [[key] for key in planned_keys(recipe, chosen)]
    dataset = ViewDataset(material.records, material.draw)
    said: list[list[TeacherRows]] = [[], []]
    for batch in load_batches(dataset, keys, 0, torch.device("cpu")):
        for members in groups_of_equal_canvas(batch.views, len(batch.keys)):
            part = part_of_batch(batch, members)
            for network, answers in zip(networks, said, strict=True):
                answers.append(rows_of_group(network, part, WANTED))
    return {
        region: Sides(*(_logits(answers, region) for answers in said)) for region in ("main", "vlr")
    }


def _logits(answers: Sequence[TeacherRows], region: str) -> Tensor:
    return torch.cat([getattr(answer, region).bbox_logits for answer in answers])


Change = Callable[[Sides], Sides]


def _changes(bins: int) -> dict[str, tuple[str, Change]]:
    """Return codec → bytes of an edge, and what becomes of the logits."""
    changes: dict[str, tuple[str, Change]] = {}
    for codec in ("fp32", "fp16", "u8"):
        changes[codec] = _through(codec, bins)
    changes["u8 + 2-byte width"] = str(bins + 2), _exact_widths
    changes["bf16"] = str(2 * bins), lambda sides: sides._replace(teacher=_bf16(sides.teacher))
    changes["student in bf16"] = "", lambda sides: sides._replace(student=_bf16(sides.student))
    return changes


def _through(codec: BoxCodec, bins: int) -> tuple[str, Change]:
    columns = region_group("vlr", bins, 1, codec, None).columns[2:]

    def change(sides: Sides) -> Sides:
        values, scale = encode(sides.teacher, columns[0], "here")
        steps = None if scale is None else torch.from_numpy(scale)
        return sides._replace(teacher=decode(torch.from_numpy(values), steps))

    return str(sum(column.entry_bytes for column in columns) // 4), change


def _exact_widths(sides: Sides) -> Sides:
    below = sides.teacher.amax(-1, keepdim=True) - sides.teacher
    step = (below.amax(-1, keepdim=True) / LEVELS).half().float().clamp(min=2.0**-22)
    return sides._replace(teacher=-step * (below / step).round().clamp(max=LEVELS))


def _bf16(logits: Tensor) -> Tensor:
    return logits.bfloat16().float()


def _term(sides: Sides, temperature: float) -> Term:
    student = sides.student.double().requires_grad_()
    loss = localization_kl(student, sides.teacher.double(), temperature=temperature).mean()
    (gradient,) = torch.autograd.grad(loss, student)
    return Term(loss.item(), gradient)


def _errors(found: Term, exact: Term) -> str:
    loss = abs(found.loss - exact.loss) / exact.loss
    gradient = ((found.gradient - exact.gradient).norm() / exact.gradient.norm()).item()
    return f"  {loss:>14.1e} {gradient:>9.1e}"


if __name__ == "__main__":
    main()
