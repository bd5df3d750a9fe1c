"""The Vision Transformer: its configuration, and the model built from it."""

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.init import trunc_normal_, zeros_
from torch.utils.checkpoint import checkpoint

from ..options import check_kinds, check_number
from .blocks import Block
from .controls import tie_queries_and_keys
from .features import IntermediateFeatures
from .ideas import dense_blocks
from .mix_token import Box, swap_within
from .paths import frozen_statistics, traced
from .refiner import ChainedBlock, passes_map
from .registry import ATTENTIONS, MLPS, TOKENS, new_attention, register_attention
from .sparse import SELECTIONS, new_selection, selective_block

LARGEST = dict.fromkeys(("img_size", "patch_size", "embed_dim", "num_heads", "growth"), 2**14)
LARGEST |= {"in_chans": 2**10, "depth": 10**3}
"""The largest sizes of a configuration: a slip, or a hostile file, is refused before anything is built."""


@dataclass(frozen=True)
class ViTConfig:
    """The options of a Vision Transformer. Sizes are in pixels, tokens or channels.

    Raises:
        ValueError: when a number is out of its range.
    """

    img_size: int = 224
    patch_size: int = 16
    in_chans: int = 3
    num_classes: int = 1000
    embed_dim: int = 384
    depth: int = 12
    num_heads: int = 12
    mlp_ratio: float = 3.0
    qkv_bias: bool = True
    tokens: str = "patch"  # a key of TOKENS
    token_options: dict = field(default_factory=dict)
    attention: tuple[str, ...] = ("plain",)  # keys of ATTENTIONS, or module classes, in turn from block to block
    attention_options: dict = field(default_factory=dict)
    attention_start: int = 0  # blocks before it have plain attention
    mlp: str = "plain"  # a key of MLPS
    dense_stages: tuple[int, ...] = ()  # blocks of each stage of a dense model, instead of `depth` equal ones
    growth: int = 64  # channels that a block of a dense model adds
    positions: str = "learned"  # or "sinusoid": fixed
    class_token: bool = True  # False: the head reads the mean over the patch tokens
    dense_head: bool = False  # a second head, on every patch token
    selection: str = "none"  # a key of SELECTIONS: which patch tokens go on
    selection_before: tuple[int, ...] = ()  # the blocks before which tokens are selected
    selection_options: dict = field(default_factory=dict)
    keep_ratio: float = 1.0  # share of the tokens that a selection keeps
    drop_rate: float = 0.0
    attn_drop_rate: float = 0.0
    drop_path_rate: float = 0.0  # of the last block; block l of L has rate * l / (L - 1)
    norm_eps: float = 1e-6
    block_norm_eps: float | None = None  # of the blocks' norms, where it differs
    branch_scale: float = 1.0  # factor on what each branch adds to the stream
    attn_scale: float | None = None  # start of a LayerScale on the attention branch
    mlp_scale: float | None = None  # start of a LayerScale on the MLP branch
    init_std: float = 0.02  # of the truncated normal that linear weights, positions and class token start from

    def __post_init__(self) -> None:
        check_kinds(self)
        for name, most in LARGEST.items():
            check_number(name, getattr(self, name), whole=True, at_least=1, at_most=most)
        check_number("num_classes", self.num_classes, whole=True, at_least=0, at_most=10**6)
        check_number("attention_start", self.attention_start, whole=True, at_least=0)
        check_number("keep_ratio", self.keep_ratio, at_least=0, at_most=1)
        for block in self.selection_before:
            check_number("a block of selection_before", block, whole=True, at_least=0, below=self.depth)
        if list(self.selection_before) != sorted(set(self.selection_before)):
            raise ValueError(f"selection_before is {self.selection_before}; name each block once, in rising order")
        for blocks in self.dense_stages:
            check_number("a stage of dense_stages", blocks, whole=True, at_least=1, at_most=LARGEST["depth"])
        for name in ("drop_rate", "attn_drop_rate", "drop_path_rate"):
            check_number(name, getattr(self, name), at_least=0, below=1)
        check_number("mlp_ratio", self.mlp_ratio, at_least=0, at_most=100)
        for name in ("norm_eps", "init_std", "branch_scale"):
            check_number(name, getattr(self, name), at_least=0)
        for name in ("block_norm_eps", "attn_scale", "mlp_scale"):
            if getattr(self, name) is not None:
                check_number(name, getattr(self, name))
        for name, known in (
            ("tokens", TOKENS),
            ("mlp", MLPS),
            ("positions", ("learned", "sinusoid")),
            ("selection", SELECTIONS),
        ):
            if getattr(self, name) not in known:
                raise ValueError(f"{name} is '{getattr(self, name)}'; choose one of {', '.join(known)}")
        names = tuple(each if isinstance(each, str) else register_attention(each) for each in self.attention)
        object.__setattr__(self, "attention", names)
        if not names or not set(names) <= set(ATTENTIONS):
            raise ValueError(f"attention is {self.attention}; choose names among {', '.join(ATTENTIONS)}")

    @classmethod
    def from_json(cls, options: dict) -> "ViTConfig":
        """The configuration from `options` that `dataclasses.asdict` and JSON (which has no tuples) wrote."""
        return cls(**{name: tuple(value) if isinstance(value, list) else value for name, value in options.items()})


