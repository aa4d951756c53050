from pathlib import Path

import pytest
import torch

from ldkit.errors import CacheMismatch
from ldkit.jobs import sources
from ldkit.jobs.cache_boxes import check_boxes, one_view_each
from ldkit.jobs.material import Material
from ldkit.structures import ViewKey
from tests.jobs.conftest import World


@pytest.mark.contract
def test_of_each_image_the_first_view_is_taken() -> None:
    keys = [ViewKey(3, 0), ViewKey(3, 1), ViewKey(5, 1), ViewKey(5, 2), ViewKey(9, 4)]
    assert one_view_each(keys) == [ViewKey(3, 0), ViewKey(5, 1), ViewKey(9, 4)]
    assert one_view_each([]) == []


@pytest.mark.law
def test_the_rows_of_a_cache_are_those_of_the_boxes_it_was_built_from(world: World) -> None:
    recipe = world.student()
    material = Material.of(recipe)
    keys = sources.planned_keys(recipe, list(material.records))
    done = list(check_boxes(world.cache, material, keys, 9, torch.device("cpu")))
    assert done == sorted(done)
    assert done[-1] == len(keys)


@pytest.mark.contract
def test_any_box_that_has_moved_is_found(world: World) -> None:
    recipe = world.student()
    device, path = torch.device("cpu"), Path(world.cache)
    for image_id in Material.of(recipe).records:
        material = Material.of(recipe)
        material.records[image_id].boxes[-1] += 9
        with pytest.raises(CacheMismatch, match=f"image {image_id}, view 1: its rows are not"):
            list(check_boxes(path, material, [ViewKey(image_id, 1)], 9, device))
