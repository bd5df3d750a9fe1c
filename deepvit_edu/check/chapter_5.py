"""The checks of chapter 5, Refiner."""

from collections.abc import Callable
from copy import deepcopy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..nn.attention import Attention, RefinedAttention, legible_attention
from .engine import NoAnswer, are_close, by_hand, exercise, require, require_number, require_tensor

Answer = Callable[..., Tensor]


@exercise("5.1", returns=False)
def make_plain(answer: Callable[[RefinedAttention], None]) -> None:
    """The one kernel that the weights make, the outputs, and the gradients of every expanded map."""
    attn = RefinedAttention(32, num_heads=4)
    before = deepcopy(attn.state_dict())
    returned = answer(attn)
    parts = (attn.expand, attn.local, attn.reduce)
    message = "a layer has been replaced. Leave the three convolutions where they are, and set their weights."
    require(all(isinstance(part, nn.Conv2d) for part in parts), message)
    after = attn.state_dict()
    same_shapes = list(before) == list(after) and all(before[name].shape == after[name].shape for name in before)
    require(same_shapes, "a weight has another shape than before. Fill the tensors that are there.")
    unchanged = [name for name in before if torch.equal(before[name], after[name])]
    if len(unchanged) == len(before):
        made_another = isinstance(returned, nn.Module) and returned is not attn
        require(not made_another, "you changed and returned a copy. The layer that you are given is to change itself.")
        raise NoAnswer("make_plain has changed no weight yet. Write its body in the place of the dots.")
    kept = [name for name in before if name.startswith(("qkv", "proj"))]
    message = "queries, keys, values or the projection have changed. Only the three convolutions may."
    require(set(kept) <= set(unchanged), message)
    _require_identity(attn)
    _require_plain_outputs(attn, "the kernels make the identity, and yet the outputs are not those of plain attention.")
    _require_living_maps(attn)
    for expansion, size in ((1, 3), (2, 5), (3, 1)):
        attn = RefinedAttention(24, num_heads=3, expansion=expansion, kernel_size=size)
        answer(attn)
        case = f"right for an expansion of 3 and kernels of 3, wrong for {expansion} and {size}. Where is the middle?"
        _require_plain_outputs(attn, case)


def _effective_kernel(attn: RefinedAttention) -> Tensor:
    """The kernels (H, H, k, k) from every head's map to every head's, from maps that hold a single 1."""
    heads, size = attn.num_heads, attn.local.kernel_size[0]
    impulses = torch.zeros(heads, heads, 2 * size - 1, 2 * size - 1)
    impulses[range(heads), range(heads), size - 1, size - 1] = 1
    with torch.no_grad():
        answers = attn.reduce(attn.local(attn.expand(impulses)))  # (from, to, 2k - 1, 2k - 1)
    reach = size // 2
    seen = answers[:, :, size - 1 - reach : size + reach, size - 1 - reach : size + reach]
    return seen.flip(2, 3).transpose(0, 1)


