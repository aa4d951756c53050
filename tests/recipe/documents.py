"""Small recipes for the tests of this room."""

from pathlib import Path

import pytest

from ldkit.errors import RecipeError
from ldkit.recipe.load import load_recipe

ALONE = """\
name: tiny
model:
  backbone: {name: small}
optim: {kind: sgd, lr: 0.01, momentum: 0.8}
schedule:
  kind: milestones
  epochs: 12
  milestones: [8, 11]
"""

TAUGHT = """\
name: taught
teacher: {checkpoint: r101.pt}
student:
  backbone: {name: resnet18, pretrained: false}
cache: {path: caches/r101}
objective:
  localization:
    main: {weight: 0.25, temperature: 10}
optim: {kind: sgd, lr: 0.01}
schedule: {kind: milestones, epochs: 12, milestones: [8, 11]}
"""


def write(folder: Path, name: str, text: str) -> str:
    """Write a recipe and return its path as a user would type it."""
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return str(path)


def complaint(name: str, *overrides: str) -> str:
    """Return what loading a recipe says, without the name of the file."""
    with pytest.raises(RecipeError) as caught:
        load_recipe(name, overrides)
    return str(caught.value).removeprefix(name)
