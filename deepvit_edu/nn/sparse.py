"""Fewer tokens, less attention: DynamicViT, Evo-ViT, plainer selections to compare them with, and LIT's idea.

A selection stands between blocks. Before some of them it scores the patch tokens and lets the best go on; the class
token always does. DynamicViT learns the scores: in training it masks tokens, so that gradients reach what scored them,
and in evaluation it drops them. Evo-ViT lets the others wait, and puts them back.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..options import check_number
from .attention import Attention, HeadNorm, ReAttention, RefinedAttention
from .blocks import Block
from .paths import by_fast_path, without_autocast
from .refiner import ChainedBlock, PassesMap, passes_map

LEFT_OVER = 1e-6
"""What a masked softmax leaves to each query's masked keys together, so that no row is divided by zero."""


class Selected(NamedTuple):
    """What went through the blocks, and what was selected on the way; one entry a selection in both lists.

    `tokens` (B, 1 + M, C) come out of the last block. `kept` are places of patches, (B, n) in rising order, or, where
    tokens are masked, masks (B, N) of 0 and 1. `scores` (B, N) are what was decided by, NaN where a token had gone.
    `class_token` (B, C) is that of the last block.
    """

    tokens: Tensor
    kept: list[Tensor]
    scores: list[Tensor]
    class_token: Tensor


class MaskedAttention(PassesMap, Attention):
    """Plain attention that can leave keys out by a mask, through which gradients flow (DynamicViT's in training)."""

    def forward(self, x: Tensor, kept: Tensor | None = None) -> tuple[Tensor, None]:
        """Tokens (B, N, C) and None, or a mask (B, N) of 1 for keys to be seen, to (tokens (B, N, C), None)."""
        if kept is None:
            return Attention.forward(self, x), None
        query, key, value = self.split_heads(self.qkv(x))
        scores = query @ key.transpose(-2, -1) * self.scale  # (B, H, N, N)
        attn = self.used_map(self.attn_drop(self.softmax_map(masked_softmax(scores, kept))))
        return self.merge_heads(attn @ value), None


def masked_softmax(scores: Tensor, kept: Tensor) -> Tensor:
    """Scores (B, H, N, N) to a softmax over the kept keys and, for each query, itself (DynamicViT, equation 11).

    A factor of 0 on the exponential, and not minus infinity on the score, so that a gradient reaches the mask.

    Args:
        scores: before the softmax.
        kept: (B, N), 1 for a key to be seen and 0 for one to be left out.
    """
    with without_autocast(scores):  # the exponentials are summed in 32 bits
        full = scores.to(torch.promote_types(scores.dtype, torch.float32))
        seen, num_keys = kept[:, None, None, :].to(full.dtype), scores.shape[-1]
        seen = seen + (1 - seen) * torch.eye(num_keys, dtype=full.dtype, device=full.device)  # (B, 1, N, N)
        weights = (full - full.amax(dim=-1, keepdim=True)).exp() * seen
        attn = (weights + LEFT_OVER / num_keys) / (weights.sum(dim=-1, keepdim=True) + LEFT_OVER)
    return attn.to(scores.dtype)


class WatchedAttention(PassesMap, Attention):
    """Plain attention that also returns how much its class token attends to each patch."""

    def forward(self, x: Tensor, last_map: None = None) -> tuple[Tensor, Tensor]:
        """Tokens (B, 1 + N, C) to (tokens (B, 1 + N, C), the class token's attention to patches (B, N)).

        That is one row of the map, summed over heads: N·C multiplications, for which the map need not be formed.
        """
        query, key, value = self.split_heads(self.qkv(x))
        out = by_fast_path(self, (self.attention_map, self.softmax_of), query, key, value)
        if out is None:
            out = self.attention_map(query, key) @ value
        row = (query[:, :, :1] @ key.transpose(-2, -1) * self.scale).softmax(dim=-1)  # (B, H, 1, 1 + N)
        return self.merge_heads(out), row[:, :, 0, 1:].sum(dim=1)


class NoAttention(nn.Module):
    """Stands where a block has no attention; see `MlpBlock`.

    Args:
        dim, num_heads: as for `Attention`; there is nothing to build from them.
    """

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()


