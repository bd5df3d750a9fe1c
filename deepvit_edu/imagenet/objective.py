"""What a step minimises: images mixed and erased, their targets with them, and the authors' additions to the loss."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from timm.data import Mixup
from timm.data.random_erasing import RandomErasing
from torch import Tensor, nn

from ..augment import mixed
from ..labels import Views, mix_class_targets, random_box, smooth, soft_targets, token_labeling_loss
from ..map_penalty import collected_maps, map_likeness
from ..nn.model import VisionTransformer
from ..nn.tokens import Box
from .data import Targets
from .recipe import ImageNetRecipe


class Learner(nn.Module):
    """The model as training calls it: with the logits of every token where these are trained too."""

    def __init__(self, model: VisionTransformer, dense: bool) -> None:
        super().__init__()
        self.model, self.dense = model, dense

    def forward(self, images: Tensor, box: Box | None = None) -> Tensor | tuple[Tensor, Tensor]:
        """Images (B, 3, S, S) to logits (B, K), and with them those of the tokens (B, N, K) where it is dense."""
        return self.model.forward_dense(images, box) if self.dense else self.model(images)


class Objective:
    """The loss of a batch, by a recipe; every random number is drawn here.

    Args:
        recipe: for smoothing, mixing, erasing, the regulariser and token labeling.
        model: whose maps the regulariser reads.
        forward: the model's `Learner`, perhaps compiled, or wrapped for several processes.
    """

    def __init__(self, recipe: ImageNetRecipe, model: VisionTransformer, forward: Callable) -> None:
        self.recipe, self.model, self.forward = recipe, model, forward
        self.grid_size = model.patch_embed.grid_size
        self.mixup = None
        if recipe.mixup or recipe.cutmix:
            switch = recipe.mixup_switch
            self.mixup = Mixup(recipe.mixup, recipe.cutmix, switch_prob=switch, label_smoothing=0.0, num_classes=2)

    def __call__(self, images: Tensor, targets: Targets) -> Tensor:
        """The mean loss of images (B, 3, S, S), which are changed, with their targets."""
        recipe = self.recipe
        class_targets, token_targets = self.distributions(targets)
        if self.mixup:
            images, share = mixed(self.mixup, images)
            class_targets, token_targets = (
                None if t is None else share * t + (1 - share) * t.flip(0) for t in (class_targets, token_targets)
            )
        if recipe.erase:
            images = RandomErasing(recipe.erase, mode="pixel", device=images.device)(images)
        if recipe.channels_last:
            images = images.contiguous(memory_format=torch.channels_last)
        if recipe.token_weight:
            return self._token_loss(images, class_targets, token_targets)
        with collected_maps(self.model if recipe.map_penalty else None) as maps:
            loss = F.cross_entropy(self.forward(images).float(), class_targets)
        if maps:
            loss = loss + recipe.map_penalty * map_likeness(maps[: (recipe.map_penalty_pairs or len(maps)) + 1])
        return loss

    def distributions(self, targets: Targets) -> tuple[Tensor, Tensor | None]:
        """Smoothed distributions over the classes: (B, K), and of every token (B, N, K) where these are trained."""
        classes, smoothing = self.recipe.num_classes, self.recipe.label_smoothing
        if self.recipe.token_weight:
            views = Views(targets.crops, targets.mirrored)
            return soft_targets(targets.label_maps, classes, self.grid_size, views, smoothing)
        return smooth(F.one_hot(targets.labels, classes), smoothing), None

    def _token_loss(self, images: Tensor, class_targets: Tensor, token_targets: Tensor) -> Tensor:
        box = random_box(self.grid_size) if self.recipe.mix_token else None
        class_logits, token_logits = self.forward(images, box)
        if box is not None:
            class_targets = mix_class_targets(class_targets, box, self.grid_size)
        weight = self.recipe.token_weight
        return token_labeling_loss(class_logits, token_logits, class_targets, token_targets, token_weight=weight)
