"""Does this teacher fit this student? Everything that must be equal, before anything starts."""

from collections.abc import Iterator
from pathlib import Path

from ldkit.data.coco import CocoIndex
from ldkit.errors import CheckpointError
from ldkit.jobs import assemble, sources
from ldkit.models.checkpoint_file import ModelFile
from ldkit.recipe.detector import Detector
from ldkit.recipe.schema import Recipe

_PLACES = {
    "num_bins": ("student.head.reg_max", "LD compares distributions bin by bin"),
    "strides": ("student.fpn.levels", "locations are compared one by one"),
    "anchor_scale": ("student.head.anchor_scale", "anchors decide which rows learn"),
    "bin_width": ("student.head.bin_width", "LD compares distributions bin by bin"),
}


def teacher_path(recipe: Recipe) -> Path:
    """Return the file of the recipe's teacher."""
    assert recipe.teacher is not None
    return Path(recipe.teacher.checkpoint)


def check_student(recipe: Recipe, file: ModelFile, path: Path, index: CocoIndex) -> None:
    """Refuse a teacher whose classes, bins, strides or anchors differ from the student's.

    Raises:
        CheckpointError: With everything that differs.
    """
    sources.check_teacher(file, path, index)
    section = assemble.detector_section(file, path)
    lines = [*misfits(recipe, section, index), *_cross_misfits(recipe, section)]
    if lines:
        raise CheckpointError(
            "does not fit the student:\n" + "\n".join(lines),
            where=str(path),
            hint="Give the student the teacher's values, or take another teacher.",
        )


def misfits(recipe: Recipe, section: Detector, index: CocoIndex) -> list[str]:
    """Return a line for each value in which a teacher of the same classes does not fit."""
    classes = len(index.categories)
    student = sources.axes(recipe.detector, classes).model_dump()
    teacher = sources.axes(section, classes).model_dump()
    return [
        f"  {name}: the teacher has {teacher[name]}, the student {student[name]} "
        f"(set {place}; {reason})"
        for name, (place, reason) in _PLACES.items()
        if teacher[name] != student[name]
    ]


def _cross_misfits(recipe: Recipe, teacher: Detector) -> Iterator[str]:
    """Yield a line for each reason why the student's features cannot go through this head."""
    cross, student = recipe.objective.cross, recipe.detector
    if cross.classification is None and cross.box is None:
        return
    if teacher.fpn.channels != student.fpn.channels:
        yield (
            f"  channels: the teacher has {teacher.fpn.channels}, the student "
            f"{student.fpn.channels} (set student.fpn.channels; CrossKD sends the student's "
            "features through the teacher's head)"
        )
    if teacher.head.convs < cross.after:
        yield (
            f"  convs: the teacher's head has {teacher.head.convs}, features cross over after "
            f"{cross.after} (set objective.cross.after)"
        )
