"""What a step minimises: images mixed and erased, their targets with them, and the authors' additions to the loss."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from timm.data import Mixup
from timm.data.random_erasing import RandomErasing
from torch import Tensor, nn

from ..augment import mixed
from ..labels import smooth, soft_targets, token_labeling_loss
from ..map_penalty import collected_maps, map_likeness
from ..nn.mix_token import Box, mix_class_targets, random_box
from ..nn.model import VisionTransformer
from .batches import Batch
from .recipe import Recipe


class TrainingModel(nn.Module):
    """The model as training calls it: with the logits of every token where these are trained too."""

    def __init__(self, model: VisionTransformer, dense: bool) -> None:
        super().__init__()
        self.model, self.dense = model, dense

    def forward(self, images: Tensor, box: Box | None = None) -> Tensor | tuple[Tensor, Tensor]:
        """Images (B, 3, S, S) to logits (B, K), and with them those of the tokens (B, N, K) where it is dense."""
        return self.model.forward_dense(images, box) if self.dense else self.model(images)


class Objective:
    """The loss of a batch, by a recipe.

    Args:
        recipe: for smoothing, mixing, erasing, the regulariser and token labeling.
        model: whose maps the regulariser reads.
        forward: the model's `TrainingModel`, perhaps compiled, or wrapped for several processes.
        device: where the images are.
    """

    def __init__(self, recipe: Recipe, model: VisionTransformer, forward: Callable, device: torch.device) -> None:
        self.recipe, self.model, self.forward = recipe, model, forward
        self.num_classes, self.patches = model.config.num_classes, model.patch_embed
        self.erase = RandomErasing(recipe.erase, mode="pixel", device=device) if recipe.erase else nn.Identity()
        self.mixup = self._make_mixup()

    def _make_mixup(self) -> Mixup | None:
        r = self.recipe
        if not (r.mixup or r.cutmix):
            return None
        if r.token_weight:  # all targets are mixed here, by the share that `mixed` reports
            how = {"label_smoothing": 0.0, "num_classes": 2}
        else:
            how = {"label_smoothing": r.label_smoothing, "num_classes": self.num_classes}
        return Mixup(r.mixup, r.cutmix, switch_prob=r.mixup_switch, **how)

    def __call__(self, batch: Batch) -> Tensor:
        """The mean loss of a batch; every random number that it takes is drawn here."""
        recipe, box = self.recipe, None
        images, class_targets, token_targets = self.prepare(batch)
        if recipe.mix_token:
            box = random_box(self.patches.grid_size)
            class_targets = mix_class_targets(class_targets, box, self.patches.grid_size)
        with collected_maps(self.model if recipe.map_penalty else None) as maps:
            output = self.forward(images) if box is None else self.forward(images, box)
            loss = self._loss(output, class_targets, token_targets)
            if maps:
                pairs = recipe.map_penalty_pairs or len(maps)
                loss = loss + recipe.map_penalty * map_likeness(maps[: pairs + 1])
        return loss

    def prepare(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor | None]:
        """A batch as the model sees it: images mixed and erased, and the targets of the class and of every token.

        The class targets are labels (B,) or distributions (B, K); those of the tokens (B, N, K), or None where these
        are not trained.
        """
        images, class_targets, token_targets = batch.images, batch.labels, None
        if self.recipe.token_weight or batch.label_maps is not None:
            class_targets, token_targets = self._distributions(batch)
            if not self.recipe.token_weight:  # label maps for the class alone
                token_targets = None
            elif self.mixup:
                images, share = mixed(self.mixup, images)
                class_targets, token_targets = (
                    share * targets + (1 - share) * targets.flip(0) for targets in (class_targets, token_targets)
                )
        elif self.mixup:
            images, class_targets = self.mixup(images, class_targets)
        images = self.erase(images)
        if self.recipe.channels_last:
            images = images.contiguous(memory_format=torch.channels_last)
        return images, class_targets, token_targets

    def _distributions(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Smoothed distributions over the classes, of the images (B, K) and of their patch tokens (B, N, K)."""
        classes, smoothing = self.num_classes, self.recipe.label_smoothing
        labels = smooth(F.one_hot(batch.labels, classes).float(), smoothing)
        if batch.label_maps is None:
            return labels, labels[:, None].expand(-1, self.patches.num_tokens, -1)
        of_class, of_tokens = soft_targets(batch.label_maps, classes, self.patches.grid_size, batch.views, smoothing)
        return of_class if self.recipe.class_from_maps else labels, of_tokens

    def _loss(
        self, output: Tensor | tuple[Tensor, Tensor], class_targets: Tensor, token_targets: Tensor | None
    ) -> Tensor:
        if token_targets is not None:
            weight = self.recipe.token_weight
            return token_labeling_loss(*output, class_targets, token_targets, token_weight=weight)
        # Distributions, from Mixup or from label maps, are smoothed already.
        smoothing = 0.0 if class_targets.is_floating_point() else self.recipe.label_smoothing
        return F.cross_entropy(output.float(), class_targets, label_smoothing=smoothing)
