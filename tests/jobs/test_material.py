from dataclasses import replace

import pytest

from ldkit.errors import DataError
from ldkit.jobs.material import Material
from ldkit.structures import Size, View, ViewKey
from tests.jobs.conftest import World
from tests.jobs.tiny import teacher_recipe


@pytest.mark.contract
def test_material_is_the_training_images_with_their_views(world: World) -> None:
    recipe = teacher_recipe(world.data)
    material = Material.of(recipe)
    assert material.records.keys() <= material.index.records.keys()
    assert material.draw(ViewKey(1, 0), (64, 64)).resized_hw == (64, 64)
    assert material.validation is None


@pytest.mark.contract
def test_another_source_of_views_leaves_the_images(world: World) -> None:
    stored = View((64, 64), (32, 32), (32, 32), flip=True)

    def draw(_key: ViewKey, _source_hw: Size) -> View:
        return stored

    material = Material.of(teacher_recipe(world.data))
    other = material.drawn_by(draw)
    assert other.draw(ViewKey(1, 0), (64, 64)) == stored
    assert other.records is material.records


@pytest.mark.contract
def test_images_to_evaluate_on_are_there_where_the_recipe_asks_for_them(world: World) -> None:
    asks = teacher_recipe(world.data, "eval.every_epochs=1")
    material = Material.of(asks)
    found = material.with_validation(asks, world.teacher).validation
    assert found is not None
    assert len(found.index.records) == 3
    plain = teacher_recipe(world.data)
    assert material.with_validation(plain, world.teacher).validation is None


@pytest.mark.contract
def test_images_to_evaluate_on_must_have_the_same_classes(world: World) -> None:
    recipe = teacher_recipe(world.data, "eval.every_epochs=1")
    material = Material.of(recipe)
    renamed = [replace(one, name=f"{one.name}s") for one in material.index.categories]
    index = replace(material.index, categories=type(material.index.categories)(renamed))
    with pytest.raises(DataError, match="bars"):
        replace(material, index=index).with_validation(recipe, world.teacher)
