"""What a checkpoint of mmdetection says of itself: classes, versions, and how images go in."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ldkit.errors import CheckpointError

# Facts worth keeping, by their names in 2.x and 3.x.
_FACTS = (
    "mmdet_version",
    "mmcv_version",
    "mmengine_version",
    "exp_name",
    "experiment_name",
    "epoch",
    "iter",
    "time",
    "seed",
)
_MEAN, _STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
_CONSTANTS = {"mean": _MEAN, "std": _STD}


@dataclass(frozen=True, slots=True)
class Meta:
    """What the file says. `classes` is empty where it does not say, or not of this head.

    `form` is 2.x, 3.x, or "bare" for weights without anything beside them.
    """

    form: str
    classes: tuple[str, ...]
    facts: dict[str, str | int]


def read_meta(content: Mapping[Any, Any], num_classes: int, where: str) -> Meta:
    """Return what the file says of itself, for a head of so many classes.

    Raises:
        CheckpointError: The head has a row more than there are classes (GFLv2), or the file's
            configuration prepares images in another way than ldkit does.
    """
    found = content.get("meta")
    meta: Mapping[Any, Any] = found if isinstance(found, dict) else {}
    dataset = meta.get("dataset_meta")
    inner: Mapping[Any, Any] = dataset if isinstance(dataset, dict) else {}
    named = [
        _names(source.get(key))
        for source in (meta, inner)
        for key in ("CLASSES", "classes")
        if key in source
    ]
    classes = next((names for names in named if names), ())
    if len(classes) + 1 == num_classes and len(classes) > 1:
        raise CheckpointError(
            f"has {num_classes} rows of classes for its {len(classes)} classes: a head without a "
            "sigmoid, as GFLv2 has it.",
            where=where,
            hint="Take a GFL (v1) or LD checkpoint; those have one row for each class.",
        )
    for key in ("config", "cfg"):
        if isinstance(meta.get(key), str):
            _refuse_other_input(meta[key], where)
    facts = {key: meta[key] for key in _FACTS if isinstance(meta.get(key), str | int)}
    is_newer = bool(inner) or "mmengine_version" in meta or "message_hub" in content
    form = "3.x" if is_newer else "2.x" if meta else "bare"
    return Meta(form, classes if len(classes) == num_classes else (), facts)


def _names(value: Any) -> tuple[str, ...]:
    """Return class names; a single class is often written without its list."""
    if isinstance(value, str):
        return (value,)
    is_names = isinstance(value, list | tuple) and all(isinstance(name, str) for name in value)
    return tuple(value) if is_names else ()


def _refuse_other_input(text: str, where: str) -> None:
    """Check the numbers that a configuration writes down for its images and its backbone."""
    problems = []
    for key, expected in _CONSTANTS.items():
        written = {_numbers(match) for match in re.findall(rf"\b{key}=[\[(]([^\])]*)[\])]", text)}
        if written and expected not in written:
            problems.append(f"{key} {sorted(written)[0]}, not {expected}")
    if re.search(r"\b(bgr_to_rgb|to_rgb)=False", text):
        problems.append("BGR, not RGB")
    if re.search(r"\bstyle='caffe'", text):
        problems.append("a backbone in caffe style, not in pytorch style")
    if problems:
        raise CheckpointError(
            f"was trained for other images or another ResNet than ldkit's: {'; '.join(problems)}.",
            where=where,
            hint="Its weights would load and give nonsense. Take a checkpoint in pytorch style.",
        )


def _numbers(text: str) -> tuple[float, ...]:
    return tuple(float(number) for number in re.findall(r"-?\d+\.?\d*", text))
