"""A cache with every group of rows, built once for each file of tests, and a copy to spoil."""

import shutil
from pathlib import Path

import pytest

from tests.cache.synthetic import EVERY, build, make_keys, make_plan

KEYS = make_keys(6)
PLAN = make_plan(KEYS, views_per_shard=4, held=EVERY)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("cache")
    build(path, PLAN, KEYS)
    return path


@pytest.fixture
def cache(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "cache"))
