"""The training loop: one recipe, resumable to the same numbers, one record at the end.

It knows batches, an objective and its processes, and so trains a tiny set in a notebook and all of ImageNet on many
GPUs. All randomness of a step follows from the seed and the step's number: a run that was cut continues as if it had
not been, wherever it was cut.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
import torch
from timm.optim import create_optimizer_v2
from timm.utils import ModelEmaV3, distribute_bn
from torch import Tensor, nn
from torch.optim.swa_utils import update_bn
from tqdm.auto import tqdm

from .. import records
from ..checkpoints import save_model
from ..data import DataError, ImageSet
from ..devices import autocast, pick_device, pick_precision
from ..diagnostics.recording import check_all_tokens
from ..environment import variable
from ..nn.model import VisionTransformer, ViTConfig
from ..nn.sparse import WaitingSelection
from ..old_options import current_identity
from ..options import check_options, option
from ..reading import reason
from ..signals import Interrupted, stop_requests
from .batches import Batch, MemoryBatches
from .checkpoint import CheckpointManager, size_of
from .evaluation import evaluate
from .file_batches import MOST_WORKERS, WORKERS, FileBatches
from .image_files import Files, names_of, preparation_of
from .objective import Objective, TrainingModel, check_teacher
from .pace import SpeedMeter
from .processes import Processes
from .recipe import EXECUTION, Recipe
from .schedule import make_schedule, set_backbone_rate, slow_backbone

RECALIBRATION_STEPS = 20
"""Steps from whose batches the averaged model's BatchNorm takes its statistics."""


class NonFiniteLossError(FloatingPointError):
    """Training met a loss that is not a number, or infinite."""


class TrialEnded(Interrupted):
    """A run has ended as `Settings.stop_after` wanted it."""


@dataclass(frozen=True)
class Settings:
    """Settings of the machine, not of the recipe: they do not change what a model learns."""

    workers: int = option(
        WORKERS,
        "processes that read images from files ahead, for each training process",
        at_least=0,
        at_most=MOST_WORKERS,
    )
    save_minutes: float = option(30.0, "between checkpoints, beside those after each evaluation", at_least=0)
    keep: int = option(2, "checkpoints that stay", at_least=1)
    max_unreadable: int = option(50, "images that cannot be read and are skipped; one more ends the run", at_least=0)
    look_every: int = option(
        0, "steps between two looks at the loss, which wait for the device; 0 for 1 on a CPU, 20 elsewhere", at_least=0
    )
    stop_after: int = option(
        0, "stop after so many steps and write speed.json, to try a recipe out; 0 for a whole run", at_least=0
    )

    def __post_init__(self) -> None:
        check_options(self)


