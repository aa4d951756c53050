"""Checkpoints as mmdetection writes them, with the objects of its own classes that they hold."""

import sys
import types
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ldkit.models.backbone import timm_backbone
from ldkit.models.deform import Deform
from ldkit.models.fpn import Fpn
from ldkit.models.gfl import Detector, GflHead
from ldkit.models.quality import EdgeQuality
from tests.models.published import GRID, LEVELS, published_name, rule

CONFIG = """model = dict(
    type='GFL',
    backbone=dict(type='ResNet', depth=18, norm_eval=True, style='pytorch'),
    bbox_head=dict(type='GFLHead', target_means=[0.0, 0.0, 0.0, 0.0], init_cfg=dict(std=0.01)))
img_norm_cfg = dict(
    mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], to_rgb=True)
"""
CLASSES = ("cat", "dog", "rabbit")


def small_detector(
    backbone: str = "resnet18", deform: Deform | None = None, *, has_quality: bool = False
) -> Detector:
    """A GFL or GFLv2 detector, as small as its backbone lets it be."""
    net = timm_backbone(backbone, LEVELS, False, 1, True, deform)
    quality = EdgeQuality(topk=4, channels=16) if has_quality else None
    return Detector(net, Fpn(net.channels, 32, LEVELS), GflHead(32, 3, 2, 32, 8, GRID, quality))


def published_state(model: Detector) -> dict[str, Tensor]:
    """Return the model's weights as a published checkpoint names them.

    With a quality there is a class row more than classes, as published.
    """
    state = OrderedDict((published_name(k), v.clone()) for k, v in model.state_dict().items())
    if model.head.quality is not None:
        for name in ("bbox_head.gfl_cls.weight", "bbox_head.gfl_cls.bias"):
            spare = rule(name, torch.Size((1, *state[name].shape[1:])))
            state[name] = torch.cat([state[name], spare.to(state[name])])
    state["bbox_head.integral.project"] = torch.arange(float(model.num_bins))
    state._metadata = OrderedDict(version=1)  # type: ignore[attr-defined]  # as torch has it
    return state


def older_file(state: Mapping[str, Tensor], classes: object = CLASSES) -> dict[str, Any]:
    """Return the content of a published file of 2.x."""
    meta = {"mmdet_version": "2.10.0+fa1c3a7", "mmcv_version": "1.2.7", "epoch": 24, "iter": 175944}
    meta |= {"time": "Tue Jun 30 20:01:26 2020", "seed": None, "config": CONFIG}
    return {"meta": meta | {"CLASSES": classes}, "state_dict": state}


def newer_file(state: Mapping[str, Tensor], classes: object = CLASSES) -> dict[str, Any]:
    """Return the content of a file of 3.x from the middle of a training."""
    parameters = [torch.zeros(2, requires_grad=True)]
    return {
        "meta": {
            "mmengine_version": "0.10.7",
            "experiment_name": "gfl_r18",
            "epoch": 12,
            "iter": 100,
            "cfg": CONFIG,
            "dataset_meta": {"classes": classes, "palette": [(220, 20, 60)]},
        },
        "state_dict": state,
        "ema_state_dict": {"steps": torch.tensor(3), "module.w": torch.zeros(2)},
        "message_hub": _message_hub(),
        "optimizer": torch.optim.SGD(parameters, lr=0.1).state_dict(),
        "param_schedulers": [{"begin": 0, "end": 500, "verbose": False}],
    }


def _message_hub() -> dict[str, Any]:
    history = foreign("mmengine.logging.history_buffer", "HistoryBuffer")
    history.values = np.arange(4.0)
    config = foreign("mmengine.config.config", "ConfigDict")
    config.nested = {"a": (1, 2)}
    return {"log_scalars": OrderedDict(loss=history), "runtime_info": {"cfg": config}}


def foreign(module: str, name: str) -> Any:
    """Return an object of a class that only `save` can see."""
    return type(name, (), {"__module__": module, "__qualname__": name})()


def save(content: object, path: Path, *, is_zip: bool = True) -> Path:
    """Write a file with torch, while the foreign classes in it can be found."""
    with _importable(content):
        torch.save(content, path, _use_new_zipfile_serialization=is_zip)
    return path


@contextmanager
def _importable(content: object) -> Iterator[None]:
    made: dict[str, types.ModuleType] = {}
    for kind in _foreign_kinds(content):
        module = made.setdefault(kind.__module__, types.ModuleType(kind.__module__))
        setattr(module, kind.__name__, kind)
    parents = {".".join(name.split(".")[:end]) for name in made for end in (1, 2)}
    added = {name: made.get(name, types.ModuleType(name)) for name in {*made, *parents}}
    sys.modules.update(added)
    try:
        yield
    finally:
        for name in added:
            del sys.modules[name]


def _foreign_kinds(value: object) -> Iterator[type]:
    if isinstance(value, dict):
        for inner in value.values():
            yield from _foreign_kinds(inner)
    elif type(value).__module__.startswith("mmengine"):
        yield type(value)
