"""`ldkit cache push` and `pull`, and a student that learns from a URL, from the shell."""

import json
from pathlib import Path

import pytest

from ldkit.cache.info import info
from tests.cli.conftest import Shell


@pytest.mark.story
def test_a_cache_is_pushed_and_pulled(home: Path, ldkit: Shell) -> None:
    url = f"file://{home}/far/tiny"
    said = ldkit("cache", "push", "caches/tiny", url, "--json")
    assert said.code == 0, said.err
    shown = json.loads(said.out)
    assert shown["cache"] == url
    assert shown["sent"] == {"bytes": info(home / "caches" / "tiny").bytes, "shards": 1}
    assert "bytes" in said.err
    said = ldkit("cache", "pull", url, "caches/back")
    assert said.code == 0, said.err
    assert said.out.startswith("cache        caches/back\n")
    assert info(home / "caches" / "back").is_sealed
    assert f"{url} is complete already." in ldkit("cache", "push", "caches/tiny", url).err
