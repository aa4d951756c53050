"""First weights: from the hub, from a local file, and what is said where neither works."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from huggingface_hub import constants
from safetensors.torch import save_file
from torch import Tensor

from ldkit.errors import CheckpointError, UsageError
from ldkit.models.backbone import timm_backbone

LEVELS = (3, 4, 5)


@pytest.fixture
def empty_hub_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    return tmp_path / "hub"


def whole_network(name: str) -> tuple[Any, dict[str, Tensor]]:
    network = timm.create_model(name).eval()
    return network, network.state_dict()


@pytest.mark.contract
def test_an_unreachable_hub_is_said_at_once_with_the_two_other_ways(
    empty_hub_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")  # nobody listens there
    started = time.monotonic()
    with pytest.raises(UsageError) as caught:
        timm_backbone("resnet18", LEVELS, True, 1, True)
    assert time.monotonic() - started < 10
    assert not empty_hub_cache.exists()
    assert caught.value.where == "resnet18"
    assert caught.value.message.startswith(
        "its pretrained weights cannot be fetched from the hub (http://127.0.0.1:9: "
    )
    assert caught.value.hint == (
        "Set backbone.pretrained (`--set model.backbone.pretrained=...`, or student.backbone) to "
        "the path of a local weights file (.pth or .safetensors, as torchvision and timm offer "
        "them), or to false to start from random weights."
    )


@pytest.mark.contract
def test_an_offline_machine_is_not_asked_to_go_online(
    empty_hub_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not empty_hub_cache.exists()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(UsageError, match="HF_HUB_OFFLINE is set"):
        timm_backbone("resnet50", LEVELS, True, 1, True)


@pytest.mark.contract
def test_a_network_without_published_weights_says_so(empty_hub_cache: Path) -> None:
    with pytest.raises(UsageError, match="timm has no weights for this network") as caught:
        timm_backbone("cs3darknet_s", LEVELS, True, 1, True)
    assert "pretrained" in caught.value.hint
    assert not empty_hub_cache.exists()


@pytest.mark.contract
@pytest.mark.parametrize(
    ("name", "repository"),
    [("resnet18", "resnet18.tv_in1k"), ("resnet18.a1_in1k", "resnet18.a1_in1k")],
)
def test_weights_in_the_cache_of_the_hub_are_used_without_a_network(
    empty_hub_cache: Path, monkeypatch: pytest.MonkeyPatch, name: str, repository: str
) -> None:
    _, state = whole_network("resnet18")
    folder = empty_hub_cache / f"models--timm--{repository}"
    snapshot = folder / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text("0" * 40)
    save_file(state, snapshot / "model.safetensors")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    net = timm_backbone(name, LEVELS, True, 1, True).net
    assert all(torch.equal(value, state[key]) for key, value in net.state_dict().items())


@pytest.mark.contract
@pytest.mark.parametrize("ending", [".pth", ".pt", ".safetensors"])
@pytest.mark.parametrize("name", ["test_resnet", "convnext_atto", "mambaout_femto", "cspnext_s"])
def test_a_local_file_of_the_whole_network_is_loaded_without_its_classifier(
    tmp_path: Path, name: str, ending: str
) -> None:
    network, state = whole_network(name)
    path = tmp_path / f"weights{ending}"
    if ending == ".safetensors":
        save_file(state, path)
    else:
        torch.save(state, path)
    net = timm_backbone(name, LEVELS, str(path), 0, True).net
    images = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        expected = network.forward_intermediates(images, intermediates_only=True)
        for found, wanted in zip(net.eval()(images), expected[-3:], strict=True):
            torch.testing.assert_close(found, wanted)


@pytest.mark.contract
def test_older_files_without_counters_of_batches_are_taken(tmp_path: Path) -> None:
    _, state = whole_network("test_resnet")
    older = {key: value for key, value in state.items() if not key.endswith("tracked")}
    torch.save(older, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    net = timm_backbone("test_resnet", LEVELS, str(tmp_path / "old.pth"), 0, True).net
    assert torch.equal(net.state_dict()["conv1.0.weight"], state["conv1.0.weight"])


@pytest.mark.contract
def test_files_of_other_networks_are_refused_with_a_list(tmp_path: Path) -> None:
    path = tmp_path / "other.pth"
    torch.save(whole_network("resnet34")[1], path)
    with pytest.raises(CheckpointError, match="does not fit resnet18") as caught:
        timm_backbone("resnet18", LEVELS, str(path), 1, True)
    lines = caught.value.message.splitlines()
    assert lines[1] == "  unexpected  layer1.2.conv1.weight"
    assert lines[-1] == "  … and 88 more"

    torch.save(whole_network("resnet18")[1], path)
    with pytest.raises(CheckpointError) as caught:
        timm_backbone("resnet34", LEVELS, str(path), 1, True)
    assert "  missing     layer1.2.conv1.weight" in caught.value.message

    torch.save(whole_network("test_resnet")[1] | {"bn1.weight": torch.zeros(7)}, path)
    with pytest.raises(CheckpointError) as caught:
        timm_backbone("test_resnet", LEVELS, str(path), 1, True)
    assert "  misshapen   bn1.weight: (7,) in the file, (32,) here" in caught.value.message


@pytest.mark.contract
def test_a_local_file_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"weights\.pth: does not exist") as caught:
        timm_backbone("test_resnet", LEVELS, str(tmp_path / "weights.pth"), 1, True)
    assert "Take a weights file of test_resnet" in caught.value.hint
    wrapped = tmp_path / "wrapped.pth"
    torch.save({"state_dict": {}, "epoch": 3}, wrapped)
    with pytest.raises(CheckpointError, match="not a weights file: it holds the entries"):
        timm_backbone("test_resnet", LEVELS, str(wrapped), 1, True)
