"""Published checkpoints: every form of them gives the same weights, and no part is left to luck."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from ldkit.errors import CheckpointError
from ldkit.models.checkpoint_file import ModelFile, write_model
from ldkit.models.gfl import Detector
from ldkit.models.import_mmdet import Published, fitted, published_name, read_published
from tests.models import published
from tests.models.evil import bombs, watched
from tests.models.mmdet_files import (
    CLASSES,
    foreign,
    newer_file,
    older_file,
    published_state,
    save,
    small_detector,
)

State = dict[str, Tensor]


@pytest.fixture(scope="module")
def model() -> Detector:
    torch.manual_seed(0)
    made = small_detector()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return made


@pytest.fixture
def state(model: Detector) -> State:
    return published_state(model)


def assert_same_weights(found: Published, model: Detector) -> None:
    weights = fitted(found, model)
    expected = model.state_dict()
    assert list(weights) == list(expected)
    for name, tensor in expected.items():
        assert torch.equal(weights[name], tensor), name


def refused(action: Callable[[], object]) -> CheckpointError:
    with pytest.raises(CheckpointError) as caught:
        action()
    return caught.value


@pytest.mark.law
def test_names_are_those_of_the_published_models(model: Detector) -> None:
    for name in model.state_dict():
        assert published_name(name, laterals=3) == published.published_name(name)
    assert published_name("fpn.extra.1.bias", laterals=4) == "neck.fpn_convs.5.conv.bias"


@pytest.mark.contract
@pytest.mark.parametrize("is_zip", [True, False], ids=["zip", "before torch 1.6"])
def test_the_form_of_2_x_gives_the_weights(
    is_zip: bool, model: Detector, state: State, tmp_path: Path
) -> None:
    found = read_published(save(older_file(state), tmp_path / "x.pth", is_zip=is_zip))
    assert_same_weights(found, model)
    assert found.meta.classes == CLASSES
    assert found.architecture.backbone == "resnet18"
    assert found.notes == ()


@pytest.mark.contract
def test_the_form_of_3_x_gives_the_weights_with_all_its_foreign_objects(
    model: Detector, state: State, tmp_path: Path
) -> None:
    path = save(newer_file(state), tmp_path / "x.pth")
    with watched() as events:
        found = read_published(path)
    assert events == []
    assert_same_weights(found, model)
    assert found.meta.form == "3.x"


@pytest.mark.contract
def test_bare_weights_prefixes_old_names_and_halves_are_taken(
    model: Detector, state: State, tmp_path: Path
) -> None:
    for name in [name for name in state if name.endswith("num_batches_tracked")]:
        del state[name]
    state["bbox_head.distribution_project.project"] = state.pop("bbox_head.integral.project")
    renamed = {f"module.{name}": tensor for name, tensor in state.items()}
    found = read_published(save(renamed, tmp_path / "x.pth"))
    assert_same_weights(found, model)
    halves = {name: tensor.half() for name, tensor in state.items()}
    found = read_published(save({"state_dict": halves}, tmp_path / "y.pth"))
    assert all(
        tensor.dtype == torch.float32
        for tensor in fitted(found, model).values()
        if tensor.is_floating_point()
    )


@pytest.mark.contract
def test_a_teacher_in_the_file_is_left_out_and_said_so(
    model: Detector, state: State, tmp_path: Path
) -> None:
    teacher = {
        "bbox_head.teacher_models.0.backbone.conv1.weight": torch.ones(1),
        "bbox_head.teacher_model.bbox_head.gfl_cls.weight": torch.ones(1),
        "teacher_model.bbox_head.reg_conf.0.weight": torch.ones(1),
        "teacher.backbone.conv1.weight": torch.ones(1),
        "ema_backbone_conv1_weight": torch.ones(1),
    }
    found = read_published(save(older_file({**teacher, **state}), tmp_path / "x.pth"))
    assert_same_weights(found, model)
    first, second = found.notes
    assert first == (
        "Left out: the teacher that trained it (4 tensors, the first "
        "bbox_head.teacher_models.0.backbone.conv1.weight)."
    )
    assert second == (
        "Left out: the weights before averaging (1 tensor, the first ema_backbone_conv1_weight)."
    )


@pytest.mark.contract
def test_old_names_of_deformable_convolutions_are_renamed(state: State, tmp_path: Path) -> None:
    for end in ("weight", "bias"):
        state[f"backbone.layer2.0.conv2_offset.{end}"] = torch.zeros(18, 128, 3, 3)
    found = read_published(save(older_file(state), tmp_path / "x.pth"))
    assert found.notes == ("Renamed: deformable convolutions of older versions (2 tensors).",)
    assert found.architecture.deform_stages == (2,)
    assert "backbone.layer2.0.conv2.conv_offset.weight" in found.weights


@pytest.mark.contract
def test_missing_unexpected_and_misshapen_tensors_are_listed_by_their_published_names(
    model: Detector, state: State, tmp_path: Path
) -> None:
    del state["backbone.layer3.1.bn2.running_var"]
    del state["bbox_head.scales.4.scale"]
    state["bbox_head.gfl_reg_extra.weight"] = torch.zeros(3)
    state["bbox_head.reg_convs.1.conv.weight"] = torch.zeros(32, 32, 1, 1)
    found = read_published(save(older_file(state), tmp_path / "x.pth"))
    error = refused(lambda: fitted(found, model))
    assert error.where == str(tmp_path / "x.pth")
    assert error.message == (
        "does not fit the detector that its shapes describe (resnet18).\n"
        "  missing     backbone.layer3.1.bn2.running_var\n"
        "  missing     bbox_head.scales.4.scale\n"
        "  misshapen   bbox_head.reg_convs.1.conv.weight: (32, 32, 1, 1) in the file, "
        "(32, 32, 3, 3) here\n"
        "  unexpected  bbox_head.gfl_reg_extra.weight"
    )
    assert error.hint.startswith("Nothing was imported.")


@pytest.mark.contract
def test_foreign_contents_are_described(model: Detector, tmp_path: Path) -> None:
    def said(content: object) -> str:
        path = save(content, tmp_path / "x.pth")
        return refused(lambda: read_published(path)).message

    whole = foreign("mmengine.model.base", "Net")
    assert "it holds one list, but a `state_dict`" in said([1])
    assert "it holds the entries 'a', 'b', but a `state_dict` of" in said({"a": 1, "b": 2})
    assert "'model' (mmengine.model.base.Net), 'epoch'" in said({"model": whole, "epoch": 3})
    assert "it holds the entries of nothing" in said({})
    assert "'n4', 'n5' and 3 more" in said({f"n{number}": 0 for number in range(9)})
    model_file = ModelFile(model.state_dict(), {}, CLASSES, {})
    write_model(tmp_path / "x.pt", model_file)
    error = refused(lambda: read_published(tmp_path / "x.pt"))
    assert str(error).endswith("is a model file of ldkit already.\nTake it as it is.")


@pytest.mark.contract
def test_a_key_twice_other_bins_and_broken_numbers_are_refused(
    state: State, tmp_path: Path
) -> None:
    def said(**changes: Tensor) -> str:
        path = save(older_file({**state, **changes}), tmp_path / "x.pth")
        return refused(lambda: read_published(path)).message

    project = "bbox_head.integral.project"
    assert said(**{project: torch.arange(17.0)}) == "names 17 bins, but its box branch has 9."
    assert said(**{project: torch.linspace(0, 4, 9)}) == "has bins that are not 0 to 8."
    bias = "bbox_head.gfl_cls.bias"
    assert said(**{bias: torch.tensor([1.0, torch.nan, 0.0])}) == (
        f"has infinite or undefined numbers in 1 tensor:\n  {bias}"
    )
    assert said(**{f"module.{bias}": state[bias]}) == (
        f"has {bias} twice: with and without `module.`."
    )


@pytest.mark.contract
def test_another_detector_is_refused_without_reading_its_weights(tmp_path: Path) -> None:
    state = {"backbone.conv1.weight": torch.zeros(1), "bbox_head.retina_cls.weight": torch.zeros(1)}
    path = save(newer_file(state), tmp_path / "retinanet.pth")
    assert "is not a GFL detector but RetinaNet" in refused(lambda: read_published(path)).message


@pytest.fixture(scope="module")
def weighing() -> Detector:
    made = small_detector(has_quality=True).eval()
    published.fill(made)
    return made


@pytest.mark.contract
@pytest.mark.parametrize("form", [older_file, newer_file])
def test_gflv2_gives_its_weights_without_the_spare_class(
    form: Callable[..., object], weighing: Detector, tmp_path: Path
) -> None:
    state = published_state(weighing)
    assert len(state["bbox_head.gfl_cls.weight"]) == len(CLASSES) + 1
    found = read_published(save(form(state), tmp_path / "x.pth"))
    assert_same_weights(found, weighing)
    assert found.meta.classes == CLASSES
    assert (found.architecture.head, found.architecture.num_classes) == ("gflv2", 3)
    [note] = found.notes
    assert note.startswith("Left out: the last of 4 class rows, which GFLv2 heads have beyond")


def weighed_scores(state: State, cls: Tensor, bbox: Tensor) -> Tensor:
    """Return the scores of one level, from what comes out of both towers, as published."""

    def conv(name: str, feature: Tensor) -> Tensor:
        weight, bias = state[f"bbox_head.{name}.weight"], state[f"bbox_head.{name}.bias"]
        return torch.conv2d(feature, weight, bias, padding=weight.shape[-1] // 2)

    logits = conv("gfl_reg", bbox) * state["bbox_head.scales.0.scale"]
    edges = (
        logits.unflatten(1, (4, -1)).softmax(dim=2).sort(dim=2, descending=True).values[:, :, :4]
    )
    statistics = torch.cat([edges, edges.sum(dim=2, keepdim=True) / 4], dim=2).flatten(1, 2)
    quality = conv("reg_conf.2", conv("reg_conf.0", statistics).relu()).sigmoid()
    return conv("gfl_cls", cls).sigmoid() * quality


@pytest.mark.golden
def test_the_scores_of_gflv2_are_those_of_the_published_formula(weighing: Detector) -> None:
    head, state = weighing.head, published_state(weighing)
    torch.manual_seed(0)
    maps = [torch.randn(2, 32, 8, 10), *(torch.randn(2, 32, 1, 1) for _ in range(4))]
    with torch.no_grad():
        expected = weighed_scores(state, head.cls_tower(maps[0]), head.bbox_tower(maps[0]))
        found = head(maps).cls_logits[:, :80].sigmoid()
    torch.testing.assert_close(found, expected[:, :3].flatten(2).mT, rtol=1e-5, atol=1e-7)


@pytest.mark.contract
def test_a_gflv2_that_lacks_a_part_is_told(weighing: Detector, tmp_path: Path) -> None:
    state = published_state(weighing)
    del state["bbox_head.reg_conf.2.bias"]
    state["bbox_head.gfl_cls.bias"] = torch.zeros(9)
    found = read_published(save(older_file(state), tmp_path / "x.pth"))
    message = refused(lambda: fitted(found, weighing)).message
    assert "  missing     bbox_head.reg_conf.2.bias\n" in message
    assert "  misshapen   bbox_head.gfl_cls.bias: (9,) in the file, (3,) here" in message


@pytest.mark.contract
def test_nothing_in_a_checkpoint_runs(model: Detector, state: State, tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    content = older_file(state)
    content["meta"]["hook"] = bombs(marker)
    content["optimizer"] = bombs(marker)["os.system"]
    found = read_published(save(content, tmp_path / "x.pth"))
    assert not marker.exists()
    assert_same_weights(found, model)
