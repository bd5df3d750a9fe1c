"""The measurements that the engine adds to the record of every trained model."""

from typing import Any

import torch
from torch import Tensor, nn

from ..data import ImageSet
from ..diagnostics import (
    aliveness,
    at_initialisation,
    collapse_report,
    excess_report,
    intervene_all,
    least_harmful,
    map_matters,
    record_attention,
    renumbered_heads,
)
from ..nn.model import VisionTransformer
from ..nn.sparse import MlpBlock

NUM_IMAGES = 128  # for the measures of every two heads, and for the blocks one by one
MAP_IMAGES = 512  # for the measures that match heads
BOUND_IMAGES = 32  # for the measure that has all maps of these at once
LIVE_IMAGES = 2000  # for what the maps of the deep half are worth together
NEW_SEEDS = range(5)  # of the new weights that measures are compared with


def measure_model(model: VisionTransformer, test_set: ImageSet) -> dict[str, Any]:
    """The collapse report of a model on test images, the same without training, and what its maps are worth.

    Returns:
        what `collapse_report` gives; under "initial" the same of new weights (those of seed 0 always); under
        "interventions" the rows of `intervene_all`. What `excess_report` gives of the softmax maps, and of the maps in
        use with "used_" before each name. "aliveness" (of the deep half, on "aliveness_images"), the "least_harmful"
        of its replacements, and "map_matters": true, false, or null where the images are too few to say. Under
        "renumbered" what `renumbered_heads` gives of the softmax maps, doubly centred, of each L - 1 pairs; numbers are
        rounded to five digits; images are as many as a set has, up to the numbers above. Nothing of a model whose maps
        have no common size, since it drops tokens or has blocks without attention.
    """
    if model.selection is not None or any(isinstance(block, MlpBlock) for block in model.blocks):
        return {}
    device = next(model.parameters()).device
    images, labels = (each.to(device) for each in measured_images(test_set, LIVE_IMAGES))
    few = images[:NUM_IMAGES]
    report = collapse_report(model, few)
    report["initial"] = collapse_report(at_initialisation(model), few)
    report["interventions"] = intervene_all(model, few, labels[:NUM_IMAGES])
    report |= _measure_excess(model, images[:MAP_IMAGES])
    pairs = renumbered_heads(record_attention(model, few[:BOUND_IMAGES], "softmax"), centre="double")
    report["renumbered"] = {name: values.tolist() for name, values in pairs.items()}
    return rounded(report | measure_aliveness(model, images, labels))


def measure_aliveness(model: nn.Module, images: Tensor, labels: Tensor) -> dict[str, Any]:
    """What the maps of a model's deep half are worth, in the form of a record.

    Args:
        model, images, labels: as for `aliveness`.
    """
    effects = aliveness(model, images, labels)
    return {
        "aliveness": {name: {key: list(pair) for key, pair in of.items()} for name, of in effects.items()},
        "aliveness_images": len(images),
        "least_harmful": least_harmful(effects),
        "map_matters": map_matters(effects),
    }


def _measure_excess(model: VisionTransformer, images: Tensor) -> dict[str, Any]:
    new = [at_initialisation(model, seed) for seed in NEW_SEEDS]
    softmax = excess_report(model, new, images)
    # A plain attention uses the map that its softmax gives, so there is nothing more to measure.
    plain = set(model.config.attention) == {"plain"}
    used = softmax if plain else excess_report(model, new, images, "used")
    counts = {"excess_images": softmax.pop("images"), "new_models": softmax.pop("new_models")}
    return {**softmax, **counts, **{f"used_{name}": values for name, values in used.items() if name not in counts}}


def measured_images(test_set: ImageSet, count: int = NUM_IMAGES) -> tuple[Tensor, Tensor]:
    """The test images that every model is measured on, normalised (B, 3, H, W), and their labels (B,).

    A larger number adds images after those of a smaller one.
    """
    order = torch.randperm(len(test_set), generator=torch.Generator().manual_seed(0))  # sets may be sorted by class
    some = test_set.subset(order[:count])
    return some.normalise(some.images), some.labels


def rounded(value: Any) -> Any:
    """A report with its numbers rounded to five digits."""
    if isinstance(value, float):
        return float(f"{value:.5g}")
    if isinstance(value, dict):
        return {key: rounded(item) for key, item in value.items()}
    return [rounded(item) for item in value] if isinstance(value, list) else value
