"""Learning rates, step by step."""

from collections.abc import Callable

import torch
from timm.scheduler import CosineLRScheduler
from timm.scheduler.scheduler import Scheduler
from torch import nn

from .recipe import Recipe

FALL = 0.2
"""The last part of a constant schedule, in which the learning rate falls."""


class ConstantThenFalling(Scheduler):
    """A learning rate that rises over the warm-up, stays, and falls linearly over the last fifth of the steps.

    Args:
        optimizer: its learning rates are the highest.
        num_steps: steps of the whole run.
        warmup: steps in which the rate rises.
        lowest: the learning rate at the end.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, num_steps: int, warmup: int, lowest: float) -> None:
        super().__init__(optimizer, "lr", t_in_epochs=False)
        self.num_steps, self.warmup, self.lowest = num_steps, warmup, lowest

    def _get_lr(self, t: int) -> list[float]:
        rising = (t + 1) / (self.warmup + 1)
        falling = (self.num_steps - t) / max(FALL * self.num_steps, 1)
        return [max(rate * min(rising, 1.0, falling), min(self.lowest, rate)) for rate in self.base_values]


def make_schedule(optimizer: torch.optim.Optimizer, recipe: Recipe, steps_per_epoch: int) -> Callable[[int], None]:
    """A function that sets the learning rates of a step, given its number."""
    if recipe.schedule == "cosine-by-epoch":
        by_epoch = _cosine_by_epoch(optimizer, recipe)
        return lambda step: by_epoch.step(step // steps_per_epoch)
    num_steps = recipe.epochs * steps_per_epoch
    warmup = min(round(recipe.warmup_epochs * steps_per_epoch), num_steps // 2)
    if recipe.schedule == "constant":
        return ConstantThenFalling(optimizer, num_steps, warmup, recipe.min_learning_rate).step_update
    return CosineLRScheduler(
        optimizer,
        t_initial=max(num_steps - warmup, 1),
        lr_min=recipe.min_learning_rate,
        warmup_t=warmup,
        warmup_lr_init=recipe.highest_rate / max(warmup, 1),
        warmup_prefix=True,  # the cosine begins where the warm-up ends
        t_in_epochs=False,
    ).step_update


def _cosine_by_epoch(optimizer: torch.optim.Optimizer, recipe: Recipe) -> CosineLRScheduler:
    """As in timm's script of 2021: the rate changes between epochs, and the warm-up hides the cosine's start."""
    return CosineLRScheduler(
        optimizer,
        t_initial=recipe.epochs,
        lr_min=recipe.min_learning_rate,
        warmup_t=recipe.warmup_epochs,
        warmup_lr_init=recipe.warmup_learning_rate,
    )


def slow_backbone(optimizer: torch.optim.Optimizer, model: nn.Module, recipe: Recipe) -> None:
    """Divides an optimizer's groups where the backbone learns more slowly than what selects tokens.

    DynamicViT's optimizer has class token and positions in no group at all: they do not learn.
    """
    if recipe.backbone_rate == 1 and not recipe.frozen_epochs:
        return
    selecting = {id(parameter) for parameter in model.selection.parameters()}
    fixed = {id(model.cls_token), id(model.pos_embed)}
    for group in list(optimizer.param_groups):
        parameters = group["params"]
        group["params"] = [each for each in parameters if id(each) in selecting]
        options = {key: value for key, value in group.items() if key != "params"}
        backbone = [each for each in parameters if id(each) not in selecting | fixed]
        optimizer.add_param_group({**options, "params": backbone, "backbone": True})


def set_backbone_rate(optimizer: torch.optim.Optimizer, recipe: Recipe, epoch: int) -> None:
    """Sets the factor on the backbone's learning rates in an epoch; the schedule multiplies by it (timm's lr_scale)."""
    for group in optimizer.param_groups:
        if group.get("backbone"):
            group["lr_scale"] = 0.0 if epoch < recipe.frozen_epochs else recipe.backbone_rate
