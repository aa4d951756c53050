"""From sections to objects: every value of a section arrives, and none is made up on the way."""

from pathlib import Path

import pytest
import torch

from ldkit.errors import CheckpointError
from ldkit.jobs import assemble
from ldkit.jobs.assemble_terms import gfl_settings
from ldkit.models.checkpoint_file import ModelFile, read_model, write_model
from ldkit.recipe.detector import Detector
from ldkit.recipe.schema import AdamW, Cosine, Milestones, Sgd
from ldkit.training.schedule import CosineSchedule, MilestoneSchedule
from tests.jobs.conftest import World
from tests.jobs.tiny import teacher_recipe

TIMM = {
    "backbone": {"name": "resnet10t", "pretrained": True, "frozen_stages": 1},
    "fpn": {"channels": 16, "levels": [3, 4]},
    "head": {"convs": 1, "norm_groups": 4, "reg_max": 4},
}


@pytest.mark.contract
def test_a_detector_is_built_as_its_section_says(world: World) -> None:
    section = teacher_recipe(world.data).detector
    model = assemble.detector(section, num_classes=5)
    assert (model.num_classes, model.num_bins) == (5, 9)
    assert model.grid.strides == (8, 16, 32, 64)
    assert (model.grid.anchor_scale, model.grid.bin_width) == (3, 0.5)


@pytest.mark.contract
def test_a_trained_detector_says_what_it_said_and_is_frozen(world: World) -> None:
    model, file = assemble.trained_detector(world.teacher)
    assert not model.training
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert all(value.equal(file.weights[name]) for name, value in model.state_dict().items())


@pytest.mark.contract
def test_the_weights_of_a_model_file_are_not_fetched_from_elsewhere_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    section = Detector.model_validate(TIMM, strict=False)
    backbone = section.backbone.model_copy(update={"pretrained": False})
    model = assemble.detector(section.model_copy(update={"backbone": backbone}), 2)
    weights = dict(model.state_dict())
    write_model(
        tmp_path / "m.pt", ModelFile(weights, section.model_dump(mode="json"), ("a", "b"), {})
    )
    asked = []
    original = assemble.timm_backbone

    def noted(*given: object) -> object:
        asked.append(given)
        return original(*given)

    monkeypatch.setattr(assemble, "timm_backbone", noted)
    again, file = assemble.trained_detector(tmp_path / "m.pt")
    assert asked[0][2] is False
    assert file.detector["backbone"]["pretrained"] is True
    assert all(value.equal(weights[name]) for name, value in again.state_dict().items())


@pytest.mark.contract
def test_a_file_with_a_detector_of_another_version_is_refused(world: World, tmp_path: Path) -> None:
    file = read_model(world.teacher)
    newer = {**file.detector, "neck": {"kind": "pafpn"}}
    write_model(tmp_path / "m.pt", ModelFile(file.weights, newer, file.classes, file.origin))
    with pytest.raises(CheckpointError, match="describes a detector that this version of ldkit"):
        assemble.trained_detector(tmp_path / "m.pt")


@pytest.mark.contract
def test_schedules_carry_every_value() -> None:
    milestones = Milestones(
        kind="milestones", epochs=9, milestones=(3, 6), factor=0.2, warmup_steps=7, warmup_start=0.1
    )
    assert assemble.schedule(milestones, 0.5) == MilestoneSchedule(
        base_lr=0.5, epochs=9, milestones=(3, 6), factor=0.2, warmup_steps=7, warmup_start=0.1
    )
    cosine = Cosine(kind="cosine", epochs=9, final=0.05, warmup_steps=7, warmup_start=0.1)
    assert assemble.schedule(cosine, 0.5) == CosineSchedule(
        base_lr=0.5, epochs=9, final=0.05, warmup_steps=7, warmup_start=0.1
    )


@pytest.mark.contract
def test_optimizers_carry_every_value() -> None:
    model = torch.nn.Linear(2, 2)
    sgd = assemble.optimizer(Sgd(kind="sgd", lr=0.3, momentum=0.7, weight_decay=0.01), model)
    assert isinstance(sgd, torch.optim.SGD)
    group = sgd.param_groups[0]
    assert (group["lr"], group["momentum"], group["weight_decay"]) == (0.3, 0.7, 0.01)
    adamw = assemble.optimizer(AdamW(kind="adamw", lr=0.3, betas=(0.5, 0.6)), model)
    assert isinstance(adamw, torch.optim.AdamW)
    assert {group["betas"] for group in adamw.param_groups} == {(0.5, 0.6)}
    decays = {group["weight_decay"] for group in adamw.param_groups}
    assert decays == {0.0, 0.02}


@pytest.mark.contract
def test_a_distribution_term_that_is_null_weighs_nothing(world: World) -> None:
    recipe = teacher_recipe(world.data, "objective.distribution=null")
    assert gfl_settings(recipe.objective).dfl_weight == 0
    recipe = teacher_recipe(
        world.data, "objective.classification.weight=3", "objective.box.weight=4"
    )
    settings = gfl_settings(recipe.objective)
    assert (settings.cls_weight, settings.box_weight, settings.dfl_weight) == (3, 4, 0.25)