def train(
    model: VisionTransformer,
    train_set: ImageSet | Files,
    test_set: ImageSet | Files,
    recipe: Recipe | None = None,
    *,
    name: str = "custom",
    out: str | Path | None = None,
    resume: bool = False,
    device: str | torch.device | None = None,
    progress: bool | None = None,
    max_seconds: float | None = None,
    after_epoch: Callable[[nn.Module], object] | None = None,
    label_maps: Tensor | str | Path | None = None,
    processes: Processes | None = None,
    settings: Settings | None = None,
) -> records.Record:
    """Trains a model in place and returns the run's record.

    The record's accuracy is the last epoch's: no epoch is picked on the test set.

    Args:
        model: the model; it is moved to the device, and holds the trained weights afterwards.
        train_set: images to learn from, in memory or in files, as the recipe wants them.
        test_set: images to measure on after each epoch.
        recipe: how to train; the default recipe unless given.
        name: the model's name for the record.
        out: folder for checkpoints, and at the end `record.json` and `model.safetensors`; none unless given.
        resume: continue from the folder's newest checkpoint, where there is one.
        device: where to train; the best there is unless given.
        progress: show a progress bar, or lines where images come from files; yes unless given or
            `DEEPVIT_EDU_PROGRESS=0`.
        max_seconds: stop after so long, as if interrupted.
        after_epoch: called with the model that is measured after each evaluation, to look at it.
        label_maps: what `labels.make_label_maps` made of the training images, as the patch tokens' targets where the
            recipe has a `token_weight`, and the class token's where it has `class_from_maps`; the image's label
            unless given. For images from files the folder of their maps.
        processes: those that train together, as `processes.started` gives them; this one alone unless given.
        settings: what belongs to the machine.

    Raises:
        ValueError: when model, data, recipe and label maps do not fit each other.
        FileExistsError: when `out` holds a run and `resume` is off.
        OSError: when the checkpoints will not fit on the disk.
        DataError: when too many images cannot be read.
        NonFiniteLossError: at the first loss that is not finite; the last good checkpoint stays.
        Interrupted: after Ctrl-C, SIGTERM or `max_seconds`; the checkpoint stands at the very step.
    """
    recipe, settings = recipe or Recipe(), settings or Settings()
    processes = processes or Processes(0, 1, pick_device(device))
    if progress is None:
        progress = variable("DEEPVIT_EDU_PROGRESS", "1") != "0"
    batches = make_batches(train_set, test_set, recipe, model, processes, label_maps, settings.workers)
    run = Run(model, batches, recipe, name, Path(out) if out else None, settings, progress)
    run.start(resume)
    gpus = [processes.device] if processes.device.type == "cuda" else []
    alone = processes.count == 1 and recipe.images_from == "memory"
    with torch.random.fork_rng(devices=gpus), stop_requests(max_seconds, once=alone) as stop_requested:
        run.loop(stop_requested, after_epoch)
    return run.finish()


def make_batches(
    train_set: ImageSet | Files,
    test_set: ImageSet | Files,
    recipe: Recipe,
    model: VisionTransformer,
    processes: Processes | None = None,
    label_maps: Tensor | str | Path | None = None,
    workers: int = WORKERS,
) -> MemoryBatches | FileBatches:
    """Batches of the images, from memory or from files; arguments and errors as of `train`."""
    _check_fit(model, train_set, test_set, recipe, label_maps)
    processes = processes or Processes(0, 1, torch.device("cpu"))
    if isinstance(train_set, Files):
        return FileBatches(train_set, test_set, recipe, model, processes, label_maps, workers)
    return MemoryBatches(train_set, test_set, recipe, model, processes, label_maps)


def _check_fit(
    model: VisionTransformer,
    train_set: ImageSet | Files,
    test_set: ImageSet | Files,
    recipe: Recipe,
    label_maps: Tensor | str | Path | None,
) -> None:
    config = model.config
    if isinstance(train_set, Files) != (recipe.images_from == "files"):
        raise ValueError(f"the recipe takes images from {recipe.images_from}, which these are not; set images_from")
    if train_set.num_classes != config.num_classes:
        raise ValueError(
            f"{train_set.name} has {train_set.num_classes} classes and the model's head has {config.num_classes}; "
            f"create the model with num_classes={train_set.num_classes}"
        )
    if list(train_set.classes) != list(test_set.classes):
        raise ValueError("the training and the test images have different classes; use two splits of one data set")
    if not len(test_set):
        raise ValueError("there are no test images; choose more of them")
    if recipe.drop_path not in (0, config.drop_path_rate):
        raise ValueError(
            f"the recipe has drop_path {recipe.drop_path} and the model drop_path_rate {config.drop_path_rate}; create "
            f"the model with drop_path_rate={recipe.drop_path}"
        )
    if recipe.token_weight and model.dense_head is None:
        raise ValueError("token labels need a head on every token; create the model with dense_head=True")
    masks = model.selection is not None and model.selection.attention == "masked"
    if not masks and (recipe.ratio_weight or recipe.frozen_epochs or recipe.backbone_rate < 1):
        raise ValueError(
            "ratio_weight, frozen_epochs and backbone_rate are for models that learn which tokens stay; create the "
            "model with selection='predicted', or set them to 0, 0 and 1"
        )
    if recipe.every_block_epochs and not isinstance(model.selection, WaitingSelection):
        raise ValueError(
            "every_block_epochs is for Evo-ViT's selection; set selection='waiting', or every_block_epochs=0"
        )
    if recipe.map_penalty:
        check_all_tokens(model)
    if recipe.teacher:
        check_teacher(recipe, model, train_set)
    if recipe.class_head_weight and getattr(model.selection, "head_cls", None) is None:
        raise ValueError("class_head_weight is for a second head, which evo_deit models have; set it to 0")
    if label_maps is not None and not (recipe.token_weight or recipe.class_from_maps):
        raise ValueError(
            "the label maps would not be used; set the recipe's token_weight, to 0.5 for instance, or class_from_maps"
        )
    if label_maps is not None and not recipe.token_weight and (recipe.mixup or recipe.cutmix):
        raise ValueError(
            "label maps for the class alone do not go with Mixup and CutMix; set token_weight for those of the tokens, "
            "set mixup and cutmix to 0, or leave the label maps out"
        )


