"""timm's interface for intermediate features: the tokens after chosen blocks."""

from collections.abc import Sequence
from typing import Any

from timm.models._features import feature_take_indices
from torch import Tensor, nn

from .refiner import ChainedBlock, tokens_of


class IntermediateFeatures:
    """timm's interface for intermediate features, as a mixin of `VisionTransformer`, whose parts it uses."""

    def forward_intermediates(
        self,
        images: Tensor,
        indices: int | Sequence[int] | None = None,
        return_prefix_tokens: bool = False,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> Any:
        """The tokens after chosen blocks; arguments and results are those of timm's `VisionTransformer`.

        `indices` are blocks, negative ones from the end, or how many of the last. A result is (B, C, h, w), or
        (B, N, C) for "NLC", and a pair with the class token (B, 1, C) where `return_prefix_tokens`. Before the list
        of results come the tokens after the last norm (B, N + 1, C), unless `intermediates_only`.

        Raises:
            ValueError: for another format, or where the last norm would meet tokens of another width.
        """
        if output_fmt not in ("NCHW", "NLC"):
            raise ValueError(f"output_fmt is '{output_fmt}'; choose NCHW or NLC")
        self._check_whole()
        wanted, last = feature_take_indices(len(self.blocks), indices)
        x, outputs = self.embed(images), []
        for i, block in enumerate(self.blocks):
            x = self.checkpointed(block, x) if self.grad_checkpointing else block(x)
            if i in wanted:
                outputs.append(self._normed(tokens_of(x)) if norm else tokens_of(x))
            if stop_early and i == last:
                break
        x = tokens_of(x)
        prefixes, outputs = zip(*(x.tensor_split([self.num_prefix_tokens], dim=1) for x in outputs), strict=True)
        if output_fmt == "NCHW":
            grid = (self.patch_embed.grid_size,) * 2
            outputs = [x.transpose(1, 2).unflatten(2, grid).contiguous() for x in outputs]
        outputs = list(zip(outputs, prefixes, strict=True)) if return_prefix_tokens else list(outputs)
        return outputs if intermediates_only else (self._normed(x), outputs)

    def _check_whole(self) -> None:
        if self.selection is not None:
            raise ValueError(
                "this model drops tokens between blocks, so that their grids have holes; nn.sparse.select_tokens tells "
                "which stay, and selection='none' gives the model that keeps all"
            )

    def _normed(self, x: Tensor) -> Tensor:
        if x.shape[-1] != self.num_features:
            raise ValueError(
                f"the last norm takes {self.num_features} channels, and a chosen block gives {x.shape[-1]}; "
                "choose norm=False and, with stop_early, intermediates_only=True"
            )
        return self.norm(x)

    def prune_intermediate_layers(
        self, indices: int | Sequence[int] = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """Takes off the blocks after the last of `indices`, and norm and heads if asked; the indices from the start."""
        self._check_whole()
        wanted, last = feature_take_indices(len(self.blocks), indices)
        self.blocks = self.blocks[: last + 1]
        if isinstance(self.blocks[-1], ChainedBlock):
            self.blocks[-1].gives_map = False  # there is no next block
        if prune_norm:
            self.norm = nn.Identity()
        if prune_head:
            self.reset_classifier(0)
        return wanted

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Which parameters belong to which depth, for timm's layer-wise learning rates."""
        blocks = [(r"^blocks\.(\d+)", None), (r"^norm", (99999,))]
        return {"stem": r"^cls_token|^pos_embed|^patch_embed", "blocks": blocks}
