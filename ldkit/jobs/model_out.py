"""The model file at the end of a training run."""

from collections.abc import Mapping
from pathlib import Path

from torch import nn

from ldkit import __version__
from ldkit.errors import UsageError
from ldkit.models.checkpoint_file import ModelFile, refuse_unknown_ending
from ldkit.recipe.schema import Recipe


def model_file(
    recipe: Recipe,
    model: nn.Module,
    steps: int,
    classes: tuple[str, ...],
    lineage: Mapping[str, str],
) -> ModelFile:
    """Return a model that `recipe` has trained for so many steps, as its file tells of it."""
    origin = {
        "ldkit": __version__,
        "name": recipe.name,
        "steps": steps,
        "recipe": recipe.model_dump(mode="json"),
        **lineage,
    }
    weights = {name: tensor.detach().cpu() for name, tensor in model.state_dict().items()}
    return ModelFile(
        weights=weights,
        detector=recipe.detector.model_dump(mode="json"),
        classes=classes,
        origin=origin,
    )


def refuse_out(path: Path) -> None:
    """Refuse a place where no model file can be written.

    Raises:
        UsageError: The name says no format, or a folder has it.
    """
    refuse_unknown_ending(path)
    if path.is_dir():
        raise UsageError(
            "is a folder, but the model file is to be written there.",
            where=str(path),
            hint=f"Name a file, such as {path / 'model.pt'}.",
        )
