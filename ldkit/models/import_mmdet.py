"""Published GFL, GFLv2 and LD checkpoints of the mmdetection family, as weights of our detector.

A checkpoint is a dict with `state_dict` and `meta`, and in files from the middle of a training
also the optimizer, schedulers, averages and histories, which are left alone. What is taken from it
is taken whole: a tensor that is missing, of another shape or without a place is an error.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ldkit.errors import CheckpointError
from ldkit.models.checkpoint_file import listed, misfits
from ldkit.models.foreign_file import ForeignFile, is_tensor, read_foreign_file
from ldkit.models.inert_pickle import Record
from ldkit.models.mmdet_families import READS, refuse_other_families
from ldkit.models.mmdet_meta import Meta, named_classes, read_meta
from ldkit.models.mmdet_shapes import Architecture, read_architecture
from ldkit.models.mmdet_spare_class import without_spare_class

_WANTED = "a checkpoint of the mmdetection family"
_COUNTER = "num_batches_tracked"  # of a BatchNorm; nothing reads it
_PROJECTION = re.compile(r"bbox_head\.(integral|distribution_project)\.project$")
_OLD_OFFSET = re.compile(r"\.conv2_offset\.(weight|bias)$")
_LEFT_OUT = (
    (re.compile(r"(bbox_head\.)?teacher(_models?)?\."), "the teacher that trained it"),
    (re.compile(r"ema_"), "the weights before averaging"),
)

# Our names → theirs. The backbone's are the same. FPN's further levels follow its first ones.
_RENAMES = (
    (re.compile(r"^fpn\.lateral\.(\d+)\."), r"neck.lateral_convs.\1.conv."),
    (re.compile(r"^fpn\.output\.(\d+)\."), r"neck.fpn_convs.\1.conv."),
    (re.compile(r"^head\.cls_tower\.(\d+)\.conv\."), r"bbox_head.cls_convs.\1.conv."),
    (re.compile(r"^head\.cls_tower\.(\d+)\.norm\."), r"bbox_head.cls_convs.\1.gn."),
    (re.compile(r"^head\.bbox_tower\.(\d+)\.conv\."), r"bbox_head.reg_convs.\1.conv."),
    (re.compile(r"^head\.bbox_tower\.(\d+)\.norm\."), r"bbox_head.reg_convs.\1.gn."),
    (re.compile(r"^head\.cls_logits\."), r"bbox_head.gfl_cls."),
    (re.compile(r"^head\.bbox_logits\."), r"bbox_head.gfl_reg."),
    (re.compile(r"^head\.quality\.layers\.(\d+)\."), r"bbox_head.reg_conf.\1."),
    (re.compile(r"^head\.scales\.(\d+)$"), r"bbox_head.scales.\1.scale"),
)
_EXTRA = re.compile(r"^fpn\.extra\.(\d+)\.")


@dataclass(frozen=True, slots=True)
class Published:
    """A checkpoint as far as it is taken: weights by their published names, and what they are.

    `notes` say what was left out or renamed, for people.
    """

    path: Path
    sha256: str
    weights: dict[str, Tensor]
    architecture: Architecture
    meta: Meta
    notes: tuple[str, ...]


def read_published(path: Path) -> Published:
    """Return a published GFL or GFLv2 checkpoint; nothing in the file is run.

    Raises:
        CheckpointError: The file is missing, damaged, of another program or another detector; or
            its detector is none that ldkit can build.
    """
    where = str(path)
    file = read_foreign_file(path, _WANTED, READS)
    state = _state_of(file.content, where)
    records, notes = _tidied(state, where)
    refuse_other_families(records, where)
    weights = {name: _as_float(tensor) for name, tensor in _loaded(file, records).items()}
    projection = [weights.pop(name) for name in list(weights) if _PROJECTION.match(name)]
    shapes = {name: tuple(tensor.shape) for name, tensor in weights.items()}
    weights, architecture, note = without_spare_class(
        weights, read_architecture(shapes, where), named_classes(file.content), where
    )
    notes += [note] if note else []
    _check_bins(projection, architecture.reg_max + 1, where)
    _check_numbers(weights, where)
    meta = read_meta(file.content, architecture.num_classes, where)
    return Published(path, file.sha256(), weights, architecture, meta, tuple(notes))


def fitted(published: Published, detector: nn.Module) -> dict[str, Tensor]:
    """Return the published weights by the names of `detector`, which must be of their architecture.

    Raises:
        CheckpointError: Tensors are missing, have other shapes, or have no place; all are listed
            by their published names.
    """
    state = detector.state_dict()
    laterals = sum(name.startswith("fpn.lateral.") for name in state) // 2
    theirs = {name: published_name(name, laterals) for name in state}
    found = published.weights
    wanted = {theirs[name]: state[name] for name in state if not name.endswith(_COUNTER)}
    problems = misfits(wanted, found)
    known = set(theirs.values())
    problems += [f"unexpected  {n}" for n in found if n not in known and not n.endswith(_COUNTER)]
    if problems:
        raise CheckpointError(
            "does not fit the detector that its shapes describe "
            f"({published.architecture.backbone}).\n{listed(problems)}",
            where=str(published.path),
            hint="Nothing was imported. " + READS,
        )
    counters = {name: torch.zeros_like(state[name]) for name in state if name.endswith(_COUNTER)}
    return {name: counters[name] if name in counters else found[theirs[name]] for name in state}


def published_name(name: str, laterals: int) -> str:
    """Return the published name of one of our weights, for a pyramid on so many backbone maps."""
    extra = _EXTRA.match(name)
    if extra is not None:
        return f"neck.fpn_convs.{laterals + int(extra[1])}.conv.{name[extra.end() :]}"
    for pattern, theirs in _RENAMES:
        if pattern.match(name):
            return pattern.sub(theirs, name)
    return name


def _state_of(content: Any, where: str) -> Mapping[str, Any]:
    """Return the weights of a file: its `state_dict`, or all of it where it holds tensors only."""
    if isinstance(content, dict):
        if isinstance(content.get("ldkit"), str):
            raise CheckpointError(
                "is a model file of ldkit already.", where=where, hint="Take it as it is."
            )
        state = content.get("state_dict", content)
        if isinstance(state, dict) and state and all(map(is_tensor, state.values())):
            return {str(name): value for name, value in state.items()}
    raise CheckpointError(
        f"is not {_WANTED}: it holds {_described(content)}, but a `state_dict` of tensors is "
        "expected.",
        where=where,
        hint=READS,
    )


def _described(content: Any) -> str:
    if isinstance(content, Record):
        return f"one {content.name}"
    if not isinstance(content, dict):
        return f"one {type(content).__name__}"
    parts = []
    for name, value in content.items():
        kind = f" ({value.name})" if isinstance(value, Record) and not is_tensor(value) else ""
        parts.append(f"{str(name)[:40]!r}{kind}")
    more = f" and {len(parts) - 6} more" if len(parts) > 6 else ""
    return f"the entries {', '.join(parts[:6]) or 'of nothing'}{more}"


def _tidied(state: Mapping[str, Any], where: str) -> tuple[dict[str, Any], list[str]]:
    """Return the detector's own tensors by the names of mmdetection 2 and 3, and what was done."""
    notes = []
    tidied: dict[str, Any] = {}
    for name, value in state.items():
        bare = name
        while bare.startswith("module."):
            bare = bare.removeprefix("module.")
        if bare in tidied:
            raise CheckpointError(f"has {bare} twice: with and without `module.`.", where=where)
        tidied[bare] = value
    for pattern, what in _LEFT_OUT:
        left = [name for name in tidied if pattern.match(name)]
        if left:
            tidied = {name: value for name, value in tidied.items() if name not in set(left)}
            notes.append(f"Left out: {what} ({_counted(left)}, the first {left[0]}).")
    renamed = {name: _OLD_OFFSET.sub(r".conv2.conv_offset.\1", name) for name in tidied}
    old = [name for name, new in renamed.items() if name != new]
    if old:
        notes.append(f"Renamed: deformable convolutions of older versions ({_counted(old)}).")
    return {renamed[name]: value for name, value in tidied.items()}, notes


