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


def named_classes(content: Mapping[Any, Any]) -> tuple[str, ...]:
    """Return the classes that the file names, of whatever number; none where it names none."""
    named = [
        _names(source.get(key))
        for source in (_meta(content), _dataset_meta(content))
        for key in ("CLASSES", "classes")
        if key in source
    ]
    return next((names for names in named if names), ())


def read_meta(content: Mapping[Any, Any], num_classes: int, where: str) -> Meta:
    """Return what the file says of itself, for a head of so many classes.

    Raises:
        CheckpointError: The head has a row more than there are classes, or the file's
            configuration prepares images, or reads distributions, in another way than ldkit does.
    """
    meta, classes = _meta(content), named_classes(content)
    if len(classes) + 1 == num_classes and len(classes) > 1:
        raise CheckpointError(
            f"has {num_classes} rows of classes for its {len(classes)} classes: a head without a "
            "sigmoid, as GFLv2 has it, but without the quality of GFLv2.",
            where=where,
            hint="Take a checkpoint of GFL, GFLv2 or LD as it was published.",
        )
    for key in ("config", "cfg"):
        if isinstance(meta.get(key), str):
            _refuse_other_input(meta[key], where)
            _refuse_other_quality(meta[key], where)
    facts = {key: meta[key] for key in _FACTS if isinstance(meta.get(key), str | int)}
    is_newer = (
        bool(_dataset_meta(content)) or "mmengine_version" in meta or "message_hub" in content
    )
    form = "3.x" if is_newer else "2.x" if meta else "bare"
    return Meta(form, classes if len(classes) == num_classes else (), facts)


def _meta(content: Mapping[Any, Any]) -> Mapping[Any, Any]:
    found = content.get("meta")
    return found if isinstance(found, dict) else {}


def _dataset_meta(content: Mapping[Any, Any]) -> Mapping[Any, Any]:
    found = _meta(content).get("dataset_meta")
    return found if isinstance(found, dict) else {}


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


def _refuse_other_quality(text: str, where: str) -> None:
    """Check that a GFLv2 head reads the mean beside the largest values: shapes do not tell."""
    if re.search(r"\badd_mean=False", text):
        raise CheckpointError(
            "has a GFLv2 head that does not read the mean of the largest probabilities "
            "(add_mean=False); ldkit's does.",
            where=where,
            hint="Take a checkpoint of GFLv2 as it was published.",
        )


def _numbers(text: str) -> tuple[float, ...]:
    return tuple(float(number) for number in re.findall(r"-?\d+\.?\d*", text))
