"""Replacing the maps of blocks in a trained model, to see whether it matters which maps are there."""

from collections.abc import Callable, Collection, Sequence
from statistics import fmean
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .recording import attention_blocks, called_blocks, check_all_tokens, inspection, watch_maps


def _uniform(attn: Tensor) -> Tensor:
    return attn.mean(dim=-1, keepdim=True).expand_as(attn)  # a row keeps its sum, which is 1 after a softmax only


def _query_mean(attn: Tensor) -> Tensor:
    return attn.mean(dim=-2, keepdim=True).expand_as(attn)  # perfect stripes: every query looks as all do on average


INTERVENTIONS: dict[str, Callable[[Tensor, Tensor | None], Tensor]] = {
    "previous": lambda attn, previous: attn if previous is None else previous,  # block 0 keeps its own
    "uniform": lambda attn, previous: _uniform(attn),
    "query-mean": lambda attn, previous: _query_mean(attn),
    "other image": lambda attn, previous: attn.roll(1, dims=0),
    "permute heads": lambda attn, previous: attn.roll(1, dims=1),
    "no attention": lambda attn, previous: torch.zeros_like(attn),  # the control: does the block matter at all?
}


def intervene(
    model: nn.Module, images: Tensor, layer: int | Sequence[int], how: str, labels: Tensor | None = None
) -> dict[str, float]:
    """What replacing the map of a block, or of several together, does to the outcome. No training.

    The map that multiplies the values is replaced, in eval mode; where a block hands its map on, so is that.

    Args:
        model: a model of the zoo, or timm's Vision Transformer; it is left as it was.
        images: normalised images (B, 3, H, W).
        layer: the block, from 0; or several blocks, whose maps are then all replaced in one pass.
        how: "previous" (the map that the block before uses; several blocks in a row all use one), "uniform" (each
            row's mean), "query-mean" (each column's mean: every query looks where all of its image do on average),
            "other image" (that of the image before), "permute heads" (each head has the map of the head before), or
            "no attention" (zeros: a control, since where even that costs nothing, no map can matter).
        labels: classes (B,), for loss and accuracy.

    Returns:
        "kl", the mean divergence of the class probabilities from those before, in nats; and with labels the changes
        "loss" (cross-entropy) and "accuracy" (a fraction), after minus before. Each also with "_error", the standard
        error of that mean over images; NaN for one image. A divergence is never negative: it shows that something
        changed, not that it mattered.

    Raises:
        ValueError: for an unknown layer or intervention, one that would change nothing, or a model that drops tokens.
    """
    layers = (layer,) if isinstance(layer, int) else tuple(layer)
    logits = replaced_logits(model, images, layers, (how,))
    return _effect(logits[None], logits[how], labels)


def intervene_all(model: nn.Module, images: Tensor, labels: Tensor | None = None) -> list[dict[str, Any]]:
    """`intervene` for every layer and every kind that it has: rows with "layer", "how" and the effects."""
    rows = []
    for layer, block in enumerate(attention_blocks(model)):
        hows = [how for how in INTERVENTIONS if not _obstacle(how, (layer,), len(images), block.attn.num_heads)]
        logits = replaced_logits(model, images, (layer,), hows)
        rows += [{"layer": layer, "how": how, **_effect(logits[None], logits[how], labels)} for how in hows]
    return rows


def effects_by_block(rows: list[dict[str, Any]], effect: str = "loss") -> dict[str, list[float]]:
    """Rows of `intervene_all`, of one model or several of one shape: the mean at each block for each replacement.

    A block that has none of a kind (the first has no map before it) is NaN. Empty without rows.
    """
    blocks = 1 + max((row["layer"] for row in rows), default=-1)
    values: dict[str, list[list[float]]] = {}
    for row in rows:
        values.setdefault(row["how"], [[] for _ in range(blocks)])[row["layer"]].append(row[effect])
    return {how: [fmean(each) if each else float("nan") for each in per] for how, per in values.items()}