class VisionTransformer(IntermediateFeatures, nn.Module):
    """Vision Transformer (Dosovitskiy et al. 2021, section 3.1): patches, positions, blocks, norm, linear head.

    Parameters carry timm's names, so that weights of timm's plain ViTs load as they are.

    Args:
        config: the sizes; see `ViTConfig`.
    """

    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        self.config = config
        dim = config.embed_dim
        sizes = (config.img_size, config.patch_size, config.in_chans, dim)
        self.patch_embed = _build(f"tokens '{config.tokens}'", TOKENS[config.tokens], sizes, config.token_options)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, dim)) if config.class_token else None
        num_positions = self.patch_embed.num_tokens + int(config.class_token)
        if config.positions == "sinusoid":
            self.pos_embed = nn.Parameter(sinusoid(num_positions, dim), requires_grad=False)
        else:
            self.pos_embed = nn.Parameter(torch.zeros(1, num_positions, dim))
        self.pos_drop = nn.Dropout(config.drop_rate)
        blocks, widths = build_blocks(config)
        self.blocks = nn.ModuleList(blocks)
        self.selection = new_selection(config, self.blocks, self.patch_embed.num_tokens)
        self.in_chans = config.in_chans
        self.num_features = self.head_hidden_size = widths[-1]
        self.num_prefix_tokens = int(config.class_token)
        pixels = config.img_size // self.patch_embed.grid_size
        self.feature_info = [{"num_chs": w, "reduction": pixels, "module": f"blocks.{i}"} for i, w in enumerate(widths)]
        self.norm = nn.LayerNorm(self.num_features, eps=config.norm_eps)
        self.head, self.dense_head = nn.Identity(), None
        self.grad_checkpointing = False
        self._init_weights()
        self.reset_classifier(config.num_classes)

    def _init_weights(self) -> None:
        if self.pos_embed.is_meta:  # nothing to initialise, and torch would be slow at it
            return
        for module in self.modules():
            if isinstance(module, nn.Linear):
                self._init_linear(module)
        if self.pos_embed.requires_grad:
            trunc_normal_(self.pos_embed, std=self.config.init_std)
        if self.cls_token is not None:
            trunc_normal_(self.cls_token, std=self.config.init_std)

    def _init_linear(self, linear: nn.Linear) -> None:
        trunc_normal_(linear.weight, std=self.config.init_std)
        if linear.bias is not None:
            zeros_(linear.bias)

    def embed(self, images: Tensor) -> Tensor:
        """Images (B, 3, H, W) to the blocks' input: class token and patches, with positions (B, N + 1, C)."""
        return self.add_positions(self.patch_embed(images))

    def add_positions(self, x: Tensor) -> Tensor:
        """Patch tokens (B, N, C) to the blocks' input (B, N + 1, C): the class token before them, positions added."""
        if self.cls_token is not None:
            x = torch.cat([self.cls_token.expand(x.shape[0], -1, -1), x], dim=1)  # (B, N + 1, C)
        return self.pos_drop(x + self.pos_embed)

    def forward_features(self, images: Tensor) -> Tensor:
        """Images (B, 3, H, W) to the tokens after the last norm (B, N + 1, C); (B, N, C) without a class token."""
        return self.norm(self.run_blocks(self.embed(images)))

    def run_blocks(self, x: Tensor) -> Tensor:
        """The tokens (B, N + 1, C) through one block after another."""
        blocks = (
            [partial(self.checkpointed, block) for block in self.blocks] if self.grad_checkpointing else self.blocks
        )
        if self.selection is not None:
            return self.selection(x, blocks).tokens
        for block in blocks:
            x = block(x)
        return x

    def checkpointed(self, block: nn.Module, x: Tensor) -> Tensor:
        """`block(x)`, whose activations are computed again in the backward pass instead of being kept."""
        if not torch.is_grad_enabled():
            return block(x)
        # A compiler recomputes by itself, without updating BatchNorm's statistics twice.
        contexts = {} if traced() else {"context_fn": lambda: (nullcontext(), frozen_statistics(block))}
        return checkpoint(block, x, use_reentrant=False, **contexts)

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Tokens (B, N + 1, C) to logits (B, K); to the pooled features (B, C) where `pre_logits`.

        With a dense head the logits are the class token's plus half the largest of any patch token's, class by class.
        """
        pooled = x.mean(dim=1) if self.cls_token is None else x[:, 0]
        if pre_logits:
            return pooled
        if self.dense_head is None:
            return self.head(pooled)
        return self.head(pooled) + 0.5 * self.dense_head(x[:, self.num_prefix_tokens :]).amax(dim=1)

    def forward_dense(self, images: Tensor, box: Box | None = None) -> tuple[Tensor, Tensor]:
        """Images (B, 3, H, W) to class logits (B, K) and logits of every patch token (B, N, K), for token labeling.

        With a box (top, left, bottom, right) in cells of the token grid, MixToken (Jiang et al. 2021, LV-ViT): within
        it the tokens are those of the batch-flipped sample, and the token logits there are flipped back.

        Raises:
            ValueError: without a dense head, where a selection drops tokens, or for a box that is not within the grid.
        """
        if self.dense_head is None:
            raise ValueError("this model has no dense head; create it with dense_head=True and with num_classes")
        patches = self.patch_embed(images) if box is None else swap_within(self.patch_embed(images), box)
        x = self.norm(self.run_blocks(self.add_positions(patches)))
        if x.shape[1] != self.num_prefix_tokens + patches.shape[1]:
            raise ValueError("labels of tokens need every patch token, and this model's selection drops some of them")
        token_logits = self.dense_head(x[:, self.num_prefix_tokens :])
        if box is not None:
            token_logits = swap_within(token_logits, box)
        return self.head(self.forward_head(x, pre_logits=True)), token_logits

    def forward(self, images: Tensor) -> Tensor:
        """Images, float (B, 3, H, W), to logits (B, K)."""
        return self.forward_head(self.forward_features(images))

    def no_weight_decay(self) -> set[str]:
        """Names of parameters that weight decay should leave alone (timm's optimizers ask for it)."""
        return {"pos_embed", "cls_token"}

    def get_classifier(self) -> nn.Module:
        """The linear head, or an identity where there are no classes."""
        return self.head

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """A new, untrained head for `num_classes` classes (and a dense one where there was one); 0 takes it off.

        Raises:
            ValueError: if `global_pool` is given; unlike timm's models, these have one fixed pooling.
        """
        if global_pool:
            raise ValueError(f"global_pool is '{global_pool}'; leave it out: the configuration's class_token decides")
        self.num_classes = num_classes
        self.config = replace(self.config, num_classes=num_classes)
        self.head = self._new_head(num_classes)
        self.dense_head = self._new_head(num_classes) if self.config.dense_head and num_classes else None
        if self.selection is not None:
            self.selection.reset_classifier(partial(self._new_head, num_classes))

    def _new_head(self, num_classes: int) -> nn.Module:
        if not num_classes:
            return nn.Identity()
        head = nn.Linear(self.num_features, num_classes).to(self.pos_embed.device, self.pos_embed.dtype)
        self._init_linear(head)
        return head.train(self.training)

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute each block in the backward pass instead of keeping what it made: less memory, more time."""
        self.grad_checkpointing = enable


def sinusoid(num_positions: int, dim: int) -> Tensor:
    """Fixed positions (1, N, C): sines in even channels, cosines in odd ones (T2T-ViT, after Vaswani et al. 2017)."""
    position = torch.arange(num_positions, dtype=torch.float64)[:, None]
    channel = torch.arange(dim)
    angle = position / 10000 ** (2 * (channel // 2) / dim)
    return torch.where(channel % 2 == 0, angle.sin(), angle.cos()).float()[None]


def build_blocks(config: ViTConfig) -> tuple[list[nn.Module], list[int]]:
    """The blocks of a model, and the channels that come out of each."""
    new, dim, last = partial(build_block, config), config.embed_dim, max(config.depth - 1, 1)
    if config.dense_stages and any(passes_map(ATTENTIONS[name]) for name in config.attention):
        raise ValueError(f"a dense model cannot use attentions that pass maps on, such as {config.attention}")
    if config.dense_stages:
        return dense_blocks(new, config.dense_stages, dim, config.growth, config.drop_path_rate)
    rates = [config.drop_path_rate * layer / last for layer in range(config.depth)]
    blocks = [new(layer, dim, rate) for layer, rate in enumerate(rates)]
    tie_queries_and_keys(block.attn for block in blocks)
    return blocks, [dim] * config.depth


def build_block(config: ViTConfig, layer: int, dim: int, drop_path: float) -> Block:
    """The block at depth `layer`, of width `dim`."""
    name = attention_name(config, layer)
    options = config.attention_options if layer >= config.attention_start else {}
    usual = {"qkv_bias": config.qkv_bias, "attn_drop": config.attn_drop_rate, "proj_drop": config.drop_rate}
    attn = new_attention(name, dim, config.num_heads, usual, options)
    mlp = MLPS[config.mlp](dim, int(dim * config.mlp_ratio), config.drop_rate)
    eps = config.norm_eps if config.block_norm_eps is None else config.block_norm_eps
    parts = (dim, attn, mlp, drop_path, eps, config.branch_scale, config.attn_scale, config.mlp_scale)
    if block := selective_block(attn, parts):
        return block
    if not passes_map(attn):
        return Block(*parts)
    takes_map, gives_map = (_layer_passes_map(config, other) for other in (layer - 1, layer + 1))
    return ChainedBlock(*parts, takes_map=takes_map, gives_map=gives_map)


def attention_name(config: ViTConfig, layer: int) -> str:
    """The key of ATTENTIONS for the block at depth `layer`."""
    name = config.attention[layer % len(config.attention)] if layer >= config.attention_start else "plain"
    return SELECTIONS[config.selection].attention if name == "plain" and config.selection != "none" else name


def _layer_passes_map(config: ViTConfig, layer: int) -> bool:
    return 0 <= layer < config.depth and passes_map(ATTENTIONS[attention_name(config, layer)])


def _build(what: str, kind: Callable[..., nn.Module], sizes: tuple, options: dict) -> nn.Module:
    """The module of that kind; ValueError for an option that it does not have."""
    try:
        return kind(*sizes, **options)
    except TypeError as error:
        raise ValueError(f"{what} does not take the options {options}: {error}") from error
