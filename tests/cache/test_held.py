import pytest

from ldkit.cache.folder import CacheFolder
from ldkit.cache.format import Wanted
from ldkit.cache.generations import read_generations
from ldkit.cache.held import missing_views
from ldkit.cache.reader import CacheReader
from ldkit.errors import CacheCoverage
from ldkit.structures import ViewKey
from tests.cache.synthetic import make_coverage, make_keys, make_plan
from tests.cache.test_generations import build_all

KEYS = make_keys(6)
SOME, MORE = KEYS[:7], KEYS[7:]


@pytest.mark.law
def test_missing_views_are_those_that_no_generation_holds(tmp_path) -> None:
    build_all(tmp_path, (SOME, make_plan(SOME)), (MORE, make_plan(MORE)))
    parts = read_generations(tmp_path)
    for generations, keys, missing in [
        (parts, KEYS, ()),
        (parts[:1], KEYS, MORE),
        (parts[1:], KEYS, SOME),
        ((), KEYS, KEYS),
        (parts, (ViewKey(1, 0), *SOME), (ViewKey(1, 0),)),
    ]:
        assert tuple(missing_views(generations, keys)) == missing


@pytest.mark.contract
def test_views_that_lack_a_group_are_told_before_anything_is_read(tmp_path) -> None:
    build_all(tmp_path, (SOME, make_plan(SOME)), (MORE, make_plan(MORE, held=["vlr"])))
    wanted = Wanted(make_coverage(["vlr"]), frozenset())
    reader = CacheReader.open_(tmp_path, wanted)
    with pytest.raises(CacheCoverage) as caught:
        reader.require_keys(KEYS)
    assert str(caught.value) == (
        f"{tmp_path}: holds no rows of vlr for 7 of 12 views that this recipe shows, such as "
        "image 9, view 0.\n"
        "Add them (`ldkit cache-logits RECIPE --extend`), or build a new cache "
        "(`--out caches/NAME`)."
    )
    reader.require_keys(MORE)
    CacheReader.open_(tmp_path, Wanted(make_coverage(), frozenset())).require_keys(KEYS)


@pytest.mark.contract
def test_a_group_is_checked_though_shards_of_another_are_not_here(tmp_path) -> None:
    build_all(tmp_path, (SOME, make_plan(SOME)), (MORE, make_plan(MORE, held=["vlr"])))
    wanted = Wanted(make_coverage(["vlr"]), frozenset())
    CacheFolder(tmp_path).shard(0).unlink()
    with pytest.raises(CacheCoverage, match="holds no rows of vlr for 7 of 12 views"):
        CacheReader.open_(tmp_path, wanted).require_keys(KEYS)