def _obstacle(how: str, layers: Collection[int], images: int, heads: int) -> str | None:
    """Why an intervention cannot be made, if it cannot."""
    obstacles = {
        "previous": "the first block, 0, has none before it; choose a later one" if set(layers) == {0} else None,
        "other image": "there is one image; give two or more" if images < 2 else None,
        "permute heads": "there is one head; choose another intervention" if heads < 2 else None,
    }
    return obstacles.get(how)


def replaced_logits(
    model: nn.Module, images: Tensor, layers: Collection[int], hows: Sequence[str]
) -> dict[str | None, Tensor]:
    """The logits (B, K) where the maps of some blocks are replaced together, for each way; under None as they are.

    All come from one pass: the tokens that enter the first of these blocks are copied, one copy for each way, so that
    the blocks before it compute once. Errors as for `intervene`.
    """
    _check_replacements(model, images, layers, hows)
    ways = (None, *hows)
    first, used = min(layers), [None] * len(ways)  # the map that each copy used last

    def copy_input(block: nn.Module, args: tuple) -> tuple:
        tokens_and_map = args[0] if isinstance(args[0], tuple) else (args[0],)
        copies = tuple(torch.cat([each] * len(ways)) for each in tokens_and_map)
        return (copies if isinstance(args[0], tuple) else copies[0],)

    def replace(layer: int, attn: Tensor) -> Tensor | None:
        nonlocal used
        parts = [attn] * len(ways) if layer < first else attn.chunk(len(ways))
        if layer not in layers:
            used = parts
            return None
        used = [
            INTERVENTIONS[how](part, last) if how else part for how, part, last in zip(ways, parts, used, strict=True)
        ]
        return torch.cat(used)

    before = {layer - 1 for layer in layers} if "previous" in hows else set()
    with inspection(model, legible=False) as hooks:
        hooks.enter_context(called_blocks(model)[first].register_forward_pre_hook(copy_input))
        watch_maps(model, hooks, "used", replace, layers={*layers, *before})
        return dict(zip(ways, model(images).chunk(len(ways)), strict=True))


def _check_replacements(model: nn.Module, images: Tensor, layers: Collection[int], hows: Sequence[str]) -> None:
    blocks = attention_blocks(model)
    check_all_tokens(model)
    if not layers:
        raise ValueError(f"name at least one block whose map is replaced; choose from 0 to {len(blocks) - 1}")
    for layer in layers:
        if not 0 <= layer < len(blocks):
            raise ValueError(f"there is no block {layer}; choose one from 0 to {len(blocks) - 1}")
    for how in hows:
        if how not in INTERVENTIONS:
            raise ValueError(f"unknown intervention '{how}'; choose one of {', '.join(INTERVENTIONS)}")
        if obstacle := _obstacle(how, layers, len(images), blocks[min(layers)].attn.num_heads):
            raise ValueError(f"the map cannot be replaced by '{how}': {obstacle}")


def _effect(before: Tensor, after: Tensor, labels: Tensor | None) -> dict[str, float]:
    effect = {}
    for name, changes in changes_by_image(before, after, labels).items():
        effect[name], effect[f"{name}_error"] = mean_and_error(changes)
    return effect


def changes_by_image(before: Tensor, after: Tensor, labels: Tensor | None) -> dict[str, Tensor]:
    """Of logits (B, K) before and after, for each image (B,): "kl", and with labels the changes "loss", "accuracy"."""
    before, after = before.cpu().double(), after.cpu().double()  # small effects drown in the rounding of float32
    old, new = before.log_softmax(dim=-1), after.log_softmax(dim=-1)
    changes = {"kl": F.kl_div(new, old, reduction="none", log_target=True).sum(dim=-1)}
    if labels is not None:
        labels = labels.cpu()
        changes["loss"] = F.nll_loss(new, labels, reduction="none") - F.nll_loss(old, labels, reduction="none")
        right = [(logits.argmax(dim=-1) == labels).double() for logits in (before, after)]
        changes["accuracy"] = right[1] - right[0]
    return changes


def mean_and_error(values: Tensor) -> tuple[float, float]:
    """The mean of values (B,) and its standard error, NaN for a single one."""
    error = (values.var() / len(values)).sqrt() if len(values) > 1 else torch.tensor(torch.nan)
    return values.mean().item(), error.item()
