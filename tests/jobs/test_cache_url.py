"""A student on a cache at a URL is the student on the same cache in a folder."""

from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from ldkit.cache.folder import CacheFolder
from ldkit.cache.store import LIMIT_VARIABLE, local
from ldkit.errors import UsageError
from ldkit.jobs import build_cache, distill, open_cache
from ldkit.jobs.cache_info import facts
from ldkit.jobs.cache_transfer import pull, push
from ldkit.jobs.facts import as_json
from tests.jobs.conftest import MAY_FORK, World
from tests.jobs.tiny import finish, snapshot, steps, weights

CACHED = distill.Options(device="cpu")


@pytest.fixture(autouse=True)
def _own_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    monkeypatch.delenv(LIMIT_VARIABLE, raising=False)


@pytest.fixture(scope="module")
def many_shards(world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("far") / "cache"
    finish(build_cache.run(world.student("cache.shard_mb=0.003", cache=folder), device="cpu"))
    assert len(list(folder.rglob("*.safetensors"))) == 4
    return folder


@MAY_FORK
@pytest.mark.law
@pytest.mark.parametrize("room", [9.0, 2.2])
@pytest.mark.parametrize("workers", [0, 2])
def test_a_student_learns_the_same_from_a_url(
    world: World,
    many_shards: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    room: float,
    workers: int,
) -> None:
    largest = max(path.stat().st_size for path in many_shards.rglob("*.safetensors"))
    monkeypatch.setenv(LIMIT_VARIABLE, f"{room * largest / 1e9:.9f}")
    extra = f"data.workers={workers}"
    finish(distill.run(world.student(extra, cache=many_shards), tmp_path / "near", CACHED))
    recipe = world.student(extra, f"cache.path=file://{many_shards}")
    finish(distill.run(recipe, tmp_path / "far", CACHED))
    assert steps(tmp_path / "far") == steps(tmp_path / "near")
    assert weights(tmp_path / "far") == weights(tmp_path / "near")
    fetched = [path.stat().st_size for path in (tmp_path / "home").rglob("*.safetensors")]
    assert 0 < sum(fetched) <= (room + 1) * largest  # one may have been open all the while
    assert len(fetched) == 4 or room < 4


@pytest.mark.contract
def test_a_dry_run_names_the_url(world: World, many_shards: Path, tmp_path: Path) -> None:
    url = f"file://{many_shards}"
    recipe = world.student(f"cache.path={url}")
    shown = as_json(distill.outline(recipe, tmp_path / "run", CACHED))
    assert shown["cache"]["folder"] == url
    assert not list((tmp_path / "home").rglob("*.safetensors"))


@pytest.mark.contract
def test_info_is_the_same_without_a_single_shard_but_for_the_spread(many_shards: Path) -> None:
    url = f"file://{many_shards}"
    fetched_none = {"cache": url, "rows_per_view": None}
    assert as_json(facts(url)) == as_json(facts(many_shards)) | fetched_none
    assert not list(local(url).rglob("*.safetensors"))


@pytest.mark.contract
def test_the_teachers_backbone_is_known_from_a_url(world: World, many_shards: Path) -> None:
    found = open_cache.backbone_of(f"file://{many_shards}")
    assert found == open_cache.backbone_of(str(world.cache))


@pytest.mark.contract
def test_a_cache_is_not_built_at_a_url(world: World) -> None:
    recipe = world.student("cache.path=s3://team/r101")
    with pytest.raises(UsageError, match="s3://team/r101: is a URL, but a cache is built") as told:
        finish(build_cache.run(recipe, device="cpu"))
    assert "`ldkit cache push caches/NAME URL`" in told.value.hint
    assert not Path("s3:").exists()


class _Quiet(SimpleHTTPRequestHandler):
    """Files without ranges and without a log."""

    def log_message(self, *_: object) -> None:
        pass


@MAY_FORK
@pytest.mark.story
def test_a_web_server_will_do(world: World, many_shards: Path, tmp_path: Path) -> None:
    pytest.importorskip("aiohttp")
    server = ThreadingHTTPServer(
        ("127.0.0.1", 0), lambda *args: _Quiet(*args, directory=str(many_shards.parent))
    )
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        url = f"http://127.0.0.1:{server.server_port}/cache"
        finish(pull(url, tmp_path / "back"))
        recipe = world.student("data.workers=2", f"cache.path={url}")
        finish(distill.run(recipe, tmp_path / "far", CACHED))
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
    assert snapshot(tmp_path / "back") == snapshot(many_shards)
    finish(distill.run(world.student(cache=many_shards), tmp_path / "near", CACHED))
    assert weights(tmp_path / "far") == weights(tmp_path / "near")


@pytest.mark.contract
def test_a_pushed_cache_of_a_build_is_the_build(many_shards: Path, tmp_path: Path) -> None:
    url = f"file://{tmp_path}/far"
    finish(push(many_shards, url))
    assert snapshot(tmp_path / "far") == snapshot(many_shards)
    assert CacheFolder(local(url)).manifest.is_file()
