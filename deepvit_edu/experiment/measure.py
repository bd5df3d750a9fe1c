"""What the engine notes of every trained model."""

from typing import Any

import torch

from ..data import ImageSet
from ..diagnostics import at_initialisation, collapse_report, intervene_all
from ..nn.transformer import VisionTransformer

NUM_IMAGES = 128


def measure_model(model: VisionTransformer, test_set: ImageSet) -> dict[str, Any]:
    """The collapse report of a model on test images, the same before training, and what its maps are worth.

    Returns:
        what `collapse_report` gives; under "initial" the same of new weights; under "interventions" the rows of
        `intervene_all`. Numbers are rounded to five digits.
    """
    order = torch.randperm(len(test_set), generator=torch.Generator().manual_seed(0))  # sets may be sorted by class
    some = test_set.subset(order[:NUM_IMAGES])
    device = next(model.parameters()).device
    images, labels = some.normalise(some.images.to(device)), some.labels.to(device)
    report = collapse_report(model, images)
    report["initial"] = collapse_report(at_initialisation(model), images)
    report["interventions"] = intervene_all(model, images, labels)
    return _rounded(report)


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.5g}")
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    return [_rounded(item) for item in value] if isinstance(value, list) else value