def _require_identity(attn: RefinedAttention) -> None:
    kernel = _effective_kernel(attn)
    heads, size = kernel.shape[1:3]
    require(bool(kernel.isfinite().all()), "a weight is infinite or NaN.")
    require(bool((kernel.abs() > 1e-4).any()), "nothing is left of the maps: the three steps give zero everywhere.")
    total = kernel.sum(dim=(2, 3))  # (H, H)
    strongest = int(kernel.diagonal().abs().sum(dim=-1).argmax())
    at_one_place = torch.zeros_like(kernel)
    at_one_place.flatten(2)[:, :, strongest] = kernel.flatten(2)[:, :, strongest]
    if are_close(kernel, at_one_place, 1e-3):
        message = "the maps arrive moved by a row or a column: the 1 of a kernel belongs in its middle."
        require(strongest == size * size // 2, message)
    else:
        message = "an entry still takes something from its neighbours. Which weights of a kernel must be zero for that?"
        require(False, message)
    own = torch.diag(total.diagonal())
    message = "a head gets a mixture of maps, or another head's. Which columns of the reduction read which maps?"
    require(are_close(total, own, 1e-3), message)
    times = total.diagonal().mean().item()
    message = f"every head gets its own map, but about {times:.2g} times. How many copies of it are added up?"
    require(are_close(total, torch.eye(heads), 1e-3), message)


def _require_plain_outputs(attn: RefinedAttention, message: str) -> None:
    plain = Attention(attn.proj.in_features, attn.num_heads)
    plain.qkv, plain.proj = attn.qkv, attn.proj
    x = 3 * torch.randn(2, 8, attn.proj.in_features)
    with torch.no_grad(), legible_attention():
        require(are_close(attn(x), plain(x), 1e-3), message)


def _require_living_maps(attn: RefinedAttention) -> None:
    """Each expanded map needs a weight with a gradient, and weights that no other has."""
    weights = [attn.expand.weight, attn.local.weight, attn.reduce.weight]
    message = (
        "a weight no longer takes gradients. Set numbers under `torch.no_grad()`, and leave `requires_grad` alone."
    )
    require(all(weight.requires_grad for weight in weights), message)
    attn.zero_grad()
    with legible_attention():
        (attn(3 * torch.randn(4, 8, attn.proj.in_features)) * torch.randn(4, 8, attn.proj.in_features)).sum().backward()
    per_map = [torch.cat([e.flatten(1), w.flatten(1), r.flatten(1).T], dim=1) for e, w, r in (
        weights, [weight.grad for weight in weights]
    )]  # fmt: skip
    values, grads = per_map  # each (G, everything that belongs to a map)
    dead = int((grads.abs().amax(dim=1) <= 1e-12).sum())
    message = (
        f"the outputs are right, but {dead} of the {len(grads)} expanded maps can never learn: none of their weights "
        "gets a gradient. A product with two factors of zero has a slope of zero."
    )
    require(dead == 0, message)
    distances = (values[:, None] - values).abs().amax(dim=-1) + torch.eye(len(values))
    message = (
        "the outputs are right, but some expanded maps are copies, with the same weights throughout. They get the same "
        "gradients, so they stay copies for good."
    )
    require(bool((distances > 1e-6).all()), message)


@exercise("5.2")
def refine(answer: Answer) -> None:
    """Loops over maps and offsets, with a slice for each shift."""
    heads, wide, tokens = 3, 6, 8
    for size in (3, 5):
        maps = torch.randn(2, heads, tokens, tokens).softmax(dim=-1)
        expand, kernels, reduce = torch.randn(wide, heads), torch.randn(wide, size, size), torch.randn(heads, wide)
        found = answer(maps, expand, kernels, reduce)
        require_tensor(found, tuple(maps.shape), "the refined maps")

        expanded = [sum(expand[g, h] * maps[:, h] for h in range(heads)) for g in range(wide)]

        def wanted(
            kernels: Tensor, mode: str = "constant", expanded: list[Tensor] = expanded, reduce: Tensor = reduce
        ) -> Tensor:
            local = [_convolved(expanded[g], kernels[g], mode) for g in range(wide)]
            return torch.stack([sum(reduce[h, g] * local[g] for g in range(wide)) for h in range(heads)], dim=1)

        turned = kernels.transpose(1, 2)
        faults = (
            "entries at the border take something from the other end of the list, and queries and keys are exchanged "
            "in the kernels."
        )
        require(not are_close(found, wanted(turned, "circular")), f"it still has both of its faults: {faults}")
        message = (
            "entries at the border take something from the other end of the list. What stands beyond the last token?"
        )
        require(not are_close(found, wanted(kernels, "circular")), message)
        message = "the kernels' rows and columns are exchanged: the first axis of a kernel belongs to queries."
        require(not are_close(found, wanted(turned)), message)
        message = "you repeat the entries at the border. Beyond the last token there is nothing: zeros."
        require(not are_close(found, wanted(kernels, "replicate")), message)
        message = (
            "the kernels are turned around along both axes now. Entry (q + i, t + j) takes the weight at offset (i, j)."
        )
        require(not are_close(found, wanted(kernels.flip(1, 2))), message)
        mixed = wanted(kernels.sum(dim=0, keepdim=True).expand_as(kernels))
        message = "every map is convolved with the sum of all kernels. Each expanded map has a kernel of its own."
        require(not are_close(found, mixed), message)
        message = "an expanded map takes something from the others. A kernel sees one map, its own, and no other."
        require(not are_close(found, wanted(kernels, expanded=[sum(expanded)] * wide)), message)
        inner = (..., slice(2, -2), slice(2, -2))
        message = "away from the borders all is right. At the borders, the kernel must find zeros."
        require(not are_close(found[inner], wanted(kernels)[inner]) or are_close(found, wanted(kernels)), message)
        message = "the two faults may be gone, but another one has come in. Go through the three steps one by one."
        require(are_close(found, wanted(kernels)), message)


def _convolved(attn: Tensor, kernel: Tensor, mode: str = "constant") -> Tensor:
    """Maps (B, N, M) and a kernel (k, k): a sum over offsets."""
    reach, (rows, columns) = len(kernel) // 2, attn.shape[1:]
    padded = F.pad(attn[:, None], (reach,) * 4, mode=mode)[:, 0]
    return sum(
        kernel[i, j] * padded[:, i : i + rows, j : j + columns] for i in range(len(kernel)) for j in range(len(kernel))
    )


@exercise("5.3", num_answers=2)
def image_local(answer: Answer, answer_values: Answer) -> None:
    """A matrix of weights from every patch to every patch, filled by comparing rows and columns of the grid."""
    side, heads = 4, 3
    tokens = side * side + 1
    attn, kernel = torch.randn(2, heads, tokens, tokens).softmax(dim=-1), torch.randn(3, 3)
    value = torch.randn(2, heads, tokens, 5)
    found = answer(attn, kernel)
    require_tensor(found, tuple(attn.shape), "the map")
    joined = _grid_matrix(kernel, side)
    wanted = attn @ joined
    _require_image_map(found, wanted, attn, kernel, side)
    found = answer_values(value, kernel)
    require_tensor(found, tuple(value.shape), "the values")
    _require_image_values(found, joined @ value, value, kernel, side)
    attn, value, kernel = torch.randn(1, 2, 26, 26).softmax(dim=-1), torch.randn(1, 2, 26, 3), torch.randn(5, 5)
    joined = _grid_matrix(kernel, 5)
    message = "right for 4 × 4 patches and a kernel of 3, wrong for 5 × 5 patches and a kernel of 5."
    require(are_close(answer(attn, kernel), attn @ joined), f"image_local is {message}")
    require(are_close(answer_values(value, kernel), joined @ value), f"values_local is {message}")


def _grid_matrix(kernel: Tensor, side: int, wrap: bool = False, first: int = 1) -> Tensor:
    """M (N, N) with which a row of a map, times M, is convolved in the image: M[s, t] leads from key s to key t."""
    tokens, reach = side * side + 1, len(kernel) // 2
    joined = torch.zeros(tokens, tokens)
    token = tokens - 1 if first == 0 else 0  # of the class
    joined[token, token] = 1
    for t in range(side * side):
        for i in range(-reach, reach + 1):
            for j in range(-reach, reach + 1):
                row, column = t // side + i, t % side + j
                if wrap:
                    row, column = row % side, column % side
                if 0 <= row < side and 0 <= column < side:
                    joined[first + row * side + column, first + t] += kernel[reach + i, reach + j]
    return joined


def _require_image_map(found: Tensor, wanted: Tensor, attn: Tensor, kernel: Tensor, side: int) -> None:
    message = "the class token's column has changed. It belongs to no place in the image, so it stays as it is."
    patches = (..., slice(1, None))
    require(not are_close(found[patches], wanted[patches]) or are_close(found[..., 0], attn[..., 0]), message)
    in_list = _convolved(attn.flatten(0, 1), kernel).reshape(attn.shape)
    list_of_keys = _convolved(attn[patches].flatten(0, 1), kernel).reshape(attn[patches].shape)
    message = "these are still the neighbours in the list. For each query, lay the keys out as rows and columns first."
    require(not (are_close(found, in_list) or are_close(found[patches], list_of_keys)), message)
    message = "your pictures are made of queries. Every query has a row of keys, and that row is the picture."
    by_query = _grid_matrix(kernel, side).T @ attn
    require(not (are_close(found, by_query) or are_close(found[..., 1:, :], by_query[..., 1:, :])), message)
    message = (
        "the kernel is turned around. That is right for the values; a map takes the weight (i, j) from place (i, j)."
    )
    require(not are_close(found[patches], (attn @ _grid_matrix(kernel.flip(0, 1), side))[patches]), message)
    message = "rows and columns of the image are exchanged. Patches stand in the list row by row."
    require(not are_close(found[patches], (attn @ _grid_matrix(kernel.T, side))[patches]), message)
    message = "the picture wraps around: a patch at the border has neighbours at the other border. Put zeros there."
    require(not are_close(found[patches], (attn @ _grid_matrix(kernel, side, wrap=True))[patches]), message)
    message = "you take the last token for the class token. It is the first."
    require(not are_close(found, attn @ _grid_matrix(kernel, side, first=0)), message)
    message = "the class token's row is as it was. The class token is a query, too, and its row has patches as keys."
    require(not are_close(found[..., 1:, :], wanted[..., 1:, :]) or are_close(found, wanted), message)
    require(are_close(found, wanted), "the shape of the map is right, the numbers are not. Try a row with a single 1.")


def _require_image_values(found: Tensor, wanted: Tensor, value: Tensor, kernel: Tensor, side: int) -> None:
    patches = (..., slice(1, None), slice(None))
    message = "the map is right. Of the values, the class token's has changed: it has no neighbours in the image."
    require(not are_close(found[patches], wanted[patches]) or are_close(found, wanted), message)
    message = (
        "the map is right. The values are gathered with the kernel as it is: a weight that reaches for the key to the "
        "right takes the value from the left. Count from the map's side, as in the proof."
    )
    as_it_is = _grid_matrix(kernel.flip(0, 1), side) @ value
    require(not are_close(found[patches], as_it_is[patches]), message)
    message = "the map is right. For the values, the kernel is turned around along one axis only: it takes both."
    half = [(_grid_matrix(kernel.flip(axis), side) @ value)[patches] for axis in (0, 1)]
    require(not any(are_close(found[patches], candidate) for candidate in half), message)
    message = "the map is right, the values are not. With your values, A V must be what your map makes of plain values."
    require(are_close(found, wanted), message)


by_hand("5.4", "Open the solution, and give yourself the points of its rubric one by one.")


@exercise("5.5", num_answers=2)
def as_three_steps(answer: Callable, answer_count: Callable) -> None:
    """The steps' kernel summed map by map; the count of free numbers from the rank of a derivative."""
    for heads, size in ((3, 3), (5, 1), (12, 3)):
        _require_steps(answer, heads, size)
    for heads, ratio, size in ((5, 2, 5), (8, 1, 3), (8, 3, 3)):  # where there are no freedoms but these
        _require_count(answer_count, heads, ratio, size)


def _require_steps(answer: Callable, heads: int, size: int) -> None:
    target = torch.randn(heads, heads, size, size)
    found = answer(target)
    message = "return three tensors: expansion, kernels and reduction."
    require(isinstance(found, (tuple, list)) and len(found) == 3, message)
    message = "return three tensors: expansion (G, H), kernels (G, k, k) and reduction (H, G)."
    require(all(isinstance(part, Tensor) for part in found), message)
    expand, kernels, reduce = found
    wide = len(expand)
    require_tensor(expand, (wide, heads), "the expansion")
    require_tensor(kernels, (wide, size, size), "the tensor of kernels")
    require_tensor(reduce, (heads, wide), "the reduction")
    made = torch.zeros_like(target)
    for g in range(wide):
        made += (reduce[:, g, None] * expand[g])[:, :, None, None] * kernels[g].to(made.dtype)
    if not are_close(made, target):
        case = f"with {heads} heads and kernels of {size} × {size}, "
        message = "your steps make the convolution with its heads exchanged: target[h, h'] leads from map h' to map h."
        require(not are_close(made, target.transpose(0, 1)), case + message)
        turned = are_close(made, target.flip(2, 3)) or are_close(made, target.transpose(2, 3))
        require(not turned, case + "your steps make the convolution with its kernels turned around.")
        error = (made - target).norm() / target.norm()
        message = f"your steps miss the convolution by {error:.2f} of its size. It has to be exact."
        require(False, case + message)
    enough = heads * min(heads, size * size)
    place = "a map for each head and place" if size * size < heads else "a map for each pair of heads"
    message = f"exact, but with {wide} maps for {heads} heads and kernels of {size} × {size}, where {place} is enough."
    require(wide <= enough, message)


def _require_count(answer: Callable, heads: int, ratio: int, size: int) -> None:
    found = int(require_number(answer(heads, ratio, size), "the count"))
    wide = ratio * heads
    weights = wide * (2 * heads + size * size)
    setting = f"for {heads} heads, r = {ratio} and kernels of {size} × {size}"
    message = (
        f"{setting} you count {found}: every weight. Multiply an expansion's row by 2 and a kernel by a half: "
        "what has changed? Take such freedoms off."
    )
    require(found != weights, message)
    message = f"{setting} you take off two numbers in all. Every expanded map has freedoms of its own."
    require(found != weights - 2, message)
    message = f"{setting} you take off one number a map. There are more ways than one to scale up here and down there."
    require(found != weights - wide, message)
    message = f"{setting} you take off three numbers a map. When two of three factors are free, is the third?"
    require(found != weights - 3 * wide, message)
    message = (
        f"{setting} you count {found}. Weights of one expanded map, less the factors that cancel, times G: try it."
    )
    require(found == _free_numbers(heads, wide, size), message)


def _free_numbers(heads: int, wide: int, size: int) -> int:
    """In how many directions the kernel of a single map can move, from the rank of its derivative, times the maps."""
    parts = [torch.randn(n, dtype=torch.float64) for n in (heads, size * size, heads)]
    slopes = torch.func.jacrev(lambda r, w, e: torch.einsum("h,i,k->hki", r, w, e).flatten(), argnums=(0, 1, 2))(*parts)
    return wide * int(torch.linalg.matrix_rank(torch.cat(slopes, dim=1)))


by_hand("5.6", "Open the solution for what a good trial has, or ask somebody else to read yours by its rubric.")
