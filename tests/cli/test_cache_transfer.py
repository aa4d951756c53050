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


@pytest.mark.story
def test_a_student_learns_from_a_url(
    home: Path, ldkit: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(home / "store"))
    url = f"file://{home}/caches/tiny"
    shown = json.loads(ldkit("cache", "info", url, "--json").out)
    assert shown["cache"] == url
    assert shown["state"]["sealed"] is True
    said = ldkit("distill", "student.yaml", "--cache", url, "--dry-run", "--json")
    assert json.loads(said.out)["cache"]["folder"] == url
    said = ldkit("distill", "student.yaml", "--cache", url)
    assert said.code == 0, said.err
    assert list((home / "store").rglob("*.safetensors"))


@pytest.mark.contract
@pytest.mark.usefixtures("home")
def test_what_builds_a_cache_refuses_a_url(ldkit: Shell) -> None:
    for words in (
        ("cache-logits", "student.yaml", "--out", "memory://tiny"),
        ("run", "student.yaml", "--set", "cache.path=memory://tiny"),
    ):
        said = ldkit(*words)
        assert said.code == 2, said.err
        assert "memory:" in said.err
        assert "is a URL, but a cache is built in a folder" in said.err
        assert "ldkit cache push caches/NAME URL" in said.err


@pytest.mark.contract
@pytest.mark.usefixtures("home")
def test_a_url_that_cannot_be_used_is_told(ldkit: Shell) -> None:
    said = ldkit("cache", "push", "caches/tiny", "ftpp://host/tiny")
    assert said.code == 2
    assert said.err.startswith("ftpp://host/tiny: cannot be used: Protocol not known: ftpp.")
    said = ldkit("cache", "push", "caches/tiny", "caches/copy")
    assert said.code == 2
    assert said.err.startswith("caches/copy: is no URL.")
