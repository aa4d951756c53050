"""What the classes of a published checkpoint are called: the file knows, or the user does."""

from pathlib import Path

from ldkit.errors import CheckpointError, UsageError
from ldkit.models.coco_classes import COCO_CLASSES
from ldkit.models.import_mmdet import Published


def class_names(published: Published, given: str | None) -> tuple[tuple[str, ...], list[str]]:
    """Return the names of the classes, and what the user should know about them.

    Raises:
        UsageError: `given` is no list of so many names.
        CheckpointError: Nobody says what they are called.
    """
    count = published.architecture.num_classes
    own = published.meta.classes
    if given is not None:
        return _given_names(given, count), []
    if tuple(name.replace("_", " ") for name in own) == COCO_CLASSES:
        return COCO_CLASSES, []  # mmdetection 1.x writes underscores
    if own:
        return own, []
    if count == len(COCO_CLASSES):
        remark = f"The file names no classes; its {count} are taken for COCO's, in their order."
        return COCO_CLASSES, [remark]
    raise CheckpointError(
        f"does not say what its {count} classes are called.",
        where=str(published.path),
        hint="Give their names, in order: `--classes a,b,c`, or a text file with one name a line.",
    )


def _given_names(given: str, count: int) -> tuple[str, ...]:
    file = Path(given)
    try:
        is_file = file.is_file()
        texts = file.read_text(encoding="utf-8").splitlines() if is_file else given.split(",")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(
            f"{given[:60]!r} cannot be read as text ({error}).",
            where="--classes",
            hint="Give names separated by commas, or a text file with one name a line.",
        ) from error
    names = tuple(text.strip() for text in texts if text.strip())
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise UsageError(f"names {', '.join(repeated)} more than once.", where="--classes")
    if len(names) != count:
        raise UsageError(
            f"names {len(names)} classes ({listing(names)}), but the checkpoint has {count}.",
            where="--classes",
            hint="Give one name for each class, in the order of its training data, separated by "
            "commas or in a text file with one name a line.",
        )
    return names


def listing(names: tuple[str, ...]) -> str:
    """Return the first few names."""
    return ", ".join(names[:4]) + (", …" if len(names) > 4 else "")
