"""The training loop: one recipe, resumable to the same numbers, one record at the end.

All randomness of a step follows from the seed and the step's number, so that a run that was cut continues as if it
had not been, wherever it was cut.
"""

import hashlib
import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from timm.data import Mixup
from timm.data.random_erasing import RandomErasing
from timm.optim import create_optimizer_v2
from timm.scheduler import CosineLRScheduler
from timm.scheduler.scheduler import Scheduler
from timm.utils import ModelEmaV3, random_seed
from torch import Tensor, nn
from torch.optim.swa_utils import update_bn
from tqdm.auto import tqdm

from . import records
from .augment import mixed, rand_augment, random_crop, random_flip
from .checkpoints import save_model
from .data import ImageSet
from .devices import autocast, check_precision, pick_device, pick_precision
from .files import atomic_path
from .labels import Views, check_label_maps, random_views, smooth, soft_targets, take_views, token_labeling_loss
from .map_penalty import collected_maps, map_likeness
from .nn.model import VisionTransformer
from .old_options import current_options
from .options import check_options, option
from .signals import stop_requests

TIERS = ("cpu", "t4", "full")
SCHEDULES = ("cosine", "constant")
FALL = 0.2
"""The last part of a constant schedule, in which the learning rate falls."""
RECALIBRATION_STEPS = 20
"""Batches from which the averaged model's BatchNorm takes its statistics."""


def tier() -> str:
    """The reader's tier: `DEEPVIT_EDU_TIER`, or "cpu"; ValueError for another word."""
    name = os.environ.get("DEEPVIT_EDU_TIER", "cpu")
    if name not in TIERS:
        raise ValueError(f"DEEPVIT_EDU_TIER is '{name}'; set it to one of {', '.join(TIERS)}")
    return name


@dataclass(frozen=True)
class Recipe:
    """How to train. Learning rates are per step of `batch_size` images, used as given.

    Raises:
        ValueError: when a number is out of its range.
    """

    epochs: int = option(20, "passes over the training images", at_least=1)
    batch_size: int = option(128, "images a step", at_least=1)
    learning_rate: float = option(1e-3, "highest learning rate, after the warm-up", at_least=0)
    min_learning_rate: float = option(1e-5, "learning rate at the end of the schedule", at_least=0)
    weight_decay: float = option(0.05, "of AdamW; none on biases, norms, positions and class token", at_least=0)
    warmup_epochs: float = option(1.0, "epochs in which the learning rate rises; at most half of them", at_least=0)
    schedule: str = option(
        "cosine", "of the learning rate: cosine, or constant, of which the last fifth falls", choices=SCHEDULES
    )
    evaluate_every: int = option(0, "images between two evaluations; 0 for one after each epoch", at_least=0)
    label_smoothing: float = option(0.1, "part of the target that is spread over all classes", at_least=0, below=1)
    clip_grad: float = option(1.0, "largest norm of the gradient; 0 for no limit", at_least=0)
    crop_padding: int = option(4, "pixels by which images are shifted at most", at_least=0)
    flip: float = option(0.5, "probability with which an image is mirrored", at_least=0, at_most=1)
    rand_augment: int = option(0, "operations of RandAugment an image; 0 for none", at_least=0)
    rand_magnitude: int = option(9, "strength of these operations, 0 to 30", at_least=0, at_most=30)
    mixup: float = option(0.0, "alpha of Mixup's Beta distribution; 0 for none", at_least=0)
    cutmix: float = option(0.0, "alpha of CutMix's Beta distribution; 0 for none", at_least=0)
    erase: float = option(0.0, "probability of random erasing", at_least=0, below=1)
    smallest_crop: float = option(
        0.0, "smallest part of the image's area in a random crop; 0 for shifts instead", at_least=0, at_most=1
    )
    token_weight: float = option(0.0, "weight of the patch tokens in the loss (token labeling); 0 for none", at_least=0)
    map_penalty: float = option(
        0.0, "weight of the similarity of neighbouring blocks' maps in the loss; 0 for none", at_least=0
    )
    map_penalty_pairs: int = option(0, "pairs of blocks that it takes, from the first on; 0 for all", at_least=0)
    drop_path: float = option(
        0.0, "stochastic depth: the probability in the last block; 0 for what the model has", at_least=0, below=1
    )
    ema_decay: float = option(
        0.0, "average the weights with this decay and evaluate the average; 0 for none", at_least=0, below=1
    )
    precision: str = option("auto", "float32, bfloat16, float16, or auto: what the device does natively")
    compile: bool = option(False, "compile the model (torch.compile)")
    seed: int = option(0, "of the images' order and of all augmentation", at_least=0)

    def __post_init__(self) -> None:
        check_options(self)
        check_precision(self.precision)
        if self.compile and self.map_penalty:
            raise ValueError("map_penalty reads the maps, which a compiled model does not show; set compile to false")
        if self.token_weight and not self.smallest_crop:
            raise ValueError("token labels are cropped with their images; set smallest_crop, too, to 0.5 for instance")
        if self.evaluate_every % self.batch_size:
            raise ValueError(
                f"evaluate_every is {self.evaluate_every} images, which no number of batches of {self.batch_size} "
                "makes; choose a multiple of batch_size"
            )


