"""Recording what a model computes, without changing it: in eval mode, on the legible path, without gradients."""

from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from typing import Any, Literal

import torch
from timm.models.cait import LayerScaleBlock as CaitBlock
from timm.models.cait import TalkingHeadAttn
from timm.models.vision_transformer import Attention as TimmAttention
from timm.models.vision_transformer import Block as TimmBlock
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from ..nn.attention import legible_attention
from ..nn.blocks import Block
from ..nn.ideas import DenseBlock, Transition
from ..nn.refiner import SharedAttention

WhichMap = Literal["softmax", "used"]


def attention_blocks(model: nn.Module) -> list[nn.Module]:
    """The blocks of a model that hold its attentions, as `.attn`, from the first to the last.

    Raises:
        ValueError: for a model that is neither of this package, nor timm's Vision Transformer with plain blocks, nor
            timm's CaiT (of which the blocks that see the class token alone are left out).
    """
    blocks = [block.block if isinstance(block, DenseBlock) else block for block in called_blocks(model)]
    if not blocks or not all(_is_known(block) for block in blocks):
        raise ValueError(
            f"the attention maps of a {type(model).__name__} cannot be found; give a VisionTransformer of deepvit_edu "
            "whose attentions pass their maps through softmax_map and used_map, or timm's plain ViT or CaiT"
        )
    return blocks


def check_all_tokens(model: nn.Module) -> None:
    """ValueError for a model that drops tokens: the maps of its blocks have no common size to be compared in."""
    if getattr(model, "selection", None) is not None:
        raise ValueError(
            "this model selects tokens, so the maps of its blocks have different sizes and cannot be compared or "
            "exchanged; measure the same weights in a model that is created with selection='none'"
        )


def called_blocks(model: nn.Module) -> list[nn.Module]:
    """The same blocks as the model calls them: a dense model's with what sets their output beside their input."""
    return [block for block in getattr(model, "blocks", ()) if not isinstance(block, Transition)]


def _is_known(block: nn.Module) -> bool:
    if isinstance(block, TimmBlock):
        return isinstance(block.attn, TimmAttention)
    if isinstance(block, CaitBlock):
        return isinstance(block.attn, TalkingHeadAttn)
    return isinstance(block, Block) and hasattr(block.attn, "softmax_map") and hasattr(block.attn, "used_map")


def stream_attention(
    model: nn.Module, images: Tensor, visit: Callable[[int, Tensor], Any], which: WhichMap = "used"
) -> None:
    """Calls `visit(layer, map)` with the map (B, H, N, N) of one block after the other, and keeps none of them.

    Args:
        model: a model of the zoo, or timm's Vision Transformer; it is left as it was.
        images: normalised images (B, 3, H, W).
        visit: what to do with a map; it must not change it.
        which: "softmax" for the map as the softmax gives it, "used" for the one that multiplies the values. For a
            block that takes its map from the block before it, the softmax map is that of the block it was made in.

    Raises:
        ValueError: when `which` is another word, or the kind of model is unknown.
    """

    def look_only(layer: int, attn: Tensor) -> None:
        visit(layer, attn)

    with inspection(model) as hooks:
        watch_maps(model, hooks, which, look_only)
        model(images)


def record_attention(model: nn.Module, images: Tensor, which: WhichMap = "used") -> list[Tensor]:
    """The attention maps of every block, in eval mode: a map (B, H, N, N) a block, from the first to the last.

    The arguments and errors are those of `stream_attention`, which does with less memory.
    """
    maps: list[Tensor] = []
    stream_attention(model, images, lambda layer, attn: maps.append(attn), which)
    return maps


def record_features(model: nn.Module, images: Tensor) -> list[Tensor]:
    """The tokens (B, N, C) that leave each block, class token included, from the first block to the last.

    In a dense model they are those that enter the next block, after the transition where there is one.
    """
    features: list[Tensor] = []
    with inspection(model) as hooks:
        watch_tokens(model, hooks, lambda layer, x: features.append(x))
        model(images)
    return features[1:]


