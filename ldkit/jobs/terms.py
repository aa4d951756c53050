"""What can be said of a recipe's distillation terms before anything is computed."""

from collections.abc import Iterator

from ldkit.errors import UsageError
from ldkit.recipe.objective import BinaryKd, SoftmaxKd
from ldkit.recipe.schema import Recipe

PUBLISHED_CLASSES = 80
"""Classes of COCO, to which the published weight of class distillation belongs."""

FAR = 2.0
"""A strength that differs by more than this factor is told."""


def is_distilled(recipe: Recipe) -> bool:
    """Say whether the recipe's detector learns from a teacher."""
    return any(True for _ in recipe.objective.distillation_terms())


def alone(recipe: Recipe) -> Recipe:
    """Return the recipe with the same student, and nothing for it to learn from a teacher."""
    objective = recipe.objective.without_distillation()
    return recipe.model_copy(update={"objective": objective})


def needs_live_teacher(recipe: Recipe) -> bool:
    """Say whether a term chooses rows by the student's own output."""
    imitation = recipe.objective.imitation
    return imitation is not None and imitation.region == "gi"


def check_cacheable(recipe: Recipe) -> None:
    """Refuse a term whose rows no cache can hold.

    Raises:
        UsageError: Imitation at gi.
    """
    if needs_live_teacher(recipe):
        raise UsageError(
            "gi locations are where teacher and student differ most in each step, so they depend "
            "on the student of that step: no cache can hold their rows.",
            where="objective.imitation.region = gi",
            hint="Take main, inside_gt or fine_grained, or run the teacher beside the student "
            "with `--online`.",
        )


def check_classes(recipe: Recipe, num_classes: int) -> None:
    """Refuse a softmax over a single class.

    Raises:
        UsageError: There is one class, and a softmax over it.
    """
    for key, _, section in recipe.objective.distillation_terms():
        if isinstance(section, SoftmaxKd) and num_classes == 1:
            raise UsageError(
                "a softmax over one class is 1 for teacher and student alike, so the term is zero "
                "whatever they say.",
                where=f"{key}.kind = softmax",
                hint=f"Take the binary form: `--set {key}.kind=binary`.",
            )


def notes_on_classes(recipe: Recipe, num_classes: int) -> Iterator[str]:
    """Yield a warning for each class term whose strength is far from that on COCO."""
    for key, _, section in recipe.objective.distillation_terms():
        if not isinstance(section, SoftmaxKd | BinaryKd) or section.classes != "mean":
            continue
        times = PUBLISHED_CLASSES / num_classes
        if times > FAR or times < 1 / FAR:
            alike = section.weight * num_classes / PUBLISHED_CLASSES
            yield (
                f"{key} is a mean over {num_classes} classes: for each class it is {times:.2g} "
                f"times as strong as on the {PUBLISHED_CLASSES} of COCO. As strong as there: "
                f"`--set {key}.weight={alike:.3g}`; independent of their number: "
                f"`--set {key}.classes=sum`."
            )