class NonFiniteLossError(FloatingPointError):
    """Training met a loss that is not a number, or infinite."""


class Interrupted(KeyboardInterrupt):
    """Training was asked to stop, and did so between two steps."""


@torch.no_grad()
def evaluate(
    model: nn.Module, dataset: ImageSet, batch_size: int = 500, device: str | torch.device | None = None
) -> dict[str, float]:
    """Mean cross-entropy and accuracy (a fraction) of a model on a data set, in float32 and eval mode."""
    if not len(dataset):
        raise ValueError(f"{dataset.name} has no images to evaluate on; choose more")
    if batch_size < 1:
        raise ValueError(f"batch_size is {batch_size}; it must be at least 1")
    device = next(model.parameters()).device if device is None else pick_device(device)
    was_training = model.training
    model.to(device).eval()
    loss, correct = 0.0, 0
    for start in range(0, len(dataset), batch_size):
        images = dataset.normalise(dataset.images[start : start + batch_size].to(device))
        labels = dataset.labels[start : start + batch_size].to(device)
        logits = model(images)
        loss += F.cross_entropy(logits, labels, reduction="sum").item()
        correct += (logits.argmax(dim=1) == labels).sum().item()
    model.train(was_training)
    return {"loss": loss / len(dataset), "accuracy": correct / len(dataset)}


def train(
    model: VisionTransformer,
    train_set: ImageSet,
    test_set: ImageSet,
    recipe: Recipe | None = None,
    *,
    name: str = "custom",
    out: str | Path | None = None,
    resume: bool = False,
    device: str | torch.device | None = None,
    progress: bool | None = None,
    max_seconds: float | None = None,
    after_epoch: Callable[[nn.Module], object] | None = None,
    label_maps: Tensor | None = None,
) -> records.Record:
    """Trains a model in place and returns the run's record.

    The record's accuracy is the last epoch's: no epoch is picked on the test set.

    Args:
        model: the model; it is moved to the device, and holds the trained weights afterwards.
        train_set: images to learn from.
        test_set: images to measure on after each epoch.
        recipe: how to train; the default recipe unless given.
        name: the model's name for the record.
        out: folder for `checkpoint.pt`, and at the end `record.json` and `model.safetensors`; none unless given.
        resume: continue from the folder's checkpoint, where there is one.
        device: where to train; the best there is unless given.
        progress: show a progress bar; yes unless given or `DEEPVIT_EDU_PROGRESS=0`.
        max_seconds: stop after so long, as if interrupted.
        after_epoch: called with the model that is measured after each epoch, to look at it.
        label_maps: what `labels.make_label_maps` made of the training images, as the patch tokens' targets where the
            recipe has a `token_weight`; every token's target is the image's label unless given.

    Raises:
        ValueError: when model, data, recipe and label maps do not fit each other.
        FileExistsError: when `out` holds a run and `resume` is off.
        NonFiniteLossError: at the first loss that is not finite; the last good checkpoint stays.
        Interrupted: after Ctrl-C, SIGTERM or `max_seconds`; the checkpoint stands at the very step.
    """
    out, device, recipe = Path(out) if out else None, pick_device(device), recipe or Recipe()
    run = Run(model, train_set, test_set, recipe, name, out, device, label_maps)
    if run.out and run.checkpoint_path.exists():
        if not resume:
            raise FileExistsError(f"{run.out} already holds a run; resume it, or choose another folder")
        run.load_checkpoint()
    if progress is None:
        progress = os.environ.get("DEEPVIT_EDU_PROGRESS", "1") != "0"
    gpus = [run.device] if run.device.type == "cuda" else []
    with torch.random.fork_rng(devices=gpus), stop_requests(max_seconds) as stop_requested:
        run.loop(stop_requested, progress, after_epoch)
    return run.finish()