@contextmanager
def inspection(model: nn.Module, legible: bool = True) -> Iterator[ExitStack]:
    """Eval mode and no gradients; hooks entered on the stack go when it ends, however it ends.

    With `legible` every map is formed explicitly; without, only those that are watched.
    """
    states = [(module, module.training, getattr(module, "fused_attn", None)) for module in model.modules()]
    try:
        model.eval()
        for module, _, fused in states:
            if fused:  # timm's name for the path that forms no map
                module.fused_attn = False
        with torch.no_grad(), legible_attention() if legible else nullcontext(), ExitStack() as hooks:
            yield hooks
    finally:
        for module, training, fused in states:
            module.training = training
            if fused:
                module.fused_attn = fused


def _map_points(model: nn.Module, which: WhichMap) -> list[nn.Module]:
    """For each layer the module that its map comes out of, or, of CaiT's softmax, goes into."""
    if which not in ("softmax", "used"):
        raise ValueError(f"which is '{which}'; choose 'softmax' or 'used'")
    points: list[nn.Module] = []
    for attn in (block.attn for block in attention_blocks(model)):
        if isinstance(attn, TimmAttention):
            points.append(attn.attn_drop)
        elif isinstance(attn, TalkingHeadAttn):
            points.append(attn.proj_w if which == "softmax" else attn.attn_drop)
        elif which == "softmax" and points and isinstance(attn, SharedAttention):
            points.append(points[-1])
        else:
            points.append(attn.softmax_map if which == "softmax" else attn.used_map)
    return points


def watch_maps(
    model: nn.Module,
    hooks: ExitStack,
    which: WhichMap,
    visit: Callable[[int, Tensor], Tensor | None],
    layers: Collection[int] | None = None,
) -> None:
    """Calls `visit(layer, map)` when a map is made, for all layers unless given; a map it returns takes its place."""
    for layer, point in enumerate(_map_points(model, which)):
        if layers is None or layer in layers:
            hooks.enter_context(_watch_point(point, visit, layer))


def _watch_point(point: nn.Module, visit: Callable[[int, Tensor], Tensor | None], layer: int) -> RemovableHandle:
    if not isinstance(point, nn.Linear):
        return point.register_forward_hook(lambda module, inputs, attn: visit(layer, attn))

    def before_mixing(module: nn.Module, inputs: tuple[Tensor]) -> tuple[Tensor] | None:
        other = visit(layer, inputs[0].permute(0, 3, 1, 2))  # CaiT mixes the heads along the last axis
        return None if other is None else (other.permute(0, 2, 3, 1),)

    return point.register_forward_pre_hook(before_mixing)


def watch_tokens(
    model: nn.Module,
    hooks: ExitStack,
    enter: Callable[[int, Tensor], Any],
    between: Callable[[int, Tensor], Any] | None = None,
) -> None:
    """Calls `enter(layer, tokens)` with what enters a block, and `between` with what is between its two branches.

    What leaves the last block enters layer L.
    """
    blocks = attention_blocks(model)
    for layer, block in enumerate(blocks):
        _watch_input(block.norm1, hooks, enter, layer)
    if isinstance(blocks[-1], CaitBlock):  # its norm comes later, when the class token has joined
        hooks.enter_context(blocks[-1].register_forward_hook(lambda module, args, x: _look(enter, len(blocks), x)))
    else:
        _watch_input(model.norm, hooks, enter, len(blocks))
    for layer, block in enumerate(blocks if between else ()):
        _watch_input(block.norm2, hooks, between, layer)


def _watch_input(module: nn.Module, hooks: ExitStack, visit: Callable[[int, Tensor], Any], layer: int) -> None:
    hooks.enter_context(module.register_forward_pre_hook(lambda module, args: _look(visit, layer, args[0])))


def _look(visit: Callable[[int, Tensor], Any], layer: int, x: Tensor) -> None:
    """Calls `visit` and drops its result, because a hook's result would replace the tensor."""
    visit(layer, x)
