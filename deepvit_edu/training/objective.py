"""What a step minimises: images mixed and erased, their targets with them, and the authors' additions to the loss."""

import math
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from timm.data import Mixup
from timm.data.random_erasing import RandomErasing
from torch import Tensor, nn

from ..augment import mixed
from ..checkpoints import load_model, official_model
from ..data import ImageSet
from ..labels import smooth, soft_targets, token_labeling_loss
from ..map_penalty import collected_maps, map_likeness
from ..nn.mix_token import Box, mix_class_targets, random_box
from ..nn.model import VisionTransformer, ViTConfig
from ..nn.sparse import class_logits
from ..tensors import is_safetensors
from ..token_losses import Answer, answer, class_distillation, ratio_loss, token_distillation
from .batches import Batch
from .image_files import Files
from .recipe import Recipe


class TrainingModel(nn.Module):
    """The model as training calls it: with whatever else than the classes' logits the recipe's loss is made of."""

    def __init__(self, model: VisionTransformer, recipe: Recipe) -> None:
        super().__init__()
        self.model, self.dense, self.two_heads = model, bool(recipe.token_weight), bool(recipe.class_head_weight)
        self.tokens_too = bool(recipe.ratio_weight or recipe.teacher)

    def forward(self, images: Tensor, box: Box | None = None) -> Tensor | tuple:
        """Images (B, 3, S, S) to logits (B, K).

        With token labels, to those and the tokens' logits (B, N, K); where masks or a teacher count, to an `Answer`;
        with Evo-ViT's second head, to the logits of both.
        """
        if self.dense:
            return self.model.forward_dense(images, box)
        if self.tokens_too:
            return answer(self.model, images)
        return class_logits(self.model, images) if self.two_heads else self.model(images)


def read_teacher(recipe: Recipe, student: ViTConfig) -> tuple[VisionTransformer, dict]:
    """The trained model that a recipe names as teacher, in eval mode, and what is known of the images that it learned.

    A file of ours knows its model. An authors' is read as `recipe.teacher_model`, at the student's image size, without
    a selection: a teacher keeps all its tokens.

    Raises:
        FileNotFoundError, ValueError: for a file that cannot be read or teach; the message says why.
    """
    path, name = Path(recipe.teacher), recipe.teacher_model
    file = path / "model.safetensors" if path.is_dir() else path
    if is_safetensors(file):
        if name:
            raise ValueError(f"the teacher {file} knows its model; leave out teacher_model")
        return load_model(file)
    if not name:
        raise ValueError(
            f"say which model the teacher {file} is: set teacher_model to lvvit_s, say, or for DeiT-S to "
            "dynamicvit_deit_s, which is DeiT-S with a selection (`deepvit-edu models` lists all)"
        )
    try:
        teacher = official_model(file, name, img_size=student.img_size, selection="none")
    except ValueError as error:
        raise ValueError(
            f"{file} cannot teach as {name} that keeps all tokens: {error}; only the Vision "
            "Transformers that `deepvit-edu models` lists can, since a teacher's tokens are compared with the student's"
        ) from error
    return teacher, {key: teacher.default_cfg[key] for key in ("mean", "std")}


def check_teacher(recipe: Recipe, model: VisionTransformer, images: ImageSet | Files) -> None:
    """ValueError where a teacher's file says that it knows other classes, or images that were normalised otherwise."""
    _, about = read_teacher(recipe, model.config)
    for name in ("classes", "mean", "std"):
        own, stored = list(getattr(images, name)), list(about.get(name) or getattr(images, name))
        if len(own) != len(stored) or not all(map(_are_same, own, stored)):
            raise ValueError(
                f"{recipe.teacher} cannot teach this model: it was trained with the {name} {stored}, and the images "
                f"have {own}; train it on the same images"
            )


def _are_same(one: str | float, other: str | float) -> bool:
    return one == other if isinstance(one, str) else math.isclose(one, other, rel_tol=1e-4)


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
        self.teacher = self._read_teacher(device)

    def _read_teacher(self, device: torch.device) -> VisionTransformer | None:
        if not self.recipe.teacher:
            return None
        teacher, model = read_teacher(self.recipe, self.model.config)[0], self.model
        sizes = [
            (each.config.img_size, each.patch_embed.num_tokens, each.num_classes, each.num_features)
            for each in (teacher, model)
        ]
        if sizes[0] != sizes[1] or (teacher.dense_head is None) != (model.dense_head is None) or teacher.selection:
            raise ValueError(
                f"{self.recipe.teacher} cannot teach this model: it must have the same image size, tokens, classes, "
                "width and heads, and drop none of its tokens"
            )
        return teacher.to(device).requires_grad_(False)

    def begin_step(self, epoch: int) -> None:
        """Sets what changes from epoch to epoch: in its first epochs Evo-ViT may select before every block."""
        config, selection = self.model.config, self.model.selection
        if selection is not None and self.recipe.every_block_epochs:
            every = tuple(range(min(config.selection_before), config.depth))
            selection.before = every if epoch < self.recipe.every_block_epochs else config.selection_before

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
            loss = self._loss(output, class_targets, token_targets) + self._of_dropped_tokens(output, images)
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
        share, logits = self.recipe.class_head_weight, output
        if isinstance(output, Answer):
            logits = output.logits
        elif share:
            logits, second = output
            of_second = F.cross_entropy(second.float(), class_targets, label_smoothing=smoothing)
        loss = F.cross_entropy(logits.float(), class_targets, label_smoothing=smoothing)
        return (1 - share) * loss + share * of_second if share else loss

    def _of_dropped_tokens(self, output: Tensor | tuple, images: Tensor) -> Tensor | float:
        """What the masks and the teacher add to the loss."""
        recipe, loss = self.recipe, 0.0
        if not isinstance(output, Answer):
            return loss
        if recipe.ratio_weight:
            loss = loss + recipe.ratio_weight * ratio_loss(output.kept, self.model.config.keep_ratio)
        if self.teacher is None:
            return loss
        with torch.no_grad():
            taught = answer(self.teacher, images)
        if recipe.class_distillation:
            loss = loss + recipe.class_distillation * class_distillation(output.logits, taught.logits)
        if recipe.token_distillation:
            kept = output.kept[-1] if output.kept else torch.ones_like(output.tokens[..., 0])
            dense = self.teacher.dense_head is not None
            loss = loss + recipe.token_distillation * token_distillation(output.tokens, taught.tokens, kept, dense)
        return loss
