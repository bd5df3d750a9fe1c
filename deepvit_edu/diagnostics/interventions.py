"""Replacing one block's map in a trained model, to see whether it matters which map is there."""

from collections.abc import Callable
from statistics import fmean
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .recording import attention_blocks, inspection, watch_maps


def _uniform(attn: Tensor) -> Tensor:
    return attn.mean(dim=-1, keepdim=True).expand_as(attn)  # a row keeps its sum, which is 1 after a softmax only


INTERVENTIONS: dict[str, Callable[[Tensor, Tensor | None], Tensor]] = {
    "previous": lambda attn, previous: previous,
    "uniform": lambda attn, previous: _uniform(attn),
    "other image": lambda attn, previous: attn.roll(1, dims=0),
    "permute heads": lambda attn, previous: attn.roll(1, dims=1),
    "no attention": lambda attn, previous: torch.zeros_like(attn),  # the control: does the block matter at all?
}


def intervene(model: nn.Module, images: Tensor, layer: int, how: str, labels: Tensor | None = None) -> dict[str, float]:
    """What replacing one block's map does to the outcome: whether similar maps do the same. No training.

    The map that multiplies the values is replaced, in eval mode; where a block hands its map on, so is that.

    Args:
        model: a model of the zoo, or timm's Vision Transformer; it is left as it was.
        images: normalised images (B, 3, H, W).
        layer: the block, from 0.
        how: "previous" (the map of the block before), "uniform" (each row's mean), "other image" (that of the image
            before), "permute heads" (each head has the map of the head before), or "no attention" (zeros: a control,
            since where even that costs nothing, no map can matter).
        labels: classes (B,), for loss and accuracy.

    Returns:
        "kl", the mean divergence of the class probabilities from those before, in nats; and with labels the changes
        "loss" (cross-entropy) and "accuracy" (a fraction), after minus before.

    Raises:
        ValueError: for a layer or intervention that there is not, or one that would change nothing.
    """
    return _effect(_logits(model, images), _logits_without(model, images, layer, how), labels)


def intervene_all(model: nn.Module, images: Tensor, labels: Tensor | None = None) -> list[dict[str, Any]]:
    """`intervene` for every layer and every kind that it has: rows with "layer", "how" and the effects."""
    blocks, before = attention_blocks(model), _logits(model, images)
    return [
        {"layer": layer, "how": how, **_effect(before, _logits_without(model, images, layer, how), labels)}
        for layer, block in enumerate(blocks)
        for how in INTERVENTIONS
        if not _obstacle(how, layer, len(images), block.attn.num_heads)
    ]


def effects_by_block(rows: list[dict[str, Any]], effect: str = "loss") -> dict[str, list[float]]:
    """Rows of `intervene_all`, of one model or of several alike: for each kind of replacement the mean at each block.

    A block that has none of a kind (the first has no map before it) is NaN. Empty without rows.
    """
    blocks = 1 + max((row["layer"] for row in rows), default=-1)
    values: dict[str, list[list[float]]] = {}
    for row in rows:
        values.setdefault(row["how"], [[] for _ in range(blocks)])[row["layer"]].append(row[effect])
    return {how: [fmean(each) if each else float("nan") for each in per] for how, per in values.items()}


def _obstacle(how: str, layer: int, images: int, heads: int) -> str | None:
    """Why an intervention cannot be made, if it cannot."""
    obstacles = {
        "previous": "the first block, 0, has none before it; choose a later one" if layer == 0 else None,
        "other image": "there is one image; give two or more" if images < 2 else None,
        "permute heads": "there is one head; choose another intervention" if heads < 2 else None,
    }
    return obstacles.get(how)


def _logits(model: nn.Module, images: Tensor) -> Tensor:
    with inspection(model, legible=False):
        return model(images)


def _logits_without(model: nn.Module, images: Tensor, layer: int, how: str) -> Tensor:
    """The logits where the map of one block is replaced."""
    blocks = attention_blocks(model)
    if how not in INTERVENTIONS:
        raise ValueError(f"there is no intervention '{how}'; choose one of {', '.join(INTERVENTIONS)}")
    if not 0 <= layer < len(blocks):
        raise ValueError(f"there is no block {layer}; choose one from 0 to {len(blocks) - 1}")
    if obstacle := _obstacle(how, layer, len(images), blocks[layer].attn.num_heads):
        raise ValueError(f"the map cannot be replaced by '{how}': {obstacle}")
    previous: Tensor | None = None

    def replace(at: int, attn: Tensor) -> Tensor | None:
        nonlocal previous
        if at == layer:
            return INTERVENTIONS[how](attn, previous)
        previous = attn
        return None

    with inspection(model, legible=False) as hooks:
        watch_maps(model, hooks, "used", replace, layers=(layer - 1, layer))
        return model(images)


def _effect(before: Tensor, after: Tensor, labels: Tensor | None) -> dict[str, float]:
    before, after = before.cpu().double(), after.cpu().double()  # small effects drown in the rounding of float32
    before_log, after_log = before.log_softmax(dim=-1), after.log_softmax(dim=-1)
    effect = {"kl": F.kl_div(after_log, before_log, reduction="batchmean", log_target=True).item()}
    if labels is not None:
        labels = labels.cpu()
        effect["loss"] = (F.nll_loss(after_log, labels) - F.nll_loss(before_log, labels)).item()
        right = [(logits.argmax(dim=-1) == labels).double().mean() for logits in (before, after)]
        effect["accuracy"] = (right[1] - right[0]).item()
    return effect