@dataclass
class _Progress:
    """What a checkpoint keeps besides tensors: where the run stands and what it has measured."""

    step: int = 0
    seconds: float = 0.0  # spent in training steps
    total_seconds: float = 0.0  # with evaluation
    started: str = field(default_factory=lambda: datetime.now(timezone.utc).isoformat(timespec="seconds"))
    code: list[list[str]] = field(default_factory=list)  # [commit, hash of the package] for each code that took part
    precisions: list[str] = field(default_factory=list)  # number formats that took part
    epoch_losses: list[float] = field(default_factory=list)  # of the steps of the epoch under way
    curves: dict[str, list[float]] = field(
        default_factory=lambda: {
            key: []
            for key in ("epoch", "images", "train_loss", "test_loss", "test_accuracy", "learning_rate", "seconds")
        }
    )


class Batch(NamedTuple):
    """Normalised images (B, 3, H, W), labels (B,) or distributions (B, K), and the tokens' distributions, if any."""

    images: Tensor
    targets: Tensor
    token_targets: Tensor | None  # (B, N, K)


class Resumable:
    """What training on small sets and on full ImageNet share: a checkpoint's parts, and where the numbers come from.

    A run has `model`, `optimizer`, `scaler`, `ema` (or None), `dtype`, and `progress`, a dataclass that knows the codes
    and number formats that took part (`code`, `precisions`) and when it was `started`.
    """

    def state(self) -> dict[str, Any]:
        """Everything that changes while the run goes on, for a checkpoint."""
        return {
            "progress": asdict(self.progress),
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "ema": self.ema.module.state_dict() if self.ema else None,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Puts back what `state` gave; on a device with another "auto" precision the run goes on in that one."""
        self.progress = type(self.progress)(**state["progress"])
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        if state["scaler"]:  # empty where it had nothing to scale
            self.scaler.load_state_dict(state["scaler"])
        if self.ema:
            self.ema.module.load_state_dict(state["ema"])

    def note_computing(self) -> None:
        """Adds the code and the number format that compute from here on to those of earlier starts."""
        progress, code, precision = self.progress, records.running_code(), self.number_format()
        if code not in progress.code:
            progress.code.append(code)
        if precision not in progress.precisions:
            progress.precisions.append(precision)

    def number_format(self) -> str:
        """What this start computes in, such as "bfloat16"."""
        return str(self.dtype).removeprefix("torch.")

    def provenance(self) -> dict[str, Any]:
        """The entries of a record that say what computed it."""
        return {
            "precision": ", then ".join(self.progress.precisions),
            "versions": records.describe_versions(),
            "commit": ", then ".join(commit for commit, _ in self.progress.code),
            "code_hash": ", then ".join(code for _, code in self.progress.code),
            "started": self.progress.started,
        }


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


class Run(Resumable):
    """A run under way: everything that a checkpoint has to keep, and how a step is made."""

    def __init__(
        self,
        model: VisionTransformer,
        train_set: ImageSet,
        test_set: ImageSet,
        recipe: Recipe,
        name: str,
        out: Path | None,
        device: torch.device,
        label_maps: Tensor | None = None,
    ) -> None:
        _check_fit(model, train_set, test_set, recipe, label_maps)
        self.recipe, self.name, self.out, self.device = recipe, name, out, device
        self.model = model.to(device)
        self.train_set, self.test_set = train_set.to(device), test_set.to(device)
        self.label_maps = None if label_maps is None else label_maps.to(device)
        self.label_maps_hash = None if label_maps is None else tensor_hash(label_maps)
        self.steps_per_epoch = len(train_set) // recipe.batch_size
        self.num_steps = recipe.epochs * self.steps_per_epoch
        self.dtype = pick_precision(recipe.precision, device)
        self.scaler = torch.amp.GradScaler(device.type, enabled=self.dtype == torch.float16)
        self.optimizer = create_optimizer_v2(
            model, opt="adamw", lr=recipe.learning_rate, weight_decay=recipe.weight_decay
        )
        self.scheduler = self._make_scheduler()
        self.ema = ModelEmaV3(model, decay=recipe.ema_decay, use_warmup=True) if recipe.ema_decay else None
        forward = model.forward_dense if recipe.token_weight else model
        self.forward = torch.compile(forward) if recipe.compile else forward
        self.mixup = self._make_mixup()
        self.erase = RandomErasing(recipe.erase, mode="pixel", device=device) if recipe.erase else nn.Identity()
        self.progress = _Progress()
        self._order: tuple[int, Tensor] | None = None

    def _make_scheduler(self) -> Scheduler:
        warmup = min(round(self.recipe.warmup_epochs * self.steps_per_epoch), self.num_steps // 2)
        if self.recipe.schedule == "constant":
            return ConstantThenFalling(self.optimizer, self.num_steps, warmup, self.recipe.min_learning_rate)
        return CosineLRScheduler(
            self.optimizer,
            t_initial=max(self.num_steps - warmup, 1),
            lr_min=self.recipe.min_learning_rate,
            warmup_t=warmup,
            warmup_lr_init=self.recipe.learning_rate / max(warmup, 1),
            warmup_prefix=True,  # the cosine begins where the warm-up ends
            t_in_epochs=False,
        )

    def _make_mixup(self) -> Mixup | None:
        r = self.recipe
        if not (r.mixup or r.cutmix):
            return None
        if r.token_weight:  # all targets are mixed here, by the share that `mixed` reports
            return Mixup(r.mixup, r.cutmix, label_smoothing=0.0, num_classes=2)
        classes = self.model.config.num_classes
        return Mixup(r.mixup, r.cutmix, label_smoothing=r.label_smoothing, num_classes=classes)

    @property
    def checkpoint_path(self) -> Path:
        """Where the state is kept; only for a run with a folder."""
        return self.out / "checkpoint.pt"

    @property
    def evaluated_model(self) -> nn.Module:
        """The model that is measured: the moving average where there is one."""
        return self.ema.module if self.ema else self.model

    def loop(
        self,
        stop_requested: Callable[[], bool],
        show: bool,
        after_epoch: Callable[[nn.Module], object] | None = None,
    ) -> None:
        """From where the run stands to its end, or to a request to stop."""
        p = self.progress
        self.note_computing()
        bar = tqdm(total=self.num_steps, initial=p.step, disable=not show, unit="step", desc=self.name)
        # A look at the loss waits for the device, so a GPU is asked less often.
        look_every = 1 if self.device.type == "cpu" else 20
        pending: list[Tensor] = []
        clock = time.perf_counter()
        with bar:
            while p.step < self.num_steps:
                pending.append(self.train_step())
                p.step += 1
                bar.update()
                measure_now, stop = self._is_measured_after(p.step), stop_requested()
                if len(pending) >= look_every or measure_now or stop:
                    self._take_losses(pending)
                    elapsed, clock = time.perf_counter() - clock, time.perf_counter()
                    p.seconds += elapsed
                    p.total_seconds += elapsed
                    bar.set_postfix(self._postfix(), refresh=False)
                if measure_now:
                    self._measure()
                    if after_epoch:
                        after_epoch(self.evaluated_model)
                    p.total_seconds += time.perf_counter() - clock
                    clock = time.perf_counter()
                if self.out and (measure_now or stop):
                    self.save_checkpoint()
                if stop and p.step < self.num_steps:
                    raise Interrupted(self._stop_message())

    def _is_measured_after(self, step: int) -> bool:
        """Whether an evaluation follows after so many steps: as often as the recipe says, and at the end."""
        if not self.recipe.evaluate_every:
            return step % self.steps_per_epoch == 0
        return step * self.recipe.batch_size % self.recipe.evaluate_every == 0 or step == self.num_steps

    def train_step(self) -> Tensor:
        """One step of the optimizer on the batch that belongs to it; returns the loss, still on the device."""
        recipe, step = self.recipe, self.progress.step
        batch = self._batch(step)
        self.scheduler.step_update(step)
        self.model.train()
        with autocast(self.device, self.dtype), collected_maps(self.model if recipe.map_penalty else None) as maps:
            loss = self._loss(self.forward(batch.images), batch)
            if maps:
                pairs = recipe.map_penalty_pairs or len(maps)
                loss = loss + recipe.map_penalty * map_likeness(maps[: pairs + 1])
        self.optimizer.zero_grad(set_to_none=True)
        self.scaler.scale(loss).backward()
        if recipe.clip_grad:
            self.scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self.model.parameters(), recipe.clip_grad)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        if self.ema:
            self.ema.update(self.model, step=step)
        return loss.detach()

    def _batch(self, step: int) -> Batch:
        """The images, augmented and normalised, and the targets of a step: a function of seed and step alone."""
        r = self.recipe
        epoch, position = divmod(step, self.steps_per_epoch)
        order = self._epoch_order(epoch)
        chosen = order[position * r.batch_size : (position + 1) * r.batch_size].to(self.device)
        random_seed(seed_of(r.seed, step, 1))  # timm's: of torch, NumPy and `random`
        images, labels = self.train_set.batch(chosen)
        views = random_views(len(images), r.smallest_crop, r.flip) if r.smallest_crop else None
        if views is None:
            images = random_flip(random_crop(images, r.crop_padding), r.flip)
        images = self.train_set.normalise(rand_augment(images, r.rand_augment, r.rand_magnitude))
        if views is not None:
            images = take_views(images, views, images.shape[-1])
        if r.token_weight:
            targets = self._distributions(labels), self._token_targets(chosen, labels, views)
            if self.mixup:
                images, share = mixed(self.mixup, images)
                targets = (share * each + (1 - share) * each.flip(0) for each in targets)
            return Batch(self.erase(images), *targets)
        images, targets = self.mixup(images, labels) if self.mixup else (images, labels)
        return Batch(self.erase(images), targets, None)

    def _token_targets(self, chosen: Tensor, labels: Tensor, views: Views) -> Tensor:
        """The targets (B, N, K) of the patch tokens of the chosen images, as they are viewed."""
        classes, patches = self.model.config.num_classes, self.model.patch_embed
        if self.label_maps is None:
            return self._distributions(labels)[:, None].expand(-1, patches.num_tokens, -1)
        maps = self.label_maps.index_select(0, chosen)
        return soft_targets(maps, classes, patches.grid_size, views, self.recipe.label_smoothing)[1]

    def _distributions(self, labels: Tensor) -> Tensor:
        """Labels (B,) as smoothed distributions (B, K)."""
        return smooth(F.one_hot(labels, self.model.config.num_classes).float(), self.recipe.label_smoothing)

    def _epoch_order(self, epoch: int) -> Tensor:
        if self._order is None or self._order[0] != epoch:
            generator = torch.Generator().manual_seed(seed_of(self.recipe.seed, epoch))
            self._order = (epoch, self.train_set.order(generator))
        return self._order[1]

    def _loss(self, output: Tensor | tuple[Tensor, Tensor], batch: Batch) -> Tensor:
        if batch.token_targets is not None:
            weight = self.recipe.token_weight
            return token_labeling_loss(*output, batch.targets, batch.token_targets, token_weight=weight)
        # Mixup's targets are distributions, smoothed already.
        smoothing = 0.0 if self.mixup else self.recipe.label_smoothing
        return F.cross_entropy(output.float(), batch.targets, label_smoothing=smoothing)

    def _take_losses(self, pending: list[Tensor]) -> None:
        losses = torch.stack(pending).tolist()
        pending.clear()
        first_step = self.progress.step - len(losses)
        for offset, loss in enumerate(losses):
            if not np.isfinite(loss):
                raise NonFiniteLossError(self._non_finite_message(loss, first_step + offset))
        self.progress.epoch_losses.extend(losses)

    def _non_finite_message(self, loss: float, step: int) -> str:
        kept = self.out and self.checkpoint_path.exists()
        return (
            f"the loss became {loss} at step {step} (epoch {step // self.steps_per_epoch + 1}); lower the learning "
            f"rate (now {self.recipe.learning_rate:g}), lengthen the warm-up, or train in precision float32"
            + (f"; the last good state is in {self.checkpoint_path}" if kept else "")
        )

    def _stop_message(self) -> str:
        kept = f"resume from {self.checkpoint_path}" if self.out else "nothing was kept, since no folder was given"
        return f"stopped after step {self.progress.step} of {self.num_steps}; {kept}"

    def _postfix(self) -> dict[str, str]:
        p = self.progress
        recent = p.epoch_losses[-50:]
        shown = {"loss": f"{sum(recent) / len(recent):.3f}"}
        if p.curves["test_accuracy"]:
            shown["test accuracy"] = f"{p.curves['test_accuracy'][-1]:.1%}"
        return {**shown, "images/s": f"{p.step * self.recipe.batch_size / p.seconds:.0f}"}

    def _measure(self) -> None:
        """Evaluates the model, and adds a row to the curves."""
        p = self.progress
        if self.ema:
            self._recalibrate()
        # Without gradients four times as many images fit, so that what trains can be measured.
        measured = evaluate(self.evaluated_model, self.test_set, min(500, 4 * self.recipe.batch_size))
        if not np.isfinite(measured["loss"]):  # the last step broke the weights
            raise NonFiniteLossError(self._non_finite_message(measured["loss"], p.step - 1))
        row = {
            "epoch": p.step / self.steps_per_epoch if self.recipe.evaluate_every else p.step // self.steps_per_epoch,
            "images": p.step * self.recipe.batch_size,
            "train_loss": sum(p.epoch_losses) / len(p.epoch_losses),
            "test_loss": measured["loss"],
            "test_accuracy": measured["accuracy"],
            "learning_rate": self.optimizer.param_groups[0]["lr"],
            "seconds": p.seconds,
        }
        for key, value in row.items():
            p.curves[key].append(value)
        p.epoch_losses = []

    def _recalibrate(self) -> None:
        """Takes the averaged model's BatchNorm statistics anew: the average of statistics fits no model's maps."""
        steps = range(max(self.progress.step - RECALIBRATION_STEPS, 0), self.progress.step)
        update_bn((self._batch(step).images for step in steps), self.ema.module)

    def _identity(self) -> dict:
        """What must agree before a checkpoint is continued."""
        return {
            "model": asdict(self.model.config),
            "recipe": asdict(self.recipe),
            "data_hash": self.train_set.hash(),
            "test_hash": self.test_set.hash(),
            **({} if self.label_maps is None else {"label_maps": self.label_maps_hash}),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """As `Resumable.restore`; checkpoints from before the curve of images get one."""
        super().restore(state)
        curves = self.progress.curves
        curves.setdefault("images", [e * self.steps_per_epoch * self.recipe.batch_size for e in curves["epoch"]])

    def save_checkpoint(self) -> None:
        """Writes the whole state, atomically."""
        with atomic_path(self.checkpoint_path) as temporary:
            torch.save({"identity": self._identity(), **self.state()}, temporary)

    def load_checkpoint(self) -> None:
        """Continues from the folder's checkpoint; ValueError when it is damaged or belongs to another run."""
        try:
            # Moved from the CPU by what takes it: an optimizer leaves its counters where they are read to.
            state = torch.load(self.checkpoint_path, map_location="cpu", weights_only=True)
            identity = state["identity"]
        except Exception as error:  # torch.load raises many types for a damaged file
            raise ValueError(f"{self.checkpoint_path} cannot be read; delete it to start again") from error
        ours = self._identity()
        # Options may be younger than the checkpoint.
        identity["recipe"] = {**asdict(Recipe()), **current_options(identity["recipe"])}
        for part in ("model", "recipe"):
            for name, value in ours[part].items():
                if identity[part].get(name) != value:
                    raise ValueError(
                        f"{self.checkpoint_path} was made with {name} {identity[part].get(name)}, not {value}; "
                        f"resume with the same options, or choose another folder"
                    )
        if identity != ours:
            raise ValueError(f"{self.checkpoint_path} was made with other images or label maps; choose another folder")
        self.restore(state)

    def finish(self) -> records.Record:
        """The record; with weights and record written where there is a folder."""
        record = self._record()
        if self.ema:
            self.model.load_state_dict(self.ema.module.state_dict())
        self.model.eval()
        if self.out:
            records.save_record(record, self.out / "record.json")
            about = {
                "name": self.name,
                "dataset": self.train_set.name,
                "classes": list(self.train_set.classes),
                "mean": list(self.train_set.mean),
                "std": list(self.train_set.std),
            }
            save_model(self.model, self.out / "model.safetensors", **about)
        return record

    def _record(self) -> records.Record:
        p, curves = self.progress, self.progress.curves
        return records.validate_record(
            {
                "model": self.name,
                "num_parameters": sum(parameter.numel() for parameter in self.model.parameters()),
                "dataset": self.train_set.name,
                "rung": self.train_set.rung,
                "data_hash": self.train_set.hash(),
                "test_data_hash": self.test_set.hash(),
                "train_images": len(self.train_set),
                "test_images": len(self.test_set),
                "seed": self.recipe.seed,
                "epochs": self.recipe.epochs,
                "train_loss": curves["train_loss"][-1],
                "test_loss": curves["test_loss"][-1],
                "test_accuracy": curves["test_accuracy"][-1],
                "curves": curves,
                "seconds": p.total_seconds,
                "images_per_second": p.step * self.recipe.batch_size / p.seconds,
                "hardware": records.describe_hardware(self.device),
                "config": {"model": asdict(self.model.config), "recipe": asdict(self.recipe)},
                **({} if self.label_maps is None else {"label_maps_hash": self.label_maps_hash}),
                **self.provenance(),
            }
        )


def _check_fit(
    model: VisionTransformer, train_set: ImageSet, test_set: ImageSet, recipe: Recipe, label_maps: Tensor | None
) -> None:
    config = model.config
    size = train_set.img_size
    if size != config.img_size:
        raise ValueError(f"the images are {size} pixels wide and the model takes {config.img_size}; give both one size")
    if len(train_set.classes) != config.num_classes:
        raise ValueError(
            f"{train_set.name} has {len(train_set.classes)} classes and the model's head has {config.num_classes}; "
            f"create the model with num_classes={len(train_set.classes)}"
        )
    if list(train_set.classes) != list(test_set.classes):
        raise ValueError("the training and the test images have different classes; use two splits of one data set")
    if not len(test_set):
        raise ValueError("there are no test images; choose more of them")
    if recipe.batch_size > len(train_set):
        raise ValueError(
            f"a batch of {recipe.batch_size} is more than the {len(train_set)} training images; choose a smaller batch"
        )
    if (recipe.mixup or recipe.cutmix) and recipe.batch_size % 2:
        raise ValueError(f"Mixup pairs images, so batch_size {recipe.batch_size} must be even")
    if recipe.drop_path not in (0, config.drop_path_rate):
        raise ValueError(
            f"the recipe has drop_path {recipe.drop_path} and the model drop_path_rate {config.drop_path_rate}; create "
            f"the model with drop_path_rate={recipe.drop_path}"
        )
    if recipe.token_weight and model.dense_head is None:
        raise ValueError("token labels need a head on every token; create the model with dense_head=True")
    if label_maps is not None and not recipe.token_weight:
        raise ValueError("the label maps would not be used; set the recipe's token_weight, to 0.5 for instance")
    if label_maps is not None and len(check_label_maps(label_maps, config.num_classes)) != len(train_set):
        raise ValueError(
            f"there are {len(label_maps)} label maps for {len(train_set)} images; make them of these images"
        )


def tensor_hash(tensor: Tensor) -> str:
    """SHA-256 of a tensor's values."""
    return hashlib.sha256(tensor.cpu().contiguous().numpy().tobytes()).hexdigest()


def seed_of(*numbers: int) -> int:
    """One seed from several numbers, such that neighbours have nothing in common."""
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])
