"""What DynamicViT minimises beside the classes: a share of tokens kept, and the likeness to a teacher with all tokens.

Rao et al. 2021, section 3.3, as in the authors' code, which differs from the paper in two places: the divergence is of
the teacher from the student, and the tokens' difference is a mean over channels, not a sum.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .nn.model import VisionTransformer


class Answer(NamedTuple):
    """What a model answers: of the class (B, K), of every patch token (B, N, C or K), and the masks (B, N) it drew.

    With a dense head the tokens are logits (B, N, K), otherwise features after the last norm (B, N, C).
    """

    logits: Tensor
    tokens: Tensor
    kept: list[Tensor]


def answer(model: VisionTransformer, images: Tensor) -> Answer:
    """The class's logits, the patch tokens and the masks for images (B, 3, H, W); no masks without a selection.

    In training all N tokens are there; in evaluation a model that drops tokens has fewer.
    """
    x = model.embed(images)
    if model.selection is None:
        x, kept = model.run_blocks(x), []
    else:
        x, kept, *_ = model.selection(x, model.blocks)
    x = model.norm(x)
    tokens = x[:, model.num_prefix_tokens :]
    logits = model.head(model.forward_head(x, pre_logits=True))
    return Answer(logits, tokens if model.dense_head is None else model.dense_head(tokens), kept)


def ratio_loss(kept: list[Tensor], keep_ratio: float) -> Tensor:
    """How far the shares of kept tokens are from ρ, ρ², …: squares, their mean over images and selections.

    Args:
        kept: a mask (B, N) for each selection.
        keep_ratio: ρ.
    """
    misses = [(keep_ratio**stage - mask.mean(dim=1)).square().mean() for stage, mask in enumerate(kept, start=1)]
    return torch.stack(misses).mean()


def class_distillation(logits: Tensor, teacher_logits: Tensor) -> Tensor:
    """The divergence of the teacher's distribution over classes from the student's; both logits (B, K)."""
    student, teacher = (each.float().log_softmax(dim=-1) for each in (logits, teacher_logits))
    return F.kl_div(student, teacher, log_target=True, reduction="batchmean")


def token_distillation(tokens: Tensor, teacher_tokens: Tensor, kept: Tensor, logits: bool = False) -> Tensor:
    """How far the tokens that are kept to the end are from the teacher's; zero where none is.

    Args:
        tokens, teacher_tokens: (B, N, C), or logits (B, N, K).
        kept: the last selection's mask (B, N).
        logits: compare distributions over classes (LV-ViT), not features (DeiT).
    """
    chosen = kept.detach() > 0.5
    if not chosen.any():
        return tokens.sum() * 0.0
    student, teacher = tokens[chosen].float(), teacher_tokens[chosen].float()
    return class_distillation(student, teacher) if logits else F.mse_loss(student, teacher)
