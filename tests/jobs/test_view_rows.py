"""Each view gets its own rows of a teacher's answer, in order, and nothing else."""

import pytest
import torch

from ldkit.cache.content import pixels_crc32
from ldkit.data.dataset import ViewDataset, collate
from ldkit.jobs.build_cache import load_teacher
from ldkit.jobs.coverage import wanted
from ldkit.jobs.teacher_rows import rows_of_group
from ldkit.jobs.train import Material
from ldkit.jobs.view_rows import rows_by_view
from ldkit.structures import ViewKey
from tests.jobs.conftest import World
from tests.jobs.tiny import EVERY_TERM

KEYS = [ViewKey(1, 0), ViewKey(8, 0), ViewKey(1, 1)]
"""Three views of one canvas."""


@pytest.mark.law
def test_every_row_is_with_its_view(world: World) -> None:
    recipe = world.student(*EVERY_TERM)
    material = Material.of(recipe)
    batch = collate([ViewDataset(material.records, material.draw)[key] for key in KEYS])
    teacher = load_teacher(world.teacher, torch.device("cpu"), channels_last=True)
    answer = rows_of_group(teacher, batch, wanted(recipe))
    found = rows_by_view(batch, answer)
    assert list(found) == KEYS
    assert answer.vlr is not None
    assert answer.score is not None
    assert answer.cross is not None
    for position, key in enumerate(KEYS):
        rows = found[key]
        assert (rows.key, rows.view) == (key, batch.views[position])
        assert rows.pixels_crc32 == pixels_crc32(batch.pixels[position], rows.view.padded_hw)
        for name, region in (("main", answer.main), ("vlr", answer.vlr)):
            own = region.rows.image == position
            assert rows.columns[f"{name}.location"].equal(region.rows.location[own])
            assert rows.columns[f"{name}.gt_index"].equal(region.rows.gt_index[own])
            assert rows.columns[f"{name}.bbox_logits"].equal(region.bbox_logits[own])
            assert region.cls_logits is not None
            assert rows.columns[f"{name}.cls_logits"].equal(region.cls_logits[own])
        assert rows.columns["cross.mean"].equal(answer.cross.mean[position])
        _, location, _, row, label, logit = answer.score
        own = answer.score.image[row] == position
        here = rows.columns["score.location"][rows.columns["score_class.row"]]
        assert here.equal(location[row[own]])
        assert rows.columns["score_class.label"].equal(label[own])
        assert rows.columns["score_class.logit"].equal(logit[own])
    assert len(answer.score.logit) > 0
