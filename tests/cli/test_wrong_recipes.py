"""Recipes and options that cannot be: every problem with its line or flag, and a way out."""

from pathlib import Path

import pytest
from huggingface_hub import constants

from tests.cli.conftest import Shell
from tests.cli.mistakes import BUILD, DISTILL, TRAIN, Mistake, meet


def written(text: str) -> Path:
    path = Path("wrong.yaml")
    path.write_text(f"extends: teacher.yaml\nname: wrong\n{text}\n")
    return path


def with_key(text: str, *says: str) -> Mistake:
    return Mistake(
        ("teacher", "train", "wrong.yaml"),
        2,
        ("wrong.yaml: 1 problem", "line 3", *says, "Nothing was started."),
        lambda: written(text),
    )


def with_flags(*words: str, says: tuple[str, ...]) -> Mistake:
    return Mistake((*TRAIN, *words), 2, says)


MILESTONES = "schedule: {{kind: milestones, epochs: 4, milestones: {}}}"
MISTAKES = {
    "an unknown section": with_key("optimm: {lr: 1}", "optimm", "Did you mean `optim`?"),
    "an unknown key": with_key(
        "train: {batch_sise: 2}", "train.batch_sise", "Did you mean `batch_size`?"
    ),
    "a wrong type": with_key(
        "train: {batch_size: two}", "train.batch_size = two", "Must be a whole number."
    ),
    "a value out of range": with_key("train: {batch_size: 0}", "Must be greater than 0."),
    "an unknown kind": with_key(
        "optim: {kind: sdg, lr: 1}", "optim.kind = sdg", "Did you mean `sgd`?"
    ),
    "milestones after the end": with_key(
        MILESTONES.format("[3, 5]"), "Must lie before the end (epochs = 4)."
    ),
    "milestones that fall": with_key(MILESTONES.format("[3, 2]"), "Must rise."),
    "a recipe that is a folder": Mistake(
        ("teacher", "train", "wrong.yaml"),
        2,
        ("wrong.yaml: is a folder, but a recipe is a file that ends in .yaml.",),
        lambda: Path("wrong.yaml").mkdir(),
    ),
    "a recipe that is not text": Mistake(
        ("teacher", "train", "t.yaml"),
        2,
        ("t.yaml: is not UTF-8 text", "A recipe is a YAML text file."),
        lambda: Path("t.yaml").write_bytes(Path("t.pt").read_bytes()),
    ),
    "an empty recipe": Mistake(
        ("teacher", "train", "wrong.yaml"),
        2,
        ("Is empty.", "ldkit recipe show"),
        lambda: Path("wrong.yaml").write_text(""),
    ),
    "no such recipe": Mistake(
        ("teacher", "train", "shapes/teachr"), 2, ("shapes/teachr: there is no such recipe.",)
    ),
    "no such file": Mistake(
        ("teacher", "train", "techer.yaml"),
        2,
        ("techer.yaml: there is no such recipe.", "Did you mean `teacher.yaml`?"),
    ),
    "--set without a value": with_flags(
        "--set", "optim.lr", says=("--set", "optim.lr", "Must be KEY=VALUE, such as `--set optim")
    ),
    "--set without anything": with_flags("--set", "", says=("Must be KEY=VALUE",)),
    "--set of an unknown key": with_flags(
        "--set", "optim.rate=1", says=("--set", "optim.rate", "Unknown key. ")
    ),
    "an unknown device": with_flags(
        "--device", "gpu", says=("--device: there is no device 'gpu'.", "Take auto, cpu, cuda or")
    ),
    "an unknown backbone": Mistake(
        (*TRAIN, "--arch", "resnet19"),
        2,
        ("resnet19: is no backbone of timm.", "Did you mean resnet18"),
    ),
    "a short name that is none": Mistake(
        (*TRAIN, "--arch", "r19"), 2, ("r19: is no backbone of timm.", "Did you mean")
    ),
    "a local weights file that is not there": Mistake(
        (*TRAIN, "--arch", "resnet18", "--set", "model.backbone.pretrained=none.pth"),
        5,
        ("none.pth: does not exist.", "Take a weights file of resnet18"),
    ),
    "a model file with another ending": with_flags(
        "--out", "model.bin", says=("model.bin: is no name for a model file", "model.pt")
    ),
    "a folder in place of the model file": Mistake(
        (*TRAIN, "--out", "model.pt"),
        2,
        ("model.pt: is a folder, but the model file is to be written there.", "model.pt/model.pt"),
        lambda: Path("model.pt").mkdir(),
    ),
    "a file in place of the run": Mistake(
        TRAIN,
        2,
        ("runs/teacher: is a file, but the folder of the run is to be made there.", "--set name="),
        lambda: (Path("runs").mkdir(), Path("runs/teacher").write_text("mine")),
    ),
    "a student's recipe for a teacher": Mistake(
        ("teacher", "train", "student.yaml"), 2, ("student: trains a student", "ldkit distill")
    ),
    "a teacher's recipe for a student": Mistake(
        ("distill", "teacher.yaml"), 2, ("teacher: trains a detector alone", "ldkit teacher train")
    ),
    "a teacher's recipe for a cache": Mistake(
        ("cache-logits", "teacher.yaml"), 2, ("teacher: has no `teacher` section", "recipe list")
    ),
    "a cache on an unknown device": Mistake(
        (*BUILD, "--device", "tpu0"), 2, ("--device: there is no device 'tpu0'.",)
    ),
    "a student on an unknown device": Mistake(
        (*DISTILL, "--device", "cuda:x"), 2, ("--device: ", "Take auto, cpu, cuda or cuda:N.")
    ),
    "an unknown split": Mistake(
        ("eval", "t.pt", "--split", "tset"), 2, ("--split: there is no split 'tset'.", "Take val")
    ),
    "test-dev without such images": Mistake(
        ("eval", "t.pt", "--split", "test-dev"),
        2,
        (
            "--split test-dev: the recipe has no data.test_dev section",
            "--set data.test_dev.images=",
        ),
    ),
}


@pytest.mark.contract
@pytest.mark.usefixtures("home")
@pytest.mark.parametrize("mistake", MISTAKES.values(), ids=MISTAKES)
def test_what_cannot_be_is_told_before_anything_starts(mistake: Mistake, ldkit: Shell) -> None:
    meet(mistake, ldkit)


@pytest.mark.contract
def test_pretrained_weights_out_of_reach_name_the_two_other_ways(
    home: Path, ldkit: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(home / "hub"))
    says = (
        "resnet18: its pretrained weights cannot be fetched from the hub",
        "--set model.backbone.pretrained=",
        "path of a local weights file",
        "to false to start from random weights",
    )
    meet(Mistake((*TRAIN, "--arch", "resnet18"), 2, says), ldkit)


@pytest.mark.contract
@pytest.mark.usefixtures("home")
def test_all_problems_of_a_recipe_are_told_at_once(ldkit: Shell) -> None:
    path = written("train: {batch_sise: 2}\nviews: {flip: 2}")
    said = ldkit("teacher", "train", str(path), "--set", "optim.lr=-1")
    assert said.code == 2
    assert said.err == (
        "wrong.yaml: 3 problems\n"
        "\n"
        "  line 3    train.batch_sise\n"
        "            Unknown key. Did you mean `batch_size`?\n"
        "  line 4    views.flip = 2\n"
        "            Must be at most 1.\n"
        "  --set     optim.lr = -1\n"
        "            Must be greater than 0.\n"
        "\n"
        "Nothing was started. See `ldkit recipe schema train`.\n"
    )
