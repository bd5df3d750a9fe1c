"""Similarity, entropy and rank of maps (B, H, N, N) and tokens (B, N, C): means over the B images."""

import math
from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

Axis = Literal["column", "row"]
Centre = Literal["row", "double"] | None


# Of maps


def unit_vectors(attn: Tensor, axis: Axis = "column", centre: Centre = None) -> Tensor:
    """Maps (..., N, N) with every column, or row, scaled to length 1; the vectors that are compared.

    Args:
        attn: maps; queries along the last axis but one, keys along the last.
        axis: "column" for A[h, :, t], what token t gives to each query (the DeepViT paper's choice), or "row".
        centre: "row" takes each row's mean off first (after a softmax: 1/N), "double" the columns' means as well.

    A column without variation is nothing but rounding once it is centred; it becomes zero, and its cosine with
    everything is 0.

    Raises:
        ValueError: for another axis or centre.
    """
    if axis not in ("column", "row"):
        raise ValueError(f"axis is '{axis}'; choose 'column' or 'row'")
    if centre not in (None, "row", "double"):
        raise ValueError(f"centre is '{centre}'; choose 'row', 'double' or None")
    dim = -2 if axis == "column" else -1
    attn = attn.float()
    lengths_before = lengths = _lengths(attn, dim)
    if centre is not None:
        attn = centre_rows(attn)
        attn = attn - attn.mean(dim=-2, keepdim=True) if centre == "double" else attn
        lengths = _lengths(attn, dim)
    return attn / torch.where(lengths > 1e-6 * lengths_before, lengths, torch.inf)


def _lengths(attn: Tensor, dim: int) -> Tensor:
    """Euclidean norms along one axis, which is kept: `norm` takes many times as long along columns."""
    return attn.square().sum(dim=dim, keepdim=True).sqrt()


def cross_layer_similarity(maps: Sequence[Tensor], axis: Axis = "column", centre: Centre = None) -> Tensor:
    """Mean cosine between the maps of every two layers, head by head and token by token (L, L).

    This is the DeepViT paper's measure (Zhou et al. 2021, section 3.2). Layers of random weights already score 0.98
    and more uncentred: read it beside its value at initialisation and beside `between_images`.

    Args:
        maps: L maps (B, H, N, N).
        axis, centre: see `unit_vectors`.

    Raises:
        ValueError: without maps, for maps of different shapes, or for another axis or centre.
    """
    return _cosines(maps, axis, centre, shift=0)


def between_images(maps: Sequence[Tensor], axis: Axis = "column", centre: Centre = None) -> Tensor:
    """`cross_layer_similarity` between maps of different images (L, L): what position alone explains.

    Each image is compared with the one before it; shuffle images that are sorted by class.

    Raises:
        ValueError: as `cross_layer_similarity`, and for fewer than two images.
    """
    if maps and len(maps[0]) < 2:
        raise ValueError("maps of different images are compared, and there is one image; give two or more")
    return _cosines(maps, axis, centre, shift=1)


def _cosines(maps: Sequence[Tensor], axis: Axis, centre: Centre, shift: Literal[0, 1]) -> Tensor:
    images, heads, tokens = common_shape(maps)[:3]
    total = torch.zeros(len(maps), len(maps), device=maps[0].device)

    def vectors_of(image: int) -> Tensor:  # one image at a time: a second copy of all maps may not fit
        return unit_vectors(torch.stack([attn[image] for attn in maps]), axis, centre).flatten(1)  # (L, H·N·N)

    before = vectors_of(-1) if shift else None
    for image in range(images):
        vectors = vectors_of(image)
        total += vectors @ (before if shift else vectors).T
        before = vectors
    return total / (images * heads * tokens)


def common_shape(tensors: Sequence[Tensor]) -> torch.Size:
    """The shape that all layers' tensors have; ValueError where they have several, or where there are none."""
    shapes = {tensor.shape for tensor in tensors}
    if len(shapes) != 1:
        found = ", ".join(str(tuple(shape)) for shape in sorted(shapes)) or "none"
        raise ValueError(f"layers are compared entry by entry, so they need one shape; these have {found}")
    return shapes.pop()


def query_independence(maps: Sequence[Tensor]) -> Tensor:
    """The fraction of a map's variance that all queries have in common, of each head (L, H): 1 for stripes.

    Rows are centred. Each column's mean is then what every query gives to that token; the rest is how queries differ.
    It is a ratio of sums over images, and includes the class token's row and column. N² independent numbers
    have 1/N in expectation. New weights have much more, up to 1, since untrained queries are similar;
    how much depends on the network and the size of its weights. So read it as the excess over those, and beside
    `distance_from_uniform`, since stripes may be faint.

    Args:
        maps: L maps (B, H, N, N).

    Returns:
        from 0 to 1. NaN where the variance is rounding: a uniform map has no variance.

    Raises:
        ValueError: without maps, or for maps of different shapes.
    """
    return independence_of(independence_sums(maps), rounding(maps[0]))


def independence_sums(maps: Sequence[Tensor]) -> Tensor:
    """What `query_independence` is made of, sums of squares over images (3, L, H): of stripes, centred maps, maps."""
    common_shape(maps)
    sums = []
    for attn in map(widen, maps):
        centred = centre_rows(attn)
        stripes = attn.shape[-2] * centred.mean(dim=-2).square().sum(dim=(0, -1))  # (H,)
        sums.append(torch.stack([stripes, *(each.square().sum(dim=(0, -2, -1)) for each in (centred, attn))]))
    return torch.stack(sums, dim=1)


