from pathlib import Path

import pytest
import torch
from torch import nn

from ldkit.errors import UsageError
from ldkit.jobs.model_out import model_file, refuse_out
from ldkit.recipe.schema import Recipe
from tests.jobs.conftest import World
from tests.jobs.tiny import teacher_recipe


@pytest.mark.contract
def test_a_model_file_tells_where_its_weights_come_from(world: World) -> None:
    recipe, model = teacher_recipe(world.data), nn.Linear(2, 1)
    file = model_file(recipe, model, 8, ("bar", "disc"), {"data": "da" * 32})
    assert file.classes == ("bar", "disc")
    assert file.origin["steps"] == 8
    assert file.origin["data"] == "da" * 32
    assert Recipe.model_validate(file.origin["recipe"], strict=False) == recipe
    assert torch.equal(file.weights["weight"], model.weight)
    assert not file.weights["weight"].requires_grad


@pytest.mark.contract
def test_a_place_for_the_model_file_is_refused_where_none_can_be(tmp_path: Path) -> None:
    refuse_out(tmp_path / "new" / "model.pt")
    (tmp_path / "folder.pt").mkdir()
    with pytest.raises(UsageError, match="is a folder, but the model file is to be written there"):
        refuse_out(tmp_path / "folder.pt")
    with pytest.raises(UsageError):
        refuse_out(tmp_path / "model.txt")
