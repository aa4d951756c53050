"""What a cache depends on: its name changes exactly when the student would hear other things."""

import pytest

from ldkit.jobs import assemble, sources
from ldkit.models.checkpoint_file import read_model
from ldkit.structures import ViewKey
from tests.jobs.conftest import World

RANGE = "views.short_side_px=[40, 96]"


@pytest.mark.contract
@pytest.mark.parametrize(
    ("overrides", "views"),
    [
        ((), 2),
        (("views.flip=0",), 1),
        ((RANGE, "schedule.epochs=5"), 5),
        ((RANGE, "views.count=3", "schedule.epochs=5"), 3),
    ],
)
def test_the_keys_are_every_view_that_the_schedule_can_show(
    world: World, overrides: tuple[str, ...], views: int
) -> None:
    keys = sources.planned_keys(world.student(*overrides), [9, 4])
    assert keys == [ViewKey(image_id, view) for image_id in (4, 9) for view in range(views)]


@pytest.mark.law
@pytest.mark.parametrize(
    ("one", "other", "equal"),
    [
        ((), ("seed=3",), True),
        ((), ("schedule.epochs=7",), True),
        ((), ("views.flip=0.1",), True),
        ((), ("views.flip=0",), False),
        ((), ("views.short_side_px=65",), False),
        ((RANGE,), (RANGE, "seed=3"), False),
        ((RANGE,), (RANGE, "schedule.epochs=7"), False),
        ((RANGE,), (RANGE, "views.flip=0.1"), False),
        ((RANGE, "views.count=2"), (RANGE, "views.count=2", "schedule.epochs=7"), True),
        ((RANGE, "views.count=2"), (RANGE, "schedule.epochs=2"), True),
    ],
)
def test_the_views_have_another_name_exactly_when_they_are_others(
    world: World, one: tuple[str, ...], other: tuple[str, ...], equal: bool
) -> None:
    first = sources.views_source(world.student(*one))
    second = sources.views_source(world.student(*other))
    assert (first.fingerprint == second.fingerprint) is equal


@pytest.mark.contract
def test_a_teacher_is_known_by_its_weights_and_its_architecture(world: World) -> None:
    file = read_model(world.teacher)
    weights, model = sources.teacher_source(file, world.teacher)
    assert weights.fingerprint == file.fingerprint
    assert weights.facts == {"file": "model.pt", "run": "teacher"}
    assert model.facts["classes"] == ["bar", "disc", "frame"]
    assert model.facts["head"]["reg_max"] == 8


@pytest.mark.contract
def test_the_axes_are_those_of_the_detector(world: World) -> None:
    recipe = world.student("student.head.reg_max=5", "student.fpn.levels=[4, 5]")
    axes = sources.axes(recipe.detector, 3)
    assert (axes.num_bins, axes.num_classes, axes.strides) == (6, 3, (16, 32))
    assert axes.grid == assemble.grid(recipe.detector)
