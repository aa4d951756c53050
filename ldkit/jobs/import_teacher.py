"""`ldkit teacher import`: a published checkpoint becomes a model file of ours."""

import re
from collections.abc import Generator
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from ldkit import __version__
from ldkit.data import voc
from ldkit.errors import CheckpointError, UsageError
from ldkit.files import short
from ldkit.jobs import assemble
from ldkit.jobs.class_names import class_names, listing
from ldkit.jobs.facts import Fact, Facts
from ldkit.jobs.progress import Message, Note
from ldkit.models.checkpoint_file import (
    ModelFile,
    read_model,
    refuse_unknown_ending,
    write_model,
)
from ldkit.models.import_mmdet import Published, fitted, read_published
from ldkit.models.mmdet_families import READS
from ldkit.models.mmdet_shapes import Architecture
from ldkit.recipe.detector import Detector
from ldkit.recipe.load import load_recipe, shipped_recipes
from ldkit.recipe.schema import Recipe
from ldkit.recipe.table import short_name

NEAREST = "r101"
_KINDS = ("timm", "small", "gfl", "gflv2")  # stand in places of pydantic, and in no recipe
_ZOO_NAME = re.compile(r"[-_]([0-9a-f]{8})\.pth$")


def run(
    path: Path, out: Path | None = None, classes: str | None = None
) -> Generator[Message, None, Facts]:
    """Yield notes; return what was imported. The model file is written last.

    Args:
        path: A GFL, GFLv2 or LD checkpoint of mmdetection.
        out: The model file; without it, the short name of the architecture, such as r101.pt, or
            r101_gflv2.pt.
        classes: Names separated by commas, or a text file with one name a line; without it those
            of the checkpoint, or COCO's.

    Raises:
        CheckpointError: The file is none that can be imported.
        UsageError: `out` or `classes` cannot be used.
    """
    if out is not None:
        refuse_unknown_ending(out)
    published = read_published(path)
    for note in published.notes:
        yield Note(note)
    names, remarks = class_names(published, classes)
    for remark in (*_doubts(published), *remarks):
        yield Note(remark)
    section = _section(published)
    weights = fitted(published, assemble.detector(section, len(names)))
    short = short_name(section.backbone)
    recipe, source = _recipe(section, short, names)
    file = ModelFile(
        weights=weights,
        detector=section.model_dump(mode="json"),
        classes=names,
        origin=_origin(published, recipe),
    )
    target = out or Path(f"{short}.pt" if section.head.kind == "gfl" else f"{short}_gflv2.pt")
    if _is_there(target, file):
        yield Note(f"{target} holds this model already; nothing was written.")
    else:
        write_model(target, file)
    return _facts(published, file, target, source)


def _doubts(published: Published) -> list[str]:
    """Return what speaks against the file: the zoo writes the start of its sha256 in its name."""
    match = _ZOO_NAME.search(published.path.name)
    if match is None or published.sha256.startswith(match[1]):
        return []
    doubt = (
        f"The name promises a file of sha256 {match[1]}…, but it is {published.sha256[:8]}…: "
        "changed since it was published, or renamed."
    )
    return [doubt]


def _section(published: Published) -> Detector:
    """Return the detector section of this architecture."""
    found = published.architecture
    deform, frozen = None, 1
    if found.deform_stages:
        deform = {"stages": found.deform_stages, "version": found.deform_version}
        frozen = min(1, found.deform_stages[0] - 1)
    backbone = {"name": found.backbone, "pretrained": False, "frozen_stages": frozen}
    document = {
        "backbone": backbone | ({"deform": deform} if deform else {}),
        "fpn": {"channels": found.channels, "levels": found.levels},
        "head": {"convs": found.convs, "reg_max": found.reg_max} | _quality(found),
    }
    try:
        return Detector.model_validate(document)
    except ValidationError as error:
        problems = [
            f"  {'.'.join(str(k) for k in problem['loc'] if k not in _KINDS)}: {problem['msg']}"
            for problem in error.errors()
        ]
        raise CheckpointError(
            "has an architecture that ldkit cannot build:\n" + "\n".join(problems),
            where=str(published.path),
            hint=READS,
        ) from error


