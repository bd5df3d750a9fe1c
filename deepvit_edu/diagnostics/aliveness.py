"""Whether a model needs the maps of its deep half: all are replaced together, and the loss is measured again."""

from collections import defaultdict
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from .interventions import changes_by_image, mean_and_error, replaced_logits
from .recording import attention_blocks

Effects = dict[str, dict[str, tuple[float, float]]]

REPLACEMENTS = {
    "uniform": "uniform",
    "query-mean": "query-mean",
    "other image": "other image",
    "one map": "previous",
    "none": "no attention",
}
"""What `aliveness` puts in the place of the maps, and the intervention that does it."""
THRESHOLD = 0.02
"""What the least harmful replacement must cost, in nats, for the map to matter."""


def aliveness(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    blocks: Literal["deep half"] | Sequence[int] = "deep half",
    batch_size: int | None = None,
) -> Effects:
    """What it costs to replace the maps of several blocks together. No training.

    One block's map can be replaced at no cost where the other blocks make up for it, so a single block decides nothing.

    Args:
        model: a model of the zoo, or timm's Vision Transformer; it is left as it was.
        images: normalised images (B, 3, H, W), in any order but by class; 2,000 or more for a verdict.
        labels: their classes (B,).
        blocks: blocks that follow one another, from 0; the second half unless given.
        batch_size: images at a time; 8 on a processor, whose caches hold no more, and 64 on a GPU unless given.

    Returns:
        for each replacement of all these maps the changes "loss" (nats) and "accuracy" (a fraction), after minus
        before, as (mean of paired differences over images, its standard error):
        "uniform" (each row's mean), "query-mean" (each column's mean: all queries of an image look at the same),
        "other image" (the maps that another image has), "one map" (that of the block before them, or block 0's where
        block 0 is one of them), "none" (zeros: no attention at all).

    Raises:
        ValueError: for fewer than two images, labels of another number, a batch size below
            2, or blocks that do not follow one another.
    """
    if len(images) < 2 or len(labels) != len(images):
        raise ValueError(f"give two images or more and a label for each, not {len(images)} and {len(labels)}")
    if batch_size is not None and batch_size < 2:
        raise ValueError(f"the batch size is {batch_size}; an image is given the map of another, so take 2 or more")
    layers = _layers(blocks, len(attention_blocks(model)))
    ways = {name: how for name, how in REPLACEMENTS.items() if how != "previous" or layers != (0,)}
    changes: dict[str, list[dict[str, Tensor]]] = defaultdict(list)
    parts = -(-len(images) // (batch_size or (8 if images.device.type == "cpu" else 64)))
    for some, their_labels in zip(images.tensor_split(parts), labels.tensor_split(parts), strict=True):
        logits = replaced_logits(model, some, layers, tuple(ways.values()))
        for name, how in ways.items():
            changes[name].append(changes_by_image(logits[None], logits[how], their_labels))
    return {
        name: {key: mean_and_error(torch.cat([part[key] for part in of])) for key in ("loss", "accuracy")}
        for name, of in changes.items()
    }


def _layers(blocks: Literal["deep half"] | Sequence[int], depth: int) -> tuple[int, ...]:
    layers = tuple(range(depth // 2, depth)) if blocks == "deep half" else tuple(blocks)
    if not layers or layers != tuple(range(layers[0], layers[0] + len(layers))):
        raise ValueError(f"blocks is {blocks!r}; name blocks that follow one another, such as range(12, 24)")
    return layers


def least_harmful(effects: Effects) -> str:
    """The replacement that costs the least: what the model does with its maps is worth no more than that."""
    return min(effects, key=lambda name: effects[name]["loss"][0])


def map_matters(effects: Effects, threshold: float = THRESHOLD) -> bool | None:
    """Whether the model needs the maps that it has, by what `aliveness` found.

    True where even the least harmful replacement costs more than the threshold, and at least three of its standard
    errors. False where some replacement costs no more than the threshold with two standard errors on top. None where
    neither holds: more images are needed.

    One harmless replacement decides, for any other may do harm of its own: no attention at all takes a branch away
    that the later blocks have learned to expect, and costs an idle network something, too. Loss decides, since a
    divergence is never negative and accuracy moves in steps of whole images.
    """
    if any(cost + 2 * error <= threshold for cost, error in (effect["loss"] for effect in effects.values())):
        return False
    cost, error = effects[least_harmful(effects)]["loss"]
    return True if cost > threshold and 3 * error <= cost else None
