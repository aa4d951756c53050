import pytest
import torch

from ldkit.metrics.results import coco_results
from ldkit.structures import Detections


@pytest.mark.contract
def test_detections_become_results_with_original_category_ids_and_xywh_boxes() -> None:
    found = Detections(
        boxes=torch.tensor([[10.0, 20.0, 40.5, 60.25], [0.0, 0.0, 5.0, 7.0]]),
        scores=torch.tensor([0.75, 0.5]),
        labels=torch.tensor([2, 0]),
    )
    nothing = Detections(torch.zeros(0, 4), torch.zeros(0), torch.zeros(0, dtype=torch.int64))
    assert coco_results({7: found, 8: nothing}, [1, 3, 90]) == [
        {"image_id": 7, "category_id": 90, "bbox": [10.0, 20.0, 30.5, 40.25], "score": 0.75},
        {"image_id": 7, "category_id": 1, "bbox": [0.0, 0.0, 5.0, 7.0], "score": 0.5},
    ]


@pytest.mark.law
def test_nothing_is_rounded() -> None:
    box = torch.tensor([[0.1, 0.2, 1000.3, 900.7]])
    found = Detections(box, torch.tensor([0.123456789]), torch.tensor([0]))
    (result,) = coco_results({1: found}, [1])
    x, y, width, height = result["bbox"]
    assert [x, y, x + width, y + height] == pytest.approx(box[0].tolist(), rel=1e-15)
    assert result["score"] == torch.tensor(0.123456789).item()
