"""What the engine notes of every trained model."""

from typing import Any

import torch
from torch import Tensor

from ..data import ImageSet
from ..diagnostics import at_initialisation, collapse_report, intervene_all
from ..nn.model import VisionTransformer

NUM_IMAGES = 128


def measure_model(model: VisionTransformer, test_set: ImageSet) -> dict[str, Any]:
    """The collapse report of a model on test images, the same without training, and what its maps are worth.

    Returns:
        what `collapse_report` gives; under "initial" the same of new weights (those of seed 0 always); under
        "interventions" the rows of `intervene_all`. Numbers are rounded to five digits.
    """
    images, labels = (each.to(next(model.parameters()).device) for each in measured_images(test_set))
    report = collapse_report(model, images)
    report["initial"] = collapse_report(at_initialisation(model), images)
    report["interventions"] = intervene_all(model, images, labels)
    return rounded(report)


def measured_images(test_set: ImageSet) -> tuple[Tensor, Tensor]:
    """The test images that every model is measured on, normalised (B, 3, H, W), and their labels (B,)."""
    order = torch.randperm(len(test_set), generator=torch.Generator().manual_seed(0))  # sets may be sorted by class
    some = test_set.subset(order[:NUM_IMAGES])
    return some.normalise(some.images), some.labels


def rounded(value: Any) -> Any:
    """A report with its numbers rounded to five digits."""
    if isinstance(value, float):
        return float(f"{value:.5g}")
    if isinstance(value, dict):
        return {key: rounded(item) for key, item in value.items()}
    return [rounded(item) for item in value] if isinstance(value, list) else value