@dataclass
class Progress:
    """What a checkpoint keeps besides tensors: where the run stands and what it has measured."""

    step: int = 0
    seconds: float = 0.0  # spent in training steps
    total_seconds: float = 0.0  # with evaluation
    started: str = field(default_factory=lambda: datetime.now(timezone.utc).isoformat(timespec="seconds"))
    code: list[list[str]] = field(default_factory=list)  # [commit, hash of the package] for each code that took part
    precisions: list[str] = field(default_factory=list)  # number formats that took part
    epoch_losses: list[float] = field(default_factory=list)  # of the steps since the last evaluation
    unreadable: list[str] = field(default_factory=list)  # names of images that could not be read
    curves: dict[str, list[float]] = field(default_factory=lambda: {key: [] for key in CURVES})


CURVES = (
    "epoch", "images", "train_loss", "test_loss", "test_accuracy", "test_top5", "learning_rate", "seconds",
)  # fmt: skip


class Run:
    """A run under way: everything that a checkpoint has to keep, and how a step is made.

    Args:
        model, recipe, name: as of `train`.
        batches: of the images, which know the processes that share them.
        out: the run's folder, if it has one.
        settings: what belongs to the machine.
        show: whether to show progress.
    """

    def __init__(
        self,
        model: VisionTransformer,
        batches: MemoryBatches | FileBatches,
        recipe: Recipe,
        name: str = "custom",
        out: Path | None = None,
        settings: Settings | None = None,
        show: bool = False,
    ) -> None:
        self.recipe, self.batches, self.name, self.out, self.show = recipe, batches, name, out, show
        self.settings, self.sampler, self.processes = settings or Settings(), batches.sampler, batches.sampler.processes
        self.train_set, self.test_set, self.device = batches.train_set, batches.test_set, self.processes.device
        self.num_steps = len(self.sampler.steps(0))
        self.model = self._prepare(model)
        self.dtype = pick_precision(recipe.precision, self.device)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.dtype == torch.float16)
        self.optimizer = create_optimizer_v2(
            model, opt="adamw", lr=recipe.highest_rate, weight_decay=recipe.weight_decay
        )
        slow_backbone(self.optimizer, model, recipe)
        self.set_learning_rate = make_schedule(self.optimizer, recipe, self.sampler.steps_per_epoch)
        self.ema = None
        if recipe.ema_decay:
            self.ema = ModelEmaV3(model, decay=recipe.ema_decay, use_warmup=recipe.ema_warmup)
        self.training_model = self.processes.wrap(TrainingModel(model, recipe))
        forward = torch.compile(self.training_model) if recipe.compile else self.training_model
        self.objective = Objective(recipe, model, forward, self.device)
        self.progress, self.pace = Progress(), SpeedMeter(recipe.images_per_step)
        self.checkpoints: CheckpointManager | None = None
        self._batches: Iterator[Batch] | None = None
        self._unread: list[Tensor] = []  # numbers of images that could not be read since the last look, and -1

    def _prepare(self, model: VisionTransformer) -> VisionTransformer:
        model = model.to(self.device)
        if self.recipe.sync_batchnorm:
            if self.device.type != "cuda":
                raise ValueError("sync_batchnorm works on GPUs only; set it to false")
            model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
        if self.recipe.grad_checkpointing:
            model.set_grad_checkpointing(True)
        return model.to(memory_format=torch.channels_last) if self.recipe.channels_last else model

    @property
    def evaluated_model(self) -> nn.Module:
        """The model that is measured: the moving average where there is one."""
        return self.ema.module if self.ema else self.model

    # One step

    def train_step(self) -> Tensor:
        """One step of the optimizer on the batches that belong to it; returns the loss, still on the device."""
        recipe, step = self.recipe, self.progress.step
        epoch = step // self.sampler.steps_per_epoch
        set_backbone_rate(self.optimizer, recipe, epoch)
        self.set_learning_rate(step)
        self.objective.begin_step(epoch)
        self.model.train()
        self.optimizer.zero_grad(set_to_none=True)
        loss = torch.zeros((), device=self.device)
        for last in [False] * (self.sampler.count - 1) + [True]:
            batch = self._next_batch()
            with self._gradients_averaged(last):  # over the processes, once a step
                with autocast(self.device, self.dtype):
                    part = self.objective(batch) / self.sampler.count
                self.scaler.scale(part).backward()
            loss += part.detach()
        if recipe.clip_grad:
            self.scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self.model.parameters(), recipe.clip_grad)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        if self.ema:
            self.ema.update(self.model, step=step if recipe.ema_warmup else None)
        return loss

    def _gradients_averaged(self, now: bool) -> Any:
        return nullcontext() if now or self.processes.count == 1 else self.training_model.no_sync()

    def _next_batch(self) -> Batch:
        if self._batches is None:
            self._batches = iter(self.batches.training(self.progress.step))
        with self.pace.waiting():
            batch = next(self._batches)
        if batch.readable is not None:
            self._unread.append(torch.where(batch.readable, -1, batch.numbers))  # without waiting for the device
        return batch

    # The run

    def loop(
        self, stop_requested: Callable[[], bool], after_epoch: Callable[[nn.Module], object] | None = None
    ) -> None:
        """From where the run stands to its end, or to a request to stop.

        Raises:
            NonFiniteLossError, Interrupted, DataError: as of `train`; TrialEnded after `Settings.stop_after`.
        """
        p, settings, losses = self.progress, self.settings, []
        self.note_computing()
        look_every = settings.look_every or (1 if self.device.type == "cpu" else 20)
        first_step, last_save = p.step, time.monotonic()
        self.pace.start(p.step)
        with self._bar() as bar:
            while p.step < self.num_steps:
                losses.append(self.train_step())
                p.step += 1
                bar.update()
                measured, tried = self._is_measured_after(p.step), 0 < settings.stop_after <= p.step - first_step
                asked = self.processes.count == 1 and stop_requested()  # others are asked when all look
                if not (measured or tried or asked or p.step % look_every == 0):
                    continue
                self._look(losses)
                bar.set_postfix(self._postfix(), refresh=False)
                if measured:
                    self._measure(after_epoch)
                stop = self.processes.any(tried or asked or stop_requested())
                if measured or stop or time.monotonic() - last_save > 60 * settings.save_minutes:
                    self.save_checkpoint()
                    last_save = time.monotonic()
                if tried:
                    self._save_speed()
                if stop and p.step < self.num_steps:
                    self.processes.meet()  # nobody leaves, and has the others ended, while the first still writes
                    raise (TrialEnded if tried else Interrupted)(self._stop_message())
                self.pace.start(p.step)

    def _is_measured_after(self, step: int) -> bool:
        """Whether an evaluation follows after so many steps: as often as the recipe says, and at the end."""
        if not self.recipe.evaluate_every:
            return step % self.sampler.steps_per_epoch == 0
        return step * self.recipe.images_per_step % self.recipe.evaluate_every == 0 or step == self.num_steps

    def _look(self, losses: list[Tensor]) -> None:
        """Takes stock of the steps since the last look: losses over all processes, and images that were not read."""
        p = self.progress
        values = (self.processes.total(torch.stack(losses).cpu()) / self.processes.count).tolist()
        losses.clear()
        seconds = self.pace.look(p.step)
        p.seconds += seconds
        p.total_seconds += seconds
        for offset, loss in enumerate(values):
            if not np.isfinite(loss):
                raise NonFiniteLossError(self._non_finite_message(loss, p.step - len(values) + offset))
        p.epoch_losses.extend(values)
        if isinstance(self.train_set, Files):
            self._count_unreadable()
        speed = f"{self.pace.rates[-1]:.0f} images/s, {self.pace.waits[-1]:.0%} of the time waiting for images"
        memory = f", {self._peak_gib():.1f} GiB" if self.device.type == "cuda" else ""
        rate = self.optimizer.param_groups[0]["lr"]
        self._say(f"step {p.step} of {self.num_steps}: loss {values[-1]:.4f}, rate {rate:.2e}, {speed}{memory}")

    def _count_unreadable(self) -> None:
        p, files = self.progress, self.train_set
        found = names_of(torch.cat(self._unread), files)
        self._unread.clear()
        for name in sorted(self.processes.gather(found) - set(p.unreadable)):
            p.unreadable.append(name)
            self._say(f"cannot be read and is skipped: {name}")
        if len(p.unreadable) > self.settings.max_unreadable:
            raise DataError(
                f"{len(p.unreadable)} training images cannot be read, more than the {self.settings.max_unreadable} "
                "allowed; copy or unpack the data set again"
            )

    def _measure(self, after_epoch: Callable[[nn.Module], object] | None) -> None:
        """Evaluates the model, and adds a row to the curves."""
        p, recipe, start = self.progress, self.recipe, time.perf_counter()
        if self.processes.count > 1:  # one model everywhere: the first process's statistics of BatchNorm
            for module in filter(None, (self.model, self.ema and self.ema.module)):
                distribute_bn(module, self.processes.count, reduce=False)
        if self.ema and recipe.ema_warmup:
            self._recalibrate()
        # Without gradients four times as many images fit, so that what trains can be measured.
        how = {"processes": self.processes, "workers": self.settings.workers}
        measured = evaluate(self.evaluated_model, self.test_set, min(500, 4 * recipe.batch_size), **how)
        if not np.isfinite(measured["loss"]):  # the last step broke the weights
            raise NonFiniteLossError(self._non_finite_message(measured["loss"], p.step - 1))
        per_epoch = self.sampler.steps_per_epoch
        row = {
            "epoch": p.step / per_epoch if recipe.evaluate_every else p.step // per_epoch,
            "images": p.step * recipe.images_per_step,
            "train_loss": sum(p.epoch_losses) / len(p.epoch_losses),
            "test_loss": measured["loss"],
            "test_accuracy": measured["accuracy"],
            "test_top5": measured["top5"],
            "learning_rate": self.optimizer.param_groups[0]["lr"],
            "seconds": p.seconds,
        }
        for key, curve in p.curves.items():  # a checkpoint of older code may lack some
            curve.append(row[key])
        p.epoch_losses = []
        whose = " of the averaged weights" if self.ema else ""
        self._say(f"epoch {row['epoch']}: top-1 {measured['accuracy']:.2%}, top-5 {measured['top5']:.2%}{whose}")
        if after_epoch:
            after_epoch(self.evaluated_model)
        p.total_seconds += time.perf_counter() - start

    def _recalibrate(self) -> None:
        """Takes the averaged model's BatchNorm statistics anew: the average of statistics fits no model's maps."""
        steps = range(max(self.progress.step - RECALIBRATION_STEPS, 0), self.progress.step)
        update_bn((self.objective.prepare(batch)[0] for batch in self.batches.again(steps)), self.ema.module)

    # What it says

    def _bar(self) -> tqdm:
        shown = self.show and self.processes.is_first and not isinstance(self.train_set, Files)
        return tqdm(total=self.num_steps, initial=self.progress.step, disable=not shown, unit="step", desc=self.name)

    def _say(self, text: str) -> None:
        """A line, where images come from files: such a run is long, and what it says goes into a log."""
        if self.show and self.processes.is_first and isinstance(self.train_set, Files):
            print(text, flush=True)

    def _postfix(self) -> dict[str, str]:
        p = self.progress
        recent = p.epoch_losses[-50:]
        shown = {"loss": f"{sum(recent) / len(recent):.3f}"}
        if p.curves["test_accuracy"]:
            shown["test accuracy"] = f"{p.curves['test_accuracy'][-1]:.1%}"
        return {**shown, "images/s": f"{p.step * self.recipe.images_per_step / p.seconds:.0f}"}

    def _non_finite_message(self, loss: float, step: int) -> str:
        kept = self.checkpoints and self.checkpoints.paths()
        return (
            f"the loss became {loss} at step {step} (epoch {step // self.sampler.steps_per_epoch + 1}); lower the "
            f"learning rate (now {self.recipe.highest_rate:g}), lengthen the warm-up, or train in precision float32"
            + (f"; the last good state is in {kept[0]}" if kept else "")
        )

    def _stop_message(self) -> str:
        kept = f"resume from {self.out}" if self.out else "nothing was kept, since no folder was given"
        return f"stopped after step {self.progress.step} of {self.num_steps}; {kept}"

    def _peak_gib(self) -> float:
        return torch.cuda.max_memory_allocated(self.device) / 2**30

    def _save_speed(self) -> None:
        """What a trial is for: `speed.json`, a measurement of images per second and of memory."""
        if not (self.out and self.processes.is_first):
            return
        pace, r, path = self.pace.row(), self.recipe, self.out / "speed.json"
        if pace is None:
            self._say(f"no {path.name}: its first look at the loss warms up; more steps, or --look-every less than now")
            return
        row = {"model": self.name, **{name: getattr(r, name) for name in ("token_weight", "batch_size", *EXECUTION)}}
        row |= {"img_size": self.model.config.img_size, "total_batch": r.images_per_step, "epochs": r.total_epochs}
        row |= {"precision": self._number_format(), "num_processes": self.processes.count, **pace}
        row |= {"workers": self.settings.workers, "train_images": len(self.train_set)}
        row["peak_gib"] = self._peak_gib() if self.device.type == "cuda" else None
        command = f"deepvit-edu train --recipe FILE --stop-after {self.settings.stop_after}; FILE holds the recipe here"
        more = {"recipe": {"model": self.name, **asdict(r)}, "hardware": self._hardware()}
        records.save_measurement(path, "imagenet-speed", command, [row], **more)
        self._say(f"written to {path}")

    # Survival

    def start(self, resume: bool) -> None:
        """Makes room for checkpoints, and goes on from the newest that is whole; the first process reads it for all.

        Raises:
            FileExistsError, OSError, ValueError: as of `train`.
        """
        if self.out and self.processes.is_first:
            self.checkpoints = CheckpointManager(self.out, self.settings.keep)
            if self.checkpoints.paths() and not resume:
                raise FileExistsError(f"{self.out} already holds a run; resume it, or choose another folder")
            weights = size_of(self.model.state_dict())
            copies = 4 if self.ema else 3  # the weights, AdamW's two moments, the average
            self.checkpoints.check_space(copies * weights)
        state = self.processes.share(self.checkpoints.load() if self.checkpoints else None)
        if state is not None:
            try:
                self._check_identity(state["identity"])
                self._restore(state)
            except (KeyError, TypeError, AttributeError, RuntimeError) as error:  # of another version, or another's
                raise ValueError(
                    f"the checkpoint in {self.out} cannot be continued here ({reason(error)}); delete it to start "
                    "again, or choose another folder"
                ) from error
            self._say(f"resumed at step {self.progress.step} of {self.num_steps}")

    def save_checkpoint(self) -> None:
        """Writes the whole state, atomically. The first process's state is everyone's, so it alone writes."""
        if self.checkpoints:
            state = {
                "identity": self._identity(),
                "progress": asdict(self.progress),
                "model": self.model.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "scaler": self.scaler.state_dict(),
                "ema": self.ema.module.state_dict() if self.ema else None,
            }
            self.checkpoints.save(self.progress.step, state)

    def _restore(self, state: dict[str, Any]) -> None:
        """Puts back what was saved; on a device with another "auto" precision the run goes on in that one."""
        self.progress = p = Progress(**state["progress"])
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        if state["scaler"]:  # empty where it had nothing to scale
            self.scaler.load_state_dict(state["scaler"])
        if self.ema:
            self.ema.module.load_state_dict(state["ema"])
        p.total_seconds = max(p.total_seconds, p.seconds)
        per_epoch = self.sampler.steps_per_epoch * self.recipe.images_per_step
        p.curves.setdefault("images", [epoch * per_epoch for epoch in p.curves["epoch"]])

    def _identity(self) -> dict:
        """What must agree before a checkpoint is continued."""
        maps = self.batches.label_maps_hash
        return {
            "model": asdict(self.model.config),
            "recipe": self.recipe.identity(),
            "data_hash": self.train_set.hash(),
            "test_hash": self.test_set.hash(),
            **({} if maps is None else {"label_maps": maps}),
        }

    def _check_identity(self, saved: dict) -> None:
        expected = self._identity()
        saved = {"model": expected["model"], **current_identity(saved)}
        known = {**Recipe().identity(), **saved["recipe"]}  # options may be younger than the checkpoint
        saved["recipe"] = {name: known[name] for name in expected["recipe"]}
        saved["model"] = {**asdict(ViTConfig()), **saved["model"]}  # as those of the recipe
        for part in ("model", "recipe"):
            for name, value in expected[part].items():
                if saved[part].get(name) != value:
                    raise ValueError(
                        f"the run in {self.out} was made with {name} {saved[part].get(name)}, not {value}; "
                        f"resume with the same options, or choose another folder"
                    )
        if saved != expected:
            raise ValueError(f"the run in {self.out} was made with other images or label maps; choose another folder")

    # What it leaves

    def note_computing(self) -> None:
        """Adds the code and the number format that compute from here on to those of earlier starts."""
        progress, code, precision = self.progress, records.running_code(), self._number_format()
        if code not in progress.code:
            progress.code.append(code)
        if precision not in progress.precisions:
            progress.precisions.append(precision)

    def _number_format(self) -> str:
        """What this start computes in, such as "bfloat16"."""
        return str(self.dtype).removeprefix("torch.")

    def _hardware(self) -> str:
        device, count = records.describe_hardware(self.device), self.processes.count
        return device if count == 1 else f"{count} processes, each {device}"

    def finish(self) -> records.Record:
        """The record; with weights and record written where there is a folder."""
        record = self._record()
        if self.ema:
            self.model.load_state_dict(self.ema.module.state_dict())
        self.model.eval()
        if self.checkpoints:
            about = {
                "name": self.name,
                "dataset": self.train_set.name,
                "classes": list(self.train_set.classes),
                **preparation_of(self.test_set),
            }
            save_model(self.model, self.out / "model.safetensors", **about, images_from=self.recipe.images_from)
            records.save_record(record, self.out / "record.json")
        return record

    def _record(self) -> records.Record:
        p, curves, maps = self.progress, self.progress.curves, self.batches.label_maps_hash
        results = ("train_loss", "test_loss", "test_accuracy", "test_top5")
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
                "epochs": self.recipe.total_epochs,
                **{key: curves[key][-1] for key in results if key in curves},
                "curves": curves,
                "seconds": p.total_seconds,
                "images_per_second": p.step * self.recipe.images_per_step / p.seconds,
                "hardware": self._hardware(),
                "num_processes": self.processes.count,
                "config": {"model": asdict(self.model.config), "recipe": asdict(self.recipe)},
                **({} if maps is None else {"label_maps_hash": maps}),
                **({"unreadable_images": p.unreadable} if isinstance(self.train_set, Files) else {}),
                "precision": ", then ".join(p.precisions),
                "versions": records.describe_versions(),
                "commit": ", then ".join(commit for commit, _ in p.code),
                "code_hash": ", then ".join(code for _, code in p.code),
                "started": p.started,
            }
        )