class MlpBlock(Block):
    """A block without attention: its tokens do not exchange anything (LIT, Pan et al. 2022, in its first stages).

    Args:
        args, options: as for `Block`.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.norm1 = self.scale1 = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Tokens (B, N, C) to tokens (B, N, C)."""
        return x + self.drop_path(self.scale2(self.mlp(self.norm2(x)))) * self.branch_scale


def selective_block(attn: nn.Module, parts: Sequence[Any]) -> Block | None:
    """The block for an attention of this file; None for any other attention."""
    if isinstance(attn, NoAttention):
        return MlpBlock(*parts)
    if isinstance(attn, MaskedAttention):
        return ChainedBlock(*parts, takes_map=True, gives_map=False)
    return ChainedBlock(*parts, takes_map=False, gives_map=True) if isinstance(attn, WatchedAttention) else None


class Selection(nn.Module):
    """Before chosen blocks, the patch tokens with the best scores go on, and the others are dropped.

    Args:
        dim: channels C of a token.
        num_tokens: patch tokens N that enter the first block.
        before: the blocks before which tokens are selected, from 0.
        keep_ratio: share ρ; after the s-th selection int(N · ρ^s) tokens are left, the same number for every image.
    """

    attention = "plain"  # what takes the place of plain attention in the blocks
    suitable: tuple[type[nn.Module], ...] = (nn.Module,)  # the attentions that `special_blocks` may have
    reason = ""  # why

    def __init__(self, dim: int, num_tokens: int, before: tuple[int, ...], keep_ratio: float) -> None:
        super().__init__()
        if not before:
            raise ValueError("a selection needs selection_before, the blocks before which tokens are selected")
        self.num_tokens, self.before, self.keep_ratio = num_tokens, before, keep_ratio
        self.takes_mask: frozenset[int] = frozenset()

    def special_blocks(self, depth: int) -> Iterable[int]:
        """The blocks, of `depth`, whose attention must do more than turn tokens into tokens."""
        return ()

    def check_attention(self, attentions: Sequence[nn.Module]) -> None:
        """ValueError where an attention, one for each block, cannot do what this selection asks of it."""
        for layer in self.special_blocks(len(attentions)):
            if not isinstance(attentions[layer], self.suitable):
                raise ValueError(
                    f"this selection {self.reason}, and {type(attentions[layer]).__name__} in block {layer} cannot do "
                    f"that; give this block plain attention, or select at random"
                )
        self.takes_mask = frozenset(i for i, attn in enumerate(attentions) if isinstance(attn, MaskedAttention))

    def forward(self, x: Tensor, blocks: Sequence[Callable]) -> Selected:
        """The tokens (B, 1 + N, C) through all blocks, with the selections between them."""
        batch, count = x.shape[0], self.num_tokens
        places = torch.arange(count, device=x.device).expand(batch, -1)  # (B, N), of the tokens still there
        chosen, scored, row = [], [], None
        for layer, block in enumerate(blocks):
            if layer in self.before:
                scores = self.scores(len(chosen), x, row, places)  # (B, n)
                index = best(scores, int(count * self.keep_ratio ** (len(chosen) + 1)))
                scored.append(x.new_full((batch, count), torch.nan).scatter(1, places, scores.to(x.dtype)))
                places = places.gather(1, index)
                chosen.append(places)
                x = torch.cat([x[:, :1], take(x[:, 1:], index)], dim=1)
            x, row = self.run(layer, block, x)
        return Selected(x, chosen, scored, x[:, 0])

    def run(self, layer: int, block: Callable, x: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """Tokens after a block, and the class token's attention in it (B, n) where the block returns that."""
        x = block((x, mask) if layer in self.takes_mask else x)
        return x if isinstance(x, tuple) else (x, None)

    def scores(self, stage: int, x: Tensor, row: Tensor | None, places: Tensor) -> Tensor:
        """A score for every patch token that is still there (B, n); the largest stay.

        Args:
            stage: which selection this is, from 0.
            x: class token and patch tokens (B, 1 + n, C).
            row: the class token's attention in the block before (B, n).
            places: where in the image these tokens come from (B, n).
        """
        raise NotImplementedError

    def reset_classifier(self, new_head: Callable[[], nn.Module]) -> None:
        """Called when the model gets a new head; a selection with a classifier of its own renews it, too."""


def best(scores: Tensor, count: int) -> Tensor:
    """Scores (B, n) to the places of the `count` largest (B, count), in rising order."""
    return scores.topk(count, dim=1).indices.sort(dim=1).values


def take(x: Tensor, index: Tensor) -> Tensor:
    """Tokens (B, n, C) at the places (B, m), (B, m, C)."""
    return x.gather(1, index[:, :, None].expand(-1, -1, x.shape[-1]))


class RandomSelection(Selection):
    """Tokens drawn at random: anew in every training step, and in evaluation the same ones for every batch."""

    def scores(self, stage: int, x: Tensor, row: Tensor | None, places: Tensor) -> Tensor:
        """See `Selection.scores`."""
        generator = None if self.training else torch.Generator().manual_seed(stage)
        return torch.rand(x.shape[0], x.shape[1] - 1, generator=generator).to(x.device)


class SelectionByAttention(Selection):
    """What selections that read the class token's attention have in common."""

    attention, suitable, reason = "watched", (WatchedAttention,), "reads the class token's attention"

    def __init__(self, dim: int, num_tokens: int, before: tuple[int, ...], keep_ratio: float) -> None:
        super().__init__(dim, num_tokens, before, keep_ratio)
        if 0 in before:
            raise ValueError(
                "the class token's attention comes from the block before, and block 0 has none; begin at 1"
            )

    def special_blocks(self, depth: int) -> Iterable[int]:
        """See `Selection.special_blocks`."""
        return [layer - 1 for layer in self.before]


class MostAttended(SelectionByAttention):
    """The tokens that the class token attends to the most, in the block before."""

    sign = 1

    def scores(self, stage: int, x: Tensor, row: Tensor | None, places: Tensor) -> Tensor:
        """See `Selection.scores`."""
        return self.sign * row


class LeastAttended(MostAttended):
    """The reverse, as a control: the tokens that the class token attends to the least."""

    sign = -1


class Predictor(nn.Module):
    """DynamicViT's: whether each patch token is to stay, from itself and from the mean of all that are still there.

    Args:
        dim: channels C of a token.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.project = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, dim), nn.GELU())
        widths = [nn.Linear(dim, dim // 2), nn.GELU(), nn.Linear(dim // 2, dim // 4), nn.GELU(), nn.Linear(dim // 4, 2)]
        self.classify = nn.Sequential(*widths, nn.LogSoftmax(dim=-1))

    def forward(self, x: Tensor, kept: Tensor) -> Tensor:
        """Patch tokens (B, n, C) and their mask (B, n) to log-probabilities of staying and of going (B, n, 2)."""
        own, shared = self.project(x).chunk(2, dim=-1)  # (B, n, C / 2) each
        kept = kept[..., None].to(x.dtype)
        count = kept.sum(dim=1, keepdim=True).clamp(min=0.5)  # a mask may leave none, and 0 / 0 is no number
        mean = (shared * kept).sum(dim=1, keepdim=True) / count
        return self.classify(torch.cat([own, mean.expand_as(own)], dim=-1))


class PredictedSelection(Selection):
    """DynamicViT (Rao et al. 2021): predictors between the blocks decide which tokens stay.

    In training every token goes through every block. Each decision is drawn (Gumbel softmax, straight through), and a
    mask keeps others from seeing the tokens that it took away. In evaluation the most probable go on.

    Raises:
        ValueError: where it would keep no token at all.
    """

    attention, suitable, reason = "masked", (MaskedAttention, NoAttention), "masks keys in training"

    def __init__(self, dim: int, num_tokens: int, before: tuple[int, ...], keep_ratio: float) -> None:
        super().__init__(dim, num_tokens, before, keep_ratio)
        if int(num_tokens * keep_ratio ** len(before)) < 1:
            raise ValueError(f"keep_ratio {keep_ratio} leaves none of {num_tokens} tokens to be scored; give a larger")
        self.build(dim)

    def special_blocks(self, depth: int) -> Iterable[int]:
        """See `Selection.special_blocks`."""
        return range(min(self.before), depth)

    def build(self, dim: int) -> None:
        """Makes what the tokens are scored with."""
        self.predictors = nn.ModuleList(Predictor(dim) for _ in self.before)

    def log_probabilities(self, stage: int, patches: Tensor, kept: Tensor) -> Tensor:
        """Patch tokens (B, n, C) and mask (B, n) to log-probabilities of staying and of going (B, n, 2)."""
        return self.predictors[stage](patches, kept)

    def scores(self, stage: int, x: Tensor, row: Tensor | None, places: Tensor) -> Tensor:
        """See `Selection.scores`."""
        return self.log_probabilities(stage, x[:, 1:], x.new_ones(x.shape[0], x.shape[1] - 1))[..., 0]

    def forward(self, x: Tensor, blocks: Sequence[Callable]) -> Selected:
        """The tokens (B, 1 + N, C) through all blocks; in training N stays what it is, and tokens are masked."""
        if not self.training:
            return super().forward(x, blocks)
        kept, mask, masks, scored = x.new_ones(x.shape[0], self.num_tokens), None, [], []
        for layer, block in enumerate(blocks):
            if layer in self.before:
                log_probabilities = self.log_probabilities(len(masks), x[:, 1:], kept)
                kept = kept * F.gumbel_softmax(log_probabilities, hard=True)[..., 0]
                masks.append(kept)
                scored.append(log_probabilities[..., 0])
                mask = F.pad(kept, (1, 0), value=1.0)  # the class token is always seen
            x, _ = self.run(layer, block, x, mask)
        return Selected(x, masks, scored, x[:, 0])


class FixedSelection(PredictedSelection):
    """Places that stay, learned once for all images (DynamicViT's static control)."""

    def build(self, dim: int) -> None:
        """Makes a score for every place and selection."""
        self.places = nn.Parameter(torch.zeros(len(self.before), self.num_tokens, 2))

    def scores(self, stage: int, x: Tensor, row: Tensor | None, places: Tensor) -> Tensor:
        """See `Selection.scores`; every image keeps the same places."""
        return self.places[stage].log_softmax(dim=-1)[:, 0].expand(x.shape[0], -1).gather(1, places)

    def log_probabilities(self, stage: int, patches: Tensor, kept: Tensor) -> Tensor:
        """See `PredictedSelection.log_probabilities`; the tokens are not looked at."""
        return self.places[stage].log_softmax(dim=-1).expand(patches.shape[0], -1, -1)


class WaitingSelection(SelectionByAttention):
    """Evo-ViT (Xu et al. 2022, the released DeiT models): tokens that are not selected wait, and come back.

    They come back, unchanged, before the next selection and after the last block. The score is a running mean of the
    class token's attention: that of the last block before the first selection, afterwards renewed only for the tokens
    that went through. The model's head reads the mean over all patch tokens, which takes the class token's place in
    what comes out; in training a second head may read the class token.

    Args:
        dim, num_tokens, before, keep_ratio: as for `Selection`; every selection is among all N tokens.
        tradeoff: weight of a new block's attention in the running mean.
        prune_waiting: leave those that wait at the end out of the mean.
        class_head: build the second head.
    """

    def __init__(
        self,
        dim: int,
        num_tokens: int,
        before: tuple[int, ...],
        keep_ratio: float,
        tradeoff: float = 0.5,
        prune_waiting: bool = False,
        class_head: bool = True,
    ) -> None:
        super().__init__(dim, num_tokens, before, keep_ratio)
        check_number("tradeoff", tradeoff, at_least=0, at_most=1)
        if prune_waiting and int(num_tokens * keep_ratio) < 1:
            raise ValueError(f"keep_ratio {keep_ratio} leaves none of {num_tokens} tokens for the mean; give a larger")
        self.tradeoff, self.prune_waiting = tradeoff, prune_waiting
        self.norm_cls = nn.LayerNorm(dim, eps=1e-6) if class_head else None
        self.head_cls: nn.Module | None = None

    def special_blocks(self, depth: int) -> Iterable[int]:
        """See `Selection.special_blocks`."""
        return range(min(self.before) - 1, depth)

    def reset_classifier(self, new_head: Callable[[], nn.Module]) -> None:
        """A new second head, where there is one."""
        if self.norm_cls is not None:
            self.head_cls = new_head()

    def class_logits(self, class_token: Tensor) -> Tensor:
        """The second head's logits (B, K) of the class token (B, C)."""
        return self.head_cls(self.norm_cls(class_token))

    def forward(self, x: Tensor, blocks: Sequence[Callable]) -> Selected:
        """The tokens (B, 1 + N, C) through all blocks; the mean over patch tokens takes the class token's place."""
        whole, attention, index = x, None, None  # all tokens; (B, N); the places of those that do not wait (B, n)
        chosen, scored = [], []
        for layer, block in enumerate(blocks):
            if layer in self.before:
                whole = self.put_back(whole, x, index)
                index = best(attention, int(self.num_tokens * self.keep_ratio))
                chosen.append(index)
                scored.append(attention)
                x = torch.cat([whole[:, :1], take(whole[:, 1:], index)], dim=1)
            x, row = self.run(layer, block, x)
            row = None if row is None else row.detach()  # a selection has no gradient
            if index is None:
                attention = row
            else:
                mixed = (1 - self.tradeoff) * attention.gather(1, index) + self.tradeoff * row
                attention = attention.scatter(1, index, mixed)
        whole = self.put_back(whole, x, index)
        read = x if self.prune_waiting else whole
        mean = read[:, 1:].mean(dim=1, keepdim=True)
        return Selected(torch.cat([mean, whole[:, 1:]], dim=1), chosen, scored, x[:, 0])

    def put_back(self, whole: Tensor, x: Tensor, index: Tensor | None) -> Tensor:
        """All tokens (B, 1 + N, C), with those that went through the blocks (B, 1 + n, C) in their places."""
        if index is None:
            return x
        places = index[:, :, None].expand(-1, -1, x.shape[-1])
        return torch.cat([x[:, :1], whole[:, 1:].scatter(1, places, x[:, 1:])], dim=1)


SELECTIONS: dict[str, type[Selection] | None] = {
    "none": None,
    "predicted": PredictedSelection,
    "fixed": FixedSelection,
    "random": RandomSelection,
    "most-attended": MostAttended,
    "least-attended": LeastAttended,
    "waiting": WaitingSelection,
}


def new_selection(config: Any, blocks: Sequence[nn.Module], num_tokens: int) -> Selection | None:
    """The selection of tokens between the blocks of a model, or None.

    Args:
        config: the model's `ViTConfig`.
        blocks: its blocks.
        num_tokens: patch tokens that enter the first of them.

    Raises:
        ValueError: for options that the selection does not have, and for blocks that cannot do with fewer tokens.
    """
    attentions = [getattr(block, "attn", None) for block in blocks]
    check_names(attentions, config.selection)
    if config.selection == "none":
        return None
    if not config.class_token or config.dense_stages:
        raise ValueError("a selection keeps the class token and the width; set class_token, and leave dense_stages out")
    check_maps(attentions)
    if config.dense_head and int(num_tokens * config.keep_ratio ** len(config.selection_before)) < 1:
        raise ValueError(f"a dense head reads patch tokens, of which keep_ratio {config.keep_ratio} leaves none")
    sizes = (config.embed_dim, num_tokens, config.selection_before, config.keep_ratio)
    try:
        selection = SELECTIONS[config.selection](*sizes, **config.selection_options)
    except TypeError as error:
        options = config.selection_options
        raise ValueError(f"selection '{config.selection}' does not take the options {options}: {error}") from error
    selection.check_attention(attentions)
    guard_statistics(selection, blocks)
    return selection


def check_names(attentions: Sequence[nn.Module | None], selection: str) -> None:
    """ValueError where an attention is there that only a selection can use, without that selection."""
    used = SELECTIONS[selection].attention if selection != "none" else "plain"
    for name, kind in (("masked", MaskedAttention), ("watched", WatchedAttention)):
        if name != used and any(isinstance(attn, kind) for attn in attentions):
            raise ValueError(f"attention '{name}' is for the selections that need it, which take it by themselves")


def check_maps(attentions: Sequence[nn.Module]) -> None:
    """ValueError where attention maps cannot lose rows and columns, with the reason.

    A refined map whose kernel is 1×1 can: expansion, kernel and reduction then mix heads alone, entry by entry and
    linearly, without a bias or statistics, whatever tokens the entry's row and column are of.
    """
    for attn in attentions:
        reason = ""
        if isinstance(attn, RefinedAttention) and max(attn.local.kernel_size) > 1:
            reason = (
                "its convolution mixes neighbouring entries of the map, and dropped tokens give them other neighbours; "
                "only a kernel_size of 1 has no neighbours"
            )
        elif passes_map(attn) and not isinstance(attn, MaskedAttention | WatchedAttention):
            reason = "it passes its map on, which would have rows and columns of tokens that are gone"
        if reason:
            raise ValueError(f"a selection of tokens does not go with {type(attn).__name__}: {reason}")


class NeedsRecalibration(RuntimeError):
    """The norm of a map was measured on maps of another number of tokens."""


def guard_statistics(selection: Selection, blocks: Sequence[nn.Module]) -> None:
    """Makes a model with BatchNorm over maps refuse to drop tokens until its statistics are of the smaller maps.

    The mean of a softmax map is 1/N, and BatchNorm subtracts the mean that it has seen. With half of the tokens gone
    the map's mean is twice that, and what the norm then passes on is mostly this difference.
    """
    norms = [norm for block in blocks for norm in block.modules() if isinstance(norm, HeadNorm) and norm.batch]
    if not norms:
        return
    selection.register_buffer("recalibrated", torch.zeros((), dtype=torch.bool))

    def check(selection: Selection, inputs: tuple) -> None:
        if selection.training:  # BatchNorm now sees the maps as they are
            selection.recalibrated.fill_(True)
        elif not selection.recalibrated:
            raise NeedsRecalibration(
                "BatchNorm over attention maps has statistics of maps with all tokens, whose mean is 1/N, and fewer "
                "tokens give other means; call deepvit_edu.nn.sparse.recalibrate(model, images) first"
            )

    selection.register_forward_pre_hook(check)


@torch.no_grad()
def recalibrate(model: nn.Module, images: Tensor, batch_size: int = 64) -> nn.Module:
    """Takes the statistics of BatchNorm over attention maps anew, and returns the model; no weight changes.

    Args:
        model: a model whose maps have another size than in training: fewer tokens, or images of another size.
        images: normalised images (B, 3, H, W); a few hundred training images do.
        batch_size: images at a time.

    Raises:
        ValueError: when the model has no BatchNorm over maps, so that there is nothing to recalibrate; without images.
    """
    norms = [part.norm.batch for part in model.modules() if isinstance(part, ReAttention) and part.norm.batch]
    if not norms:
        raise ValueError("this model has no BatchNorm over attention maps; there is nothing to recalibrate")
    if not len(images):
        raise ValueError("there is no image to take statistics from; give a few hundred")
    states = [(part, part.training) for part in model.modules()]
    momenta = [norm.momentum for norm in norms]
    model.eval()
    if (selection := getattr(model, "selection", None)) is not None:
        selection.recalibrated.fill_(True)
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the mean over all batches
        norm.train()
    try:
        for some in images.split(batch_size):
            model(some)
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
        for part, training in states:
            part.training = training
    return model


def select_tokens(model: nn.Module, images: Tensor) -> Selected:
    """What a model with a selection does with images (B, 3, H, W): the tokens, and which were kept at each stage.

    Raises:
        ValueError: for a model without a selection.
    """
    if model.selection is None:
        raise ValueError("this model selects no tokens; create it with selection='most-attended', say")
    return model.selection(model.embed(images), model.blocks)


def class_logits(model: nn.Module, images: Tensor) -> tuple[Tensor, Tensor]:
    """Evo-ViT's two answers (B, K) in training: from the mean over patch tokens, and from the class token.

    Raises:
        ValueError: for a model without the second head.
    """
    if not isinstance(getattr(model.selection, "head_cls", None), nn.Linear):
        raise ValueError("this model has no second head; create an evo_deit model with classes and class_head")
    selected = select_tokens(model, images)
    return model.forward_head(model.norm(selected.tokens)), model.selection.class_logits(selected.class_token)
