"""The regulariser of DeepViT's code: the similarity of neighbouring blocks' maps, as a part of the loss."""

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .diagnostics import attention_blocks
from .nn.attention import legible_attention


def map_likeness(maps: list[Tensor]) -> Tensor:
    """Mean cosine, over heads, between maps (B, H, N, N) of neighbouring blocks: the regulariser of DeepViT's code.

    The cosine compares, at each pair of query and key, the H entries of one block with those of the next; the
    authors' code takes it over the heads although the paper's measure compares columns.
    """
    return torch.stack([F.cosine_similarity(*pair, dim=1).mean() for pair in pairwise(maps)]).mean()


@contextmanager
def collected_maps(model: nn.Module | None) -> Iterator[list[Tensor]]:
    """Context manager: collects the maps that multiply the values, with their gradients; none without a model."""
    maps: list[Tensor] = []
    if model is None:
        yield maps
        return
    hooks = [
        block.attn.used_map.register_forward_hook(lambda module, inputs, attn: maps.append(attn))
        for block in attention_blocks(model)
    ]
    try:
        with legible_attention():
            yield maps
    finally:
        for hook in hooks:
            hook.remove()
