"""One data set, one trained teacher and one sealed cache for all tests of jobs."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from ldkit.jobs import build_cache, train_teacher
from ldkit.recipe.schema import Recipe
from tests.jobs.tiny import EXACT, MIXED, draw_scenes, finish, student_recipe, teacher_recipe

# Python 3.12 warns of every fork from a process with threads, and torch has some.
MAY_FORK = pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")


@pytest.fixture(autouse=True, scope="package")
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@dataclass(frozen=True)
class World:
    """Images of several sizes, a teacher that was trained on them, and its cache in fp16."""

    data: Path
    teacher: Path
    cache: Path

    def student(self, *overrides: str, cache: Path | None = None) -> Recipe:
        return student_recipe(self.data, self.teacher, cache or self.cache, *overrides)

    def exact(self, *overrides: str, cache: Path) -> Recipe:
        return self.student(*EXACT, *overrides, cache=cache)


@pytest.fixture(scope="package")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    root = tmp_path_factory.mktemp("jobs")
    data = draw_scenes(root / "data", [*MIXED, *MIXED[:3]])
    run = root / "runs" / "teacher"
    finish(train_teacher.run(teacher_recipe(data, "schedule.epochs=6"), run, device="cpu"))
    made = World(data, run / "model.pt", root / "cache")
    finish(build_cache.run(made.student(), device="cpu"))
    return made
