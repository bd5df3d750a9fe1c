"""Whether blocks repeat one another, with heads matched; and an upper bound for heads that are not matched.

Heads have no order: new weights are the same in law for every head, and training treats heads the same. So a measure
that compares head h of one block with head h of the next compares two heads picked at random.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from .measures import Axis, Centre, centre_rows, common_shape, rounding, unit_vectors, widen

Part = Literal["rest", "stripes"]

ROUNDING = 1e-5  # of a mean cosine in float32: exactly uniform maps have 1.0000001


# Similarity of blocks, heads matched


def repetition(maps: Sequence[Tensor], part: Part = "rest", gap: int = 1) -> Tensor:
    """Similarity of the maps of blocks l and l + gap after their heads are matched, (L - gap,).

    Whole maps are compared, by the cosine of the maps as vectors (Frobenius). Heads are matched one to one by the
    Hungarian method (Kuhn 1955) on images 0, 2, 4, …, and the pairs are scored on images 1, 3, 5, …: a pair that
    was matched by chance on some images scores nothing on others.

    Compare it with new weights on the same images: there the best of H! matchings of fixed random functions already
    scores some 0.1 to 0.4, on other images, too, by the number of heads and the size of the weights. Compare it also
    with blocks far apart (`unrelated_repetition`), to see whether neighbours are special. Other images are not a null,
    since a block may do the same on all of them.

    Args:
        maps: L maps (B, H, N, N), of two images or more.
        part: "stripes" compares what all queries of a map share (its column means, rows centred), "rest" what they do
            not (rows and columns centred). The two are orthogonal, and together they are the map less 1/N.
        gap: from which block to which.

    Returns:
        from -1 to 1. NaN where the part that is compared is rounding for a head of one of the two blocks (a uniform
        map has neither part, a map of perfect stripes has no rest): there is nothing to compare.

    Raises:
        ValueError: for fewer than two images, for maps of different shapes, another part, or a gap that no two blocks
            have.
    """
    if not 1 <= gap < len(maps):
        raise ValueError(f"the gap is {gap}; of {len(maps)} blocks, choose one from 1 to {len(maps) - 1}")
    return matched_similarity(maps, part).diagonal(gap)


def matched_similarity(maps: Sequence[Tensor], part: Part = "rest") -> Tensor:
    """`repetition` of every two blocks (L, L): 1 on the diagonal, NaN where there is nothing to compare."""
    cosines = HeadCosines(part)
    cosines.add(maps)
    return cosines.matched()


def unrelated_repetition(similarity: Tensor, gap: int = 4) -> float:
    """Mean of a `matched_similarity` (L, L) over blocks at least `gap` apart, which are not neighbours.

    Where all blocks do the same, they share it with their neighbours, too: then only new weights are a null. NaN where
    no two blocks are that far apart.
    """
    rows, columns = torch.triu_indices(*similarity.shape, offset=gap)
    return similarity[rows, columns].nanmean().item()


def excess(measured: Tensor, null: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """The difference between a measure and its null, and the standard deviation of that null.

    Args:
        measured: of the model in question, any shape.
        null: the same of models with new weights, one a seed, on the same images; two or more.

    Raises:
        ValueError: for fewer than two.
    """
    if len(null) < 2:
        raise ValueError(f"the null's deviation needs two or more models with new weights, not {len(null)}")
    new = torch.stack(list(null))
    return measured - new.mean(dim=0), new.std(dim=0)


@dataclass
class HeadCosines:
    """Running sums of the cosines between every two heads of every two blocks, for images in parts.

    `add` takes the maps of some images; parts together do the same as all images at once. `matched` is the outcome.
    """

    part: Part
    images: int = 0
    cosines: Tensor | None = field(default=None, repr=False)  # sums over even and over odd images (2, L, H, L, H)
    squares: Tensor | None = field(default=None, repr=False)  # of the part and of the whole map (2, L, H)
    tolerance: float = 0.0

    def __post_init__(self) -> None:
        if self.part not in ("rest", "stripes"):
            raise ValueError(f"part is '{self.part}'; choose 'rest' or 'stripes'")

    def add(self, maps: Sequence[Tensor]) -> None:
        """Takes in the maps of further images: L maps (B, H, N, N)."""
        count, heads = common_shape(maps)[:2]
        if self.cosines is None:
            device = widen(maps[0][:0]).device
            self.cosines = torch.zeros(2, len(maps), heads, len(maps), heads, dtype=torch.float64, device=device)
            self.squares = torch.zeros(2, len(maps), heads, dtype=torch.float64, device=device)
            self.tolerance = rounding(maps[0])
        for image in range(count):  # one at a time: a second copy of all maps may not fit
            attn = torch.stack([widen(each[image]) for each in maps])  # (L, H, N, N)
            self.cosines[(self.images + image) % 2] += self._cosines(attn)
        self.images += count

    def _cosines(self, attn: Tensor) -> Tensor:
        """The cosines (L, H, L, H) of one image's maps (L, H, N, N); notes the lengths."""
        vectors = _part(attn, self.part).float().flatten(0, 1)  # centred in double precision: now float32 will do
        products = (vectors @ vectors.T).double()
        squares, whole = products.diagonal(), attn.square().sum(dim=(-2, -1)).flatten()
        rows = attn.shape[-2] if self.part == "stripes" else 1  # each row of a map has its stripes
        has_part = rows * squares > self.tolerance**2 * whole
        self.squares += torch.stack([rows * squares, whole]).reshape(self.squares.shape)
        scale = torch.where(has_part, squares.rsqrt(), 0)
        return (scale[:, None] * products * scale).reshape(self.cosines.shape[1:])

    def matched(self) -> Tensor:
        """`matched_similarity` (L, L) of all images so far."""
        if self.images < 2:
            raise ValueError(
                f"heads are matched on some images and scored on others; give two or more, not {self.images}"
            )
        matching, scoring = (
            self.cosines.cpu() / torch.tensor([(self.images + 1) // 2, self.images // 2])[:, None, None, None, None]
        )
        layers = len(matching)
        similarity = torch.eye(layers, dtype=torch.float64)
        for a in range(layers):
            for b in range(a + 1, layers):
                pairs = match_heads(matching[a, :, b])
                similarity[a, b] = similarity[b, a] = scoring[a, :, b][pairs].mean()
        of_part, whole = self.squares.cpu()
        empty = (of_part <= self.tolerance**2 * whole).any(dim=-1)
        similarity[empty], similarity[:, empty] = torch.nan, torch.nan
        return similarity.float()


def _part(attn: Tensor, part: Part) -> Tensor:
    """One part of maps (..., N, N) as vectors (..., P)."""
    centred = centre_rows(attn)
    stripes = centred.mean(dim=-2, keepdim=True)  # (..., 1, N)
    return stripes.squeeze(-2) if part == "stripes" else (centred - stripes).flatten(-2)


def match_heads(similarity: Tensor) -> tuple[Tensor, Tensor]:
    """The one-to-one matching of heads with the largest total of similarities (H, H), as indices of the two blocks."""
    from scipy.optimize import linear_sum_assignment  # here only: it takes most of a second to import

    rows, columns = linear_sum_assignment(similarity.numpy(), maximize=True)
    return torch.from_numpy(rows), torch.from_numpy(columns)


# Similarity of equally numbered heads


def permutation_bound(
    num_heads: int, similarity: float, other: float | None = None, threshold: float | None = None
) -> float:
    r"""Upper bound on the expected similarity of equally numbered heads in two blocks, since heads have no order.

    Let u_1 … u_H be what the heads of one block are compared by, of length 1, and v_1 … v_H the same of another block.
    Renumbering the heads of a block changes neither its function nor the law of its training, so the expected cosine of
    heads of one number is the mean over all pairs of heads, and Cauchy and Schwarz bound that:

        E ⟨u_h, v_h⟩ = 1/H² · Σ_h Σ_k ⟨u_h, v_k⟩ = ⟨ū, v̄⟩ ≤ |ū| |v̄|,

    where ū is the mean of the u_h. Its length follows from the similarity of that block's heads, s = the mean cosine
    of two different ones: |ū|² = 1/H² · (H + H (H - 1) s) = 1/H + (1 - 1/H) s. The bound is therefore

        √[(1/H + (1 - 1/H) s) · (1/H + (1 - 1/H) s')];

    means over tokens and images obey it, too (Cauchy and Schwarz once more). With s = s' = 0.3 it is 0.53 for 3 heads,
    0.39 for 8 and 0.36 for 12. What breaks it has heads in line by construction: copied blocks, tied weights, a map
    handed on.

    For cosines that are never negative, as of softmax maps that are not centred, the fraction of them above a threshold
    t is at most their mean over t (Markov), so the expected fraction is at most the bound over t: 0.43 for 8 heads at
    0.9.

    Args:
        num_heads: H, of both blocks.
        similarity: s of the one block, as for `head_similarity`; from -1/(H - 1) to 1.
        other: s' of the other block; the same unless given.
        threshold: t; then the bound is on the fraction of cosines above it.

    Raises:
        ValueError: for a similarity that H vectors cannot have, or a threshold that is not above 0.
    """
    means = 1.0
    for s in (similarity, similarity if other is None else other):
        square = 1 / num_heads + (1 - 1 / num_heads) * s  # |ū|²
        if not -ROUNDING <= square <= 1 + ROUNDING:
            lowest = f"{-1 / (num_heads - 1):.2f} to 1" if num_heads > 1 else "no other than 1"
            raise ValueError(f"{num_heads} heads cannot have a mean cosine of {s}; it is {lowest}")
        means *= min(max(square, 0.0), 1.0)
    if threshold is None:
        return means**0.5
    if threshold <= 0:
        raise ValueError(f"the threshold is {threshold}; the bound on the fraction above it needs a threshold above 0")
    return min(1.0, means**0.5 / threshold)


def renumbered_heads(maps: Sequence[Tensor], axis: Axis = "column", centre: Centre = None) -> dict[str, Tensor]:
    """Similarity of equally numbered heads in neighbouring blocks, compared with a random numbering.

    Args:
        maps: L maps (B, H, N, N).
        axis, centre: see `unit_vectors`.

    Returns:
        each (L - 1,): "observed", the mean cosine of heads of one number (`cross_layer_similarity`); "expected", its
        mean over all numberings, which is the mean over all pairs of heads; "deviation", its standard deviation over
        them (Hoeffding 1951: the sum of the squares of the doubly centred table of cosines (H, H), over H² (H - 1), all
        under a root; 0 for one head); "bound", the most that "expected" can be: see `permutation_bound`.
        A mean over all L - 1 has the deviation √(Σ deviation²) / (L - 1): numberings are independent from block to
        block.
    """
    images, _, tokens = common_shape(maps)[:3]
    rows, last, last_length = [], None, None
    for attn in maps:
        units = unit_vectors(attn, axis, centre).transpose(0, 1).flatten(1)  # (H, B·N·N)
        length = (units @ units.T).mean() / (images * tokens)
        if last is not None:
            cosines = last @ units.T / (images * tokens)  # (H, H)
            rows.append((cosines.diagonal().mean(), cosines.mean(), _deviation(cosines), (last_length * length).sqrt()))
        last, last_length = units, length
    columns = torch.tensor(rows).reshape(-1, 4).T
    return dict(zip(("observed", "expected", "deviation", "bound"), columns, strict=True))


def _deviation(cosines: Tensor) -> Tensor:
    """The standard deviation of the mean of cosines (H, H) over all one-to-one matchings."""
    heads = len(cosines)
    centred = cosines - cosines.mean(dim=0) - cosines.mean(dim=1, keepdim=True) + cosines.mean()
    return (centred.square().sum() / max(heads - 1, 1)).sqrt() / heads
