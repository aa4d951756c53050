from pathlib import Path

import pytest

from ldkit.errors import UsageError
from ldkit.jobs.stage_places import Change, Found, Look, State, Status, named, place

DIGEST = "3f2a91bc" + 56 * "0"
OTHER = "00000001" + 56 * "0"
LR, SEED = Change("optim.lr", "0.1", "0.2"), Change("seed", "0", "1")


def looking_at(outputs: dict[Path, Found]) -> Look:
    for path in outputs:
        path.mkdir(parents=True, exist_ok=True)
    return outputs.get


def one(*changes: Change, is_finished: bool = True) -> Found:
    return Found(is_finished, changes)


@pytest.mark.law
def test_an_output_that_is_the_one_is_taken_wherever_it_stands(tmp_path: Path) -> None:
    base = tmp_path / "runs" / "a.b"
    own = named(base, OTHER)
    assert own.name == "a.b-00000001"
    assert place(base, DIGEST, looking_at({})) == Status(State.TO_DO, base)
    assert place(base, DIGEST, looking_at({base: one()})) == Status(State.FINISHED, base)
    look = looking_at({base: one(LR), own: one()})
    assert place(base, DIGEST, look) == Status(State.FINISHED, own)
    look = looking_at({base: one(is_finished=False)})
    assert place(base, DIGEST, look) == Status(State.UNFINISHED, base)


@pytest.mark.law
def test_of_two_that_are_the_one_the_finished_one_is_taken(tmp_path: Path) -> None:
    base = tmp_path / "a"
    look = looking_at({base: one(is_finished=False), named(base, OTHER): one()})
    assert place(base, DIGEST, look).output == named(base, OTHER)


@pytest.mark.law
def test_another_output_is_left_and_the_nearest_says_why(tmp_path: Path) -> None:
    base = tmp_path / "a"
    look = looking_at({base: one(LR, SEED), named(base, OTHER): one(LR)})
    wanted = Status(State.TO_DO, named(base, DIGEST), "", named(base, OTHER), (LR,))
    assert place(base, DIGEST, look) == wanted


@pytest.mark.law
def test_a_plain_name_that_became_free_is_taken_again(tmp_path: Path) -> None:
    base = tmp_path / "a"
    look = looking_at({named(base, OTHER): one(LR), tmp_path / "a-notdigits": one()})
    assert place(base, DIGEST, look) == Status(State.TO_DO, base)


@pytest.mark.contract
def test_an_output_that_belies_its_name_is_refused(tmp_path: Path) -> None:
    base = tmp_path / "a"
    look = looking_at({base: one(LR), named(base, DIGEST): one(SEED)})
    with pytest.raises(UsageError, match="a-3f2a91bc: is not what its name says"):
        place(base, DIGEST, look)