def independence_of(sums: Tensor, tolerance: float) -> Tensor:
    """`query_independence` (L, H) of `independence_sums` (3, L, H), which may have been added up from parts."""
    stripes, variance, whole = sums
    return torch.where(variance > tolerance**2 * whole, stripes / variance, torch.nan).float()


def distance_from_uniform(maps: Sequence[Tensor]) -> Tensor:
    """How much of a row's weight would have to move to make it uniform, mean over rows, of each head (L, H).

    The total variation distance: from 0, of the uniform map, to 1 - 1/N, of rows that see one token. Rows that are not
    distributions are compared with their own mean, and have no upper bound.
    """
    common_shape(maps)
    return torch.stack([0.5 * centre_rows(widen(attn)).abs().sum(dim=-1).mean(dim=(0, 2)) for attn in maps]).float()


def centre_rows(attn: Tensor) -> Tensor:
    """Maps (..., N, N) less each row's mean, which after a softmax is 1/N."""
    return attn - attn.mean(dim=-1, keepdim=True)


def widen(attn: Tensor) -> Tensor:
    """A map in double precision: what is left of small differences must not be rounding of ours."""
    return (attn.cpu() if attn.device.type == "mps" else attn).double()  # Apple's GPUs have no doubles


def rounding(attn: Tensor) -> float:
    """A part of a map this small, beside the map, is nothing but the rounding of its number format."""
    return 16 * torch.finfo(attn.dtype).eps


def map_cka(maps: Sequence[Tensor]) -> Tensor:
    """Linear CKA between the maps of every two layers (L, L), from 0 to 1; the order of the heads does not matter.

    An entry (image, query, key) is a sample and its H heads are the features (Kornblith et al. 2019, section 3).

    Args:
        maps: L maps (B, H, N, N). A layer whose maps are all uniform has similarity 0 to every other.
    """
    layers, heads = len(maps), common_shape(maps)[1]
    centred = []
    for attn in maps:
        entries = attn.float().movedim(1, -1).flatten(0, -2)  # (B·N·N, H)
        varying = entries - entries.mean(dim=0)
        centred.append(torch.where(varying.norm() > 1e-6 * entries.norm(), varying / varying.norm(), 0))
    products = torch.cat(centred, dim=1)
    products = (products.T @ products).reshape(layers, heads, layers, heads).square().sum(dim=(1, 3))  # (L, L)
    own = products.diagonal().sqrt()
    return products / (own[:, None] * own).clamp_min(torch.finfo(own.dtype).tiny)


def count_similar_blocks(similarity: Tensor, threshold: float = 0.9) -> int:
    """How many pairs of neighbouring layers have a similarity above the threshold.

    The rule is ours: the paper's exact one could not be verified.

    Args:
        similarity: (L, L), as for `cross_layer_similarity`.
    """
    return int((similarity.diagonal(1) > threshold).sum())


def head_similarity(attn: Tensor, axis: Axis = "column", centre: Centre = None) -> float:
    """Mean cosine between different heads of one layer's map (B, H, N, N) (Zhou et al. 2021, figure 3).

    Raises:
        ValueError: for a map of one head.
    """
    if attn.shape[1] < 2:
        raise ValueError("different heads are compared, and this map has one head")
    return mean_of_pairs(unit_vectors(attn, axis, centre), dim=1)


def mean_of_pairs(units: Tensor, dim: int) -> float:
    """Mean cosine of different unit vectors along `dim`; the square of their sum holds every pair twice."""
    vectors, count = units.numel() / units.shape[-1], units.shape[dim]
    pairs = units.sum(dim=dim).square().sum() - units.square().sum()
    return (pairs / (vectors * (count - 1))).item()


def entropy(attn: Tensor, fraction: bool = False) -> float:
    """Mean entropy of a softmax map's rows (B, H, N, N), in nats, or as a fraction of the uniform map's, log N.

    Raises:
        ValueError: when a row is not a distribution, as in maps that were mixed or normed.
    """
    if attn.min() < 0 or (attn.float().sum(dim=-1) - 1).abs().max() > 0.01:
        raise ValueError("entropy is that of distributions, and rows of this map do not sum to 1; give a softmax map")
    nats = torch.special.entr(attn.float()).sum(dim=-1).mean().item()
    return nats / math.log(attn.shape[-1]) if fraction else nats


def stable_rank(attn: Tensor) -> float:
    """Mean of |A|_F² / |A|_2² over maps (B, H, N, N), from 1 (the uniform map) to N (a permutation).

    At most the rank, and unlike it steady under small changes (Rudelson and Vershynin 2007).
    """
    squares = torch.linalg.svdvals(attn.float()).square()  # (B, H, N), the largest first
    return (squares.sum(dim=-1) / squares[..., 0].clamp_min(torch.finfo(squares.dtype).tiny)).mean().item()


# Of tokens


def feature_similarity(features: Sequence[Tensor]) -> Tensor:
    """Mean cosine of the same token in every two layers (L, L), for L features (B, N, C); of one width only."""
    images, tokens = common_shape(features)[:2]
    units = torch.stack([F.normalize(x.float(), dim=-1).flatten() for x in features])  # (L, B·N·C)
    return units @ units.T / (images * tokens)


def token_similarity(tokens: Tensor) -> float:
    """Mean cosine between different tokens (B, N, C) of one image; near 1, tokens are over-smoothed."""
    return mean_of_pairs(F.normalize(tokens.float(), dim=-1), dim=1)


def branch_ratio(before: Tensor, after: Tensor) -> float:
    """Mean norm of what a branch added to the stream, over the norm of the stream; both are tokens (B, N, C)."""
    return ((after - before).float().norm(dim=-1) / before.float().norm(dim=-1)).mean().item()
