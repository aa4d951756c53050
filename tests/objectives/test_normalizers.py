from pathlib import Path

import pytest
import torch
from torch import distributed, multiprocessing
from torch.testing import assert_close

from ldkit.objectives.classification import KdSettings
from ldkit.objectives.distill import DistillSettings, distill_terms
from ldkit.objectives.gfl import gfl_terms
from ldkit.objectives.localization import LdSettings, VlrSettings
from ldkit.objectives.normalizers import (
    ld_paper,
    ld_weights,
    mean_of_levels,
    mean_over_ranks,
    number_of_rows,
    paper_levels,
    totals,
    weight_sum,
)
from ldkit.structures import Rows
from tests.objectives.scenes import (
    SETTINGS,
    Scene,
    part,
    rows_of,
    scene,
    student_of,
    teacher_rows,
)


@pytest.mark.law
def test_an_image_without_rows_counts_as_one_positive() -> None:
    image = torch.tensor([0, 0, 0, 2])
    rows = Rows(image, torch.arange(4), torch.zeros(4, dtype=torch.long))
    weight = torch.tensor([0.1, 0.2, 0.3, 0.4])
    assert_close(totals(rows, weight, images=4).positives, torch.tensor(6.0))
    assert_close(totals(rows, weight, images=4).weights, torch.tensor(1.0))


@pytest.mark.law
def test_the_two_weight_sums_differ_where_positives_are_few_or_unsure() -> None:
    few, many = torch.tensor(0.02), torch.tensor(35.0)
    assert weight_sum(few, "clamp_1") == 1
    assert_close(weight_sum(few, "plus_epsilon"), torch.tensor(0.020001))
    assert_close(weight_sum(many, "clamp_1"), weight_sum(many, "plus_epsilon"))


@pytest.mark.law
def test_the_paper_divides_by_bins_and_by_images_in_units_of_three() -> None:
    assert ld_paper(num_bins=17, images=3) == 17
    assert ld_paper(num_bins=17, images=6) == 34
    assert ld_paper(num_bins=17, images=6, reference_images=6) == 17


@pytest.mark.law
def test_no_weights_give_no_division_by_zero() -> None:
    assert ld_weights(torch.tensor(0.0)) > 0
    assert ld_weights(torch.tensor(0.3)) == torch.tensor(0.3)


@pytest.mark.law
def test_published_levels_are_averaged_over_runs_of_three_images() -> None:
    image, level = torch.tensor([0, 2, 2, 3, 4]), torch.tensor([0, 0, 1, 1, 1])
    places = paper_levels(image, level, images=5, levels=2)
    assert (places.group.tolist(), places.groups, places.gpus) == ([0, 0, 1, 3, 3], 4, 2)
    value = torch.tensor([1.0, 3.0, 10.0, 100.0, 300.0])
    assert mean_of_levels(value, torch.ones(5), places) == (2 + 10 + 200) / 2
    left_out = torch.tensor([1.0, 1.0, 1.0, 1.0, 0.0])
    assert mean_of_levels(value * left_out, left_out, places) == (2 + 10 + 100) / 2


@pytest.mark.law
def test_no_rows_give_no_division_by_zero() -> None:
    assert number_of_rows(torch.zeros(0)) > 0
    assert number_of_rows(torch.ones(7)) == 7


@pytest.mark.law
def test_one_rank_is_its_own_mean() -> None:
    sums = torch.tensor([2.0, 3.0])
    assert mean_over_ranks(sums) is sums


REGION = VlrSettings("iou", exclude_main=True)
ALL = [
    DistillSettings(
        REGION,
        ld_main=LdSettings(0.25, 10.0, "paper"),
        ld_vlr=LdSettings(0.25, 10.0, "paper"),
    ),
    DistillSettings(
        REGION,
        ld_main=LdSettings(1.0, 2.0, "weights"),
        ld_vlr=LdSettings(1.0, 2.0, "weights"),
        kd_main=KdSettings("softmax", 1.0, 2.0, "sum", "rows"),
        kd_vlr=KdSettings("binary", 1.0, 2.0, "sum", "rows"),
    ),
]


def all_terms(one: Scene) -> torch.Tensor:
    rows = rows_of(one.truth)
    student = student_of(one, rows)
    teacher = teacher_rows(one, rows)
    plain = gfl_terms(student.values, student.totals, SETTINGS)
    found = [distill_terms(plain, student, teacher, settings, {}) for settings in ALL]
    return torch.stack([term for terms in found for term in terms if term is not None])


def as_one_of_two_ranks(rank: int, folder: str) -> None:
    distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2
    )
    one = part(scene((3, 1, 0, 4)), [2 * rank, 2 * rank + 1])
    torch.save(all_terms(one).detach(), f"{folder}/{rank}.pt")
    distributed.destroy_process_group()


@pytest.mark.law
def test_two_ranks_together_give_what_one_with_all_images_gives(tmp_path: Path) -> None:
    multiprocessing.spawn(as_one_of_two_ranks, (str(tmp_path),), nprocs=2)
    ranks = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1)]
    assert_close(sum(ranks) / 2, all_terms(scene((3, 1, 0, 4))).detach())
