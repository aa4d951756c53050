"""`ldkit cache verify`: what was proved on stdout, why it failed on stderr, exit code 4."""

import json
from pathlib import Path

import pytest

from ldkit.cache.folder import CacheFolder
from ldkit.cache.info import info
from tests.cli.conftest import Shell

CACHE = "caches/tiny"


@pytest.mark.contract
def test_each_level_is_a_line_for_people(home: Path, ldkit: Shell) -> None:
    said = ldkit("cache", "verify", CACHE, "student.yaml", "--level", "teacher", "--views", "3")
    assert said.code == 0
    lines = said.out.splitlines()
    found = info(home / CACHE)
    assert lines[0] == f"cache      {CACHE}"
    assert lines[1] == f"structure  proved: 1 shard, 14 views; rows: {found.rows:,} main"
    assert lines[2].startswith("bytes      proved: ")
    assert lines[2].endswith(" have the sha256 of their receipts")
    assert lines[3].startswith("pixels     proved: 14 views show the pixels that the teacher saw")
    assert lines[4] == "teacher    proved: 3 views asked again; largest differences:"
    assert lines[5].split()[0] == "main.bbox_logits"
    assert "verify, shards: 1/1 shards" in said.err
    assert "verify, views: 14/14 views" in said.err


@pytest.mark.contract
def test_machines_get_what_was_proved_and_the_largest_differences(home: Path, ldkit: Shell) -> None:
    said = ldkit("cache", "verify", CACHE, "student.yaml", "--level", "teacher", "--json")
    shown = json.loads(said.out)
    assert shown["cache"] == CACHE
    assert [shown[level]["proved"] for level in ("structure", "bytes", "pixels", "teacher")] == [
        True
    ] * 4
    assert shown["bytes"]["bytes"] == info(home / CACHE).bytes
    assert shown["teacher"]["views"] == 14
    assert 0 < shown["teacher"]["gaps"]["main.bbox_logits"]["largest"] < 0.1


@pytest.mark.contract
@pytest.mark.usefixtures("home")
def test_damage_ends_with_exit_code_4_after_what_was_proved(ldkit: Shell) -> None:
    shard = CacheFolder(Path(CACHE)).shard(0)
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(content)
    said = ldkit("cache", "verify", CACHE)
    assert said.code == 4
    assert "FAILED: 1 of 1 shard" in said.out
    assert said.err.splitlines()[1].startswith(f"{shard}: fails at level ")
    assert "it rebuilds just this shard" in said.err
    shown = json.loads(ldkit("cache", "verify", CACHE, "--json").out)
    assert shown["structure"]["faulty"] + shown["bytes"]["faulty"] == 1


@pytest.mark.contract
@pytest.mark.usefixtures("home")
def test_a_level_that_needs_a_recipe_is_a_usage_error(ldkit: Shell) -> None:
    said = ldkit("cache", "verify", CACHE, "--level", "pixels")
    assert said.code == 2
    assert "--level: the level pixels needs the data set of the cache." in said.err
    said = ldkit("cache", "verify", CACHE, "--level", "everything")
    assert said.code == 2
    assert "The levels are structure, bytes, pixels, teacher." in said.err


@pytest.mark.contract
@pytest.mark.usefixtures("home")
def test_no_cache_is_told_as_ever(ldkit: Shell) -> None:
    said = ldkit("cache", "verify", "caches/none")
    assert said.code == 4
    assert "caches/none: is no folder." in said.err


@pytest.mark.contract
def test_after_the_advised_repair_the_cache_is_whole_again(home: Path, ldkit: Shell) -> None:
    folder = CacheFolder(home / CACHE)
    whole = folder.shard(0).read_bytes()
    folder.shard(0).write_bytes(whole[:-1])
    assert ldkit("cache", "verify", CACHE).code == 4
    for path in (folder.shard(0), folder.receipt(0), folder.manifest):  # as the hint says
        path.unlink()
    assert ldkit("cache-logits", "student.yaml").code == 0
    assert folder.shard(0).read_bytes() == whole
    assert ldkit("cache", "verify", CACHE).code == 0