def _quality(found: Architecture) -> dict[str, Any]:
    """Return what a GFLv2 head has beside a GFL head, as keys of a recipe."""
    if found.quality is None:
        return {}
    quality = found.quality
    return {"kind": "gflv2", "topk": quality.topk, "quality_channels": quality.channels}


def _recipe(section: Detector, short: str, classes: tuple[str, ...]) -> tuple[Recipe, str]:
    """Return the recipe that says which data and views suit the model, and its source's name.

    The shipped recipe of the same backbone and classes, where there is one; its detector is the
    imported one, and what it expects of its own training is left out.
    """
    folder = "voc" if classes == voc.CLASSES else "coco"
    own = f"{folder}/gfl_{short}"
    source = own if own in shipped_recipes() else f"{folder}/gfl_{NEAREST}"
    loaded = load_recipe(source).recipe
    kind = section.head.kind
    name = loaded.name if source == own and kind == "gfl" else f"{kind}_{short}"
    return loaded.model_copy(update={"name": name, "model": section, "expect": None}), source


def _origin(published: Published, recipe: Recipe) -> dict[str, Any]:
    return {
        "ldkit": __version__,
        "name": recipe.name,
        "imported": published.path.name,
        "sha256": published.sha256,
        "form": published.meta.form,
        "meta": published.meta.facts,
        "recipe": recipe.model_dump(mode="json"),
    }


def _is_there(target: Path, file: ModelFile) -> bool:
    """Say whether the model file is written already; another file there is not replaced."""
    if not target.exists():
        return False
    try:
        there = read_model(target)
    except CheckpointError:
        there = None
    if there is not None and _identity(there, target) == _identity(file, target):
        return True
    raise UsageError(
        "holds something else already, and is not replaced.",
        where=str(target),
        hint="Name another file with `--out FILE.pt`, or remove it.",
    )


def _identity(file: ModelFile, path: Path) -> tuple[str, tuple[str, ...], Detector | None]:
    """Return what makes a model file; its detector is None where this version does not know it."""
    try:
        section = assemble.detector_section(file, path)
    except CheckpointError:
        section = None
    return file.fingerprint, file.classes, section


def _facts(published: Published, file: ModelFile, target: Path, source: str) -> Facts:
    found, meta = published.architecture, published.meta
    told = ", ".join(f"{key} {value}" for key, value in meta.facts.items())
    numbers = sum(weights.numel() for weights in published.weights.values())
    path, sha256 = str(published.path), published.sha256
    return {
        "file": Fact(f"{path}, sha256 {short(sha256)}", {"path": path, "sha256": sha256}),
        "from": Fact(
            f"mmdetection {meta.form}" + (f" ({told})" if told else ""),
            {"form": meta.form, **meta.facts},
        ),
        "backbone": Fact(found.backbone + _deformable(found), file.detector["backbone"]),
        "pyramid": Fact(
            f"{found.channels} channels, levels {found.levels[0]} to {found.levels[-1]}",
            file.detector["fpn"],
        ),
        "head": Fact(
            f"{found.convs} + {found.convs} convolutions, {found.reg_max + 1} bins "
            f"(reg_max {found.reg_max}){_weighed(found)}",
            file.detector["head"],
        ),
        "classes": Fact(f"{found.num_classes} ({listing(file.classes)})", list(file.classes)),
        "tensors": Fact(
            f"{len(published.weights):,} ({numbers:,} numbers)", len(published.weights)
        ),
        "assumed": _assumed(found),
        "recipe": source,
        "model": str(target),
    }


def _weighed(found: Architecture) -> str:
    if found.quality is None:
        return ""
    quality = found.quality
    return (
        f", scores weighed by the {quality.topk} largest probabilities of each edge (GFLv2, "
        f"{quality.channels} channels)"
    )


def _assumed(found: Architecture) -> str:
    first, last = 2 ** found.levels[0], 2 ** found.levels[-1]
    text = f"strides {first} to {last}, anchors of 8 strides, GroupNorm of 32 groups"
    return text if found.quality is None else f"{text}, a mean beside the largest probabilities"


def _deformable(found: Architecture) -> str:
    if not found.deform_stages:
        return ""
    stages = ", ".join(map(str, found.deform_stages))
    return f", deformable (version {found.deform_version}) in stages {stages}"
