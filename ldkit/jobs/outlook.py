"""What a training run would do, without doing it: the facts that `--dry-run` shows."""

from math import prod

import torch
from torch import Tensor, nn

from ldkit.jobs import assemble
from ldkit.jobs.facts import Fact, number, share, size
from ldkit.jobs.runs import RunFolder
from ldkit.jobs.train import Material, Task, course
from ldkit.recipe.schema import AdamW, Sgd


def outlook(task: Task, material: Material) -> dict[str, str | Fact]:
    """Return data, steps, parameters, disk and device of a run. Nothing is written.

    The detector is made as the run would make it, so that weights which cannot be had are found
    now.
    """
    recipe = task.recipe
    planned = course(recipe, material.records)
    torch.manual_seed(recipe.seed)
    model = assemble.detector(recipe.detector, len(material.index.categories))
    trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
    return {
        "run": str(task.folder),
        "model": str(task.out or RunFolder(task.folder).model),
        "images": share(len(material.records), len(material.index.records)),
        "classes": number(len(material.index.categories)),
        "steps": Fact(
            f"{planned.total_steps:,} ({planned.steps_per_epoch:,} an epoch)",
            {"count": planned.total_steps, "per_epoch": planned.steps_per_epoch},
        ),
        "trainable parameters": number(trainable),
        "disk": _disk(task, model),
        "device": str(task.device),
    }


def _disk(task: Task, model: nn.Module) -> Fact:
    """Return what the finished model and the checkpoints that are kept will take."""
    weights = sum(_bytes(tensor) for tensor in model.state_dict().values())
    learned = sum(_bytes(p) for p in model.parameters() if p.requires_grad)
    checkpoint = weights + _moments(task.recipe.optim) * learned
    keep = task.recipe.train.keep
    total = weights + keep * checkpoint
    text = f"{size(total)} (model {size(weights)}, {keep} checkpoints of {size(checkpoint)})"
    return Fact(text, {"bytes": total, "model_bytes": weights, "checkpoint_bytes": checkpoint})


def _moments(optim: Sgd | AdamW) -> int:
    """Return how many numbers an optimizer keeps for each parameter."""
    if isinstance(optim, AdamW):
        return 2
    return 1 if optim.momentum else 0


def _bytes(tensor: Tensor) -> int:
    return prod(tensor.shape) * tensor.element_size()
