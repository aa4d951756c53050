"""What `--dry-run` promises is what the run then does."""

from pathlib import Path

import pytest
import torch

from ldkit.cache.reader import CacheReader
from ldkit.jobs import distill, train_teacher
from ldkit.jobs.facts import as_json
from ldkit.models.checkpoint_file import read_model
from tests.jobs.conftest import World
from tests.jobs.tiny import finish, steps, teacher_recipe


@pytest.mark.contract
@pytest.mark.parametrize("optim", ["{kind: adamw, lr: 2e-3}", "{kind: sgd, lr: 1e-3}"])
def test_steps_and_disk_are_what_the_run_takes(world: World, tmp_path: Path, optim: str) -> None:
    recipe = teacher_recipe(world.data, f"optim={optim}", "train.keep=1")
    run = tmp_path / "run"
    facts = as_json(train_teacher.outline(recipe, run, device="cpu"))
    assert not run.exists()
    finish(train_teacher.run(recipe, run, device="cpu"))
    assert facts["run"] == str(run)
    assert facts["model"] == str(run / "model.pt")
    assert facts["steps"] == {"count": len(steps(run)), "per_epoch": len(steps(run)) // 2}
    weights = read_model(run / "model.pt").weights
    disk = facts["disk"]
    assert isinstance(disk, dict)
    assert disk["model_bytes"] == sum(t.numel() * t.element_size() for t in weights.values())
    (saved,) = (run / "checkpoints").iterdir()
    written = sum(file.stat().st_size for file in saved.iterdir())
    assert disk["checkpoint_bytes"] == pytest.approx(written, rel=0.1)
    assert facts["trainable_parameters"] == sum(
        tensor.numel()
        for name, tensor in weights.items()
        if tensor.dtype == torch.float32 and "running_" not in name
    )


@pytest.mark.contract
def test_a_distillation_shows_its_cache_or_its_teacher(world: World, tmp_path: Path) -> None:
    recipe, run = world.student(), tmp_path / "run"
    facts = distill.outline(recipe, run, distill.Options(device="cpu"))
    assert as_json(facts)["cache"] == {
        "folder": str(world.cache),
        "fingerprint": CacheReader.open_(world.cache).fingerprint,
    }
    online = distill.Options(source=distill.Source.ONLINE, device="cpu")
    facts = distill.outline(recipe, run, online)
    assert facts["teacher"] == str(world.teacher)
    assert "cache" not in facts
    plain = world.student("objective.localization.main=null")
    assert {"cache", "teacher"}.isdisjoint(distill.outline(plain, run, online))
    assert not run.exists()