def _loaded(file: ForeignFile, records: Mapping[str, Any]) -> dict[str, Tensor]:
    return file.tensors({n: record for n, record in records.items() if not n.endswith(_COUNTER)})


def _as_float(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.is_floating_point() else tensor


def _check_bins(projections: list[Tensor], num_bins: int, where: str) -> None:
    """Check that the bins are 0, 1, 2, …: some files name them."""
    for projection in projections:
        if projection.shape != (num_bins,):
            problem = f"names {projection.numel()} bins, but its box branch has {num_bins}."
        elif not torch.equal(projection, torch.arange(num_bins).float()):
            problem = f"has bins that are not 0 to {num_bins - 1}."
        else:
            continue
        raise CheckpointError(problem, where=where, hint="ldkit knows GFL's even bins only.")


def _check_numbers(weights: Mapping[str, Tensor], where: str) -> None:
    broken = [name for name, tensor in weights.items() if not tensor.isfinite().all()]
    if broken:
        raise CheckpointError(
            f"has infinite or undefined numbers in {_counted(broken)}:\n{listed(broken)}",
            where=where,
            hint="It was saved after its training had failed, or it is damaged.",
        )


def _counted(names: list[str]) -> str:
    return f"{len(names)} tensor{'s' if len(names) != 1 else ''}"
