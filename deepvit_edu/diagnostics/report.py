"""All measures of one model at once, and the model before training to hold them against."""

from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from ..nn.model import VisionTransformer
from .measures import (
    Axis,
    Centre,
    between_images,
    branch_ratio,
    cross_layer_similarity,
    entropy,
    feature_similarity,
    mean_of_pairs,
    stable_rank,
    token_similarity,
    unit_vectors,
)
from .recording import WhichMap, inspection, record_attention, watch_maps, watch_tokens

Report = dict[str, Any]
RANK_IMAGES = 4  # singular values are slow: ranks are taken from the maps of so many images


def collapse_report(model: nn.Module, images: Tensor, axis: Axis = "column", centre: Centre = "row") -> Report:
    """All measures that experiments record, from one pass that keeps the maps of two layers at most.

    Args:
        model: a model of the zoo, or timm's Vision Transformer; it is left as it was.
        images: two or more (B, 3, H, W), in any order but by class.
        axis, centre: see `unit_vectors`; of the measures named "_centred".

    Returns:
        numbers fit for JSON. A list has one number a layer; "adjacent…" has L - 1, of layers l and l + 1. Of the
        softmax map: "adjacent", "heads", "between_images", each also "_centred", "entropy" (a fraction of log N) and
        "rank" (`stable_rank`, of the first images); of the map that is used the same as "used_…", but no entropy. Of
        the tokens that leave a block: "adjacent_features" (None where widths differ) and "token_similarity". Of
        attention: "branch_ratio". "heads" is None where there is one head.

    Raises:
        ValueError: for fewer than two images, or a model that is not known.
    """
    _check_images(images)
    softmax, used = _MapTrace(axis, centre), _MapTrace(axis, centre)
    entropies: list[float] = []
    tokens = _TokenTrace()
    with inspection(model) as hooks:
        watch_maps(model, hooks, "softmax", softmax.visit)
        watch_maps(model, hooks, "softmax", lambda layer, attn: entropies.append(entropy(attn, fraction=True)))
        watch_maps(model, hooks, "used", used.visit)
        watch_tokens(model, hooks, tokens.enter, tokens.between)
        model(images)
    settings = {"images": len(images), "axis": axis, "centre": centre}
    of_used = {f"used_{name}": numbers for name, numbers in used.numbers.items()}
    return {**settings, **softmax.numbers, "entropy": entropies, **of_used, **tokens.numbers}


@dataclass
class _MapTrace:
    """The numbers of the maps seen so far, and the last map's unit vectors."""

    axis: Axis
    centre: Centre
    numbers: dict[str, list[float | None]] = field(default_factory=lambda: defaultdict(list))
    last: dict[str, Tensor] = field(default_factory=dict)

    def visit(self, layer: int, attn: Tensor) -> None:
        for suffix, centre in (("", None), ("_centred", self.centre)):
            units = unit_vectors(attn, self.axis, centre)
            vectors = units.numel() / units.shape[-1]
            if layer:
                self.numbers["adjacent" + suffix].append((self.last[suffix] * units).sum().item() / vectors)
            heads = mean_of_pairs(units, dim=1) if attn.shape[1] > 1 else None
            self.numbers["heads" + suffix].append(heads)
            self.numbers["between_images" + suffix].append((units.roll(1, 0) * units).sum().item() / vectors)
            self.last[suffix] = units
        self.numbers["rank"].append(stable_rank(attn[:RANK_IMAGES]))


@dataclass
class _TokenTrace:
    numbers: dict[str, list[float | None]] = field(default_factory=lambda: defaultdict(list))
    last: Tensor | None = None

    def enter(self, layer: int, x: Tensor) -> None:
        if layer > 0:
            self.numbers["token_similarity"].append(token_similarity(x))
        if layer > 1:
            alike = x.shape == self.last.shape
            self.numbers["adjacent_features"].append(feature_similarity([self.last, x])[0, 1].item() if alike else None)
        self.last = x

    def between(self, layer: int, x: Tensor) -> None:
        self.numbers["branch_ratio"].append(branch_ratio(self.last, x))


def similarity_matrices(
    model: nn.Module, images: Tensor, axis: Axis = "column", centre: Centre = None, which: WhichMap = "softmax"
) -> tuple[Tensor, Tensor]:
    """`cross_layer_similarity` and `between_images` of a model (L, L), from the maps of a few images at a time.

    Args:
        model, images: as of `collapse_report`.
        axis, centre: see `unit_vectors`.
        which: the softmax map, or the "used" one.
    """
    _check_images(images)
    layers, others = 0, 0
    for part in images.tensor_split(max(1, len(images) // 4)):  # no part has one image only
        maps, share = record_attention(model, part, which), len(part) / len(images)
        layers = layers + share * cross_layer_similarity(maps, axis, centre)
        others = others + share * between_images(maps, axis, centre)
    return layers, others


def _check_images(images: Tensor) -> None:
    if len(images) < 2:
        raise ValueError(f"maps of different images are compared; give two images or more, not {len(images)}")


def at_initialisation(model: VisionTransformer, seed: int = 0) -> VisionTransformer:
    """A new model of the same configuration, as it was before training: to measure on the same images.

    Args:
        model: a model of this package.
        seed: that of the run, so that the weights are those that it started from.

    Raises:
        ValueError: for a model of another package, whose configuration is not known.
    """
    if not isinstance(model, VisionTransformer):
        raise ValueError(f"a {type(model).__name__} has no configuration to build it anew from; create it yourself")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return VisionTransformer(model.config).to(next(model.parameters()).device).eval()
