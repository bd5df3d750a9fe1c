"""All measures of one model at once, and of the model before training to compare with."""

from collections import defaultdict
from collections.abc import Sequence
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
    distance_from_uniform,
    entropy,
    feature_similarity,
    independence_of,
    independence_sums,
    mean_of_pairs,
    rounding,
    stable_rank,
    token_similarity,
    unit_vectors,
)
from .recording import WhichMap, check_all_tokens, inspection, record_attention, watch_maps, watch_tokens
from .repetition import HeadCosines, excess, unrelated_repetition

Report = dict[str, Any]
MAP_IMAGES = 16  # whose maps are kept at once; an even number, since even and odd images have different roles
RANK_IMAGES = 4  # singular values are slow: ranks are computed from the maps of this many images


def collapse_report(model: nn.Module, images: Tensor, axis: Axis = "column", centre: Centre = "row") -> Report:
    """All measures that experiments record, from one pass that keeps the maps of two layers at most.

    Args:
        model: a model of the zoo, or timm's Vision Transformer; it is left as it was.
        images: two or more (B, 3, H, W), in any order but by class.
        axis, centre: see `unit_vectors`; of the measures named "_centred".

    Returns:
        numbers fit for JSON. A list has one number per layer; "adjacent…" has L - 1, of layers l and l + 1. Of the
        softmax map: "adjacent", "heads", "between_images", each also "_centred", "entropy" (a fraction of log N) and
        "rank" (`stable_rank`, of the first images); of the map that is used the same as "used_…", but no entropy. Of
        the tokens that leave a block: "adjacent_features" (None where widths differ) and "token_similarity". Of
        attention: "branch_ratio". "heads" is None where there is one head.

    Raises:
        ValueError: for fewer than two images, an unknown kind of model, or one that drops tokens.
    """
    _check(model, images)
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
            same_width = x.shape == self.last.shape
            similarity = feature_similarity([self.last, x])[0, 1].item() if same_width else None
            self.numbers["adjacent_features"].append(similarity)
        self.last = x

    def between(self, layer: int, x: Tensor) -> None:
        self.numbers["branch_ratio"].append(branch_ratio(self.last, x))


def similarity_matrices(
    model: nn.Module, images: Tensor, axis: Axis = "column", centre: Centre = None, which: WhichMap = "softmax"
) -> tuple[Tensor, Tensor]:
    """`cross_layer_similarity` and `between_images` of a model (L, L), from the maps of a few images at a time.

    Args:
        model, images: as for `collapse_report`.
        axis, centre: see `unit_vectors`.
        which: the softmax map, or the "used" one.
    """
    _check(model, images)
    layers, others = 0, 0
    for part in images.tensor_split(max(1, len(images) // 4)):  # no part has one image only
        maps, fraction = record_attention(model, part, which), len(part) / len(images)
        layers = layers + fraction * cross_layer_similarity(maps, axis, centre)
        others = others + fraction * between_images(maps, axis, centre)
    return layers, others


def excess_report(
    model: nn.Module, new_models: Sequence[nn.Module], images: Tensor, which: WhichMap = "softmax"
) -> Report:
    """The measures that do not depend on how heads are numbered, and their excess over new weights.

    Args:
        model: a model of the zoo, or timm's Vision Transformer; it is left as it was.
        new_models: models of the same shape before training, with weights of different seeds; two or more, five for a
            record.
        images: two or more (B, 3, H, W), in any order but by class.
        which: the softmax map, or the "used" one.

    Returns:
        numbers fit for JSON, None where there is nothing to compare (the variance is rounding, or, of
        "…_unrelated", there are no blocks so far apart): "query_independence" and "distance_from_uniform" (of each
        layer L, means over heads), "repetition" and "repetition_stripes" (L - 1; see `repetition`); each also
        "…_excess", minus the mean of the new models, and "…_deviation", their standard deviation;
        "repetition_unrelated" and "repetition_stripes_unrelated", the means over blocks four or more apart; and the
        numbers of "images" and "new_models".

    Raises:
        ValueError: for fewer than two images or new models, an unknown kind of model, or one that drops tokens.
    """
    _check(model, images)
    measures, unrelated = _head_free(model, images, which)
    new = [_head_free(each, images, which)[0] for each in new_models]
    report: Report = {"images": len(images), "new_models": len(new), **unrelated}
    for name, values in measures.items():
        above, deviation = excess(values, [each[name] for each in new])
        report |= {name: values, f"{name}_excess": above, f"{name}_deviation": deviation}
    return {name: _fit_for_json(value) for name, value in report.items()}


def _head_free(model: nn.Module, images: Tensor, which: WhichMap) -> tuple[dict[str, Tensor], dict[str, float]]:
    """The measures of a model's layers, and those of its blocks far apart."""
    sums, distance, tolerance = 0, 0, 0.0
    cosines = {"repetition": HeadCosines("rest"), "repetition_stripes": HeadCosines("stripes")}
    for some in images.split(MAP_IMAGES):
        maps = record_attention(model, some, which)
        sums, tolerance = sums + independence_sums(maps), rounding(maps[0])
        distance = distance + distance_from_uniform(maps) * len(some) / len(images)
        for each in cosines.values():
            each.add(maps)
    similarity = {name: each.matched() for name, each in cosines.items()}
    measures = {
        "query_independence": independence_of(sums, tolerance).nanmean(dim=1).cpu(),
        "distance_from_uniform": distance.mean(dim=1).cpu(),
        **{name: matrix.diagonal(1) for name, matrix in similarity.items()},
    }
    return measures, {f"{name}_unrelated": unrelated_repetition(matrix) for name, matrix in similarity.items()}


def _fit_for_json(value: Tensor | float) -> list[float | None] | float | None:
    """Numbers of Python, None where they are NaN, which JSON does not have."""
    if isinstance(value, Tensor):
        return [_fit_for_json(each) for each in value.tolist()]
    return None if value != value else value


def _check(model: nn.Module, images: Tensor) -> None:
    check_all_tokens(model)
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
        raise ValueError(
            f"a {type(model).__name__} has no configuration to build a new model from; create one yourself"
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return VisionTransformer(model.config).to(next(model.parameters()).device).eval()
