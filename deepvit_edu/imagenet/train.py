"""Trains a model on ImageNet by a recipe: `python -m deepvit_edu.imagenet.train --help`, or the same under `torchrun`.

A run is a function of its recipe and its images. The random numbers of a batch follow from the seed, the step and the
batch's number, so that neither the number of processes nor a restart at any step changes what is computed.
"""

import argparse
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from pathlib import Path

import numpy as np
import torch
from timm.optim import create_optimizer_v2
from timm.scheduler import create_scheduler_v2
from timm.utils import ModelEmaV3, distribute_bn, random_seed
from torch import Tensor, nn

from .. import records
from ..checkpoints import save_model
from ..data import DataError
from ..devices import autocast, pick_precision
from ..old_options import current_options
from ..options import check_number
from ..signals import stop_requests
from ..train import Interrupted, NonFiniteLossError, Resumable, seed_of
from .checkpoint import Keeper, size_of
from .data import Batches, Pictures, Share, Targets, TrainView, find_files, load, unreadable_names
from .objective import Learner, Objective
from .pace import Pace
from .processes import Processes, started
from .recipe import EXECUTION, ImageNetRecipe, identity, list_recipes, load_recipe
from .validate import ERRORS, measure, sentence


@dataclass(frozen=True)
class Settings:
    """What belongs to the machine and not to the recipe.

    Args:
        data: folder with `train` and `val`.
        out: folder for checkpoints, and at the end `record.json` and `model.safetensors`.
        label_maps: folder of label maps in the authors' layout, for token labeling.
        resume: go on from the folder's newest checkpoint where there is one.
        workers: processes that read images ahead, for each training process.
        save_minutes: at most so much is lost when the machine dies.
        keep: checkpoints that stay.
        max_unreadable: so many images that cannot be read are skipped; one more ends the run.
        look_every: steps between two looks at the loss; each waits for the device.
        stop_after: end after so many steps of this start, as if interrupted, with `speed.json`; to try a recipe out.
    """

    data: str
    out: str
    label_maps: str | None = None
    resume: bool = False
    workers: int = 8
    save_minutes: float = 30.0
    keep: int = 3
    max_unreadable: int = 50
    look_every: int = 20
    stop_after: int | None = None

    def __post_init__(self) -> None:
        for name, least in (("workers", 0), ("save_minutes", 0), ("max_unreadable", 0), ("look_every", 1)):
            check_number(name, getattr(self, name), at_least=least)
        if self.stop_after is not None:
            check_number("stop_after", self.stop_after, whole=True, at_least=1)


class TrialEnded(Interrupted):
    """A run has ended as `Settings.stop_after` wanted it."""


@dataclass
class _Progress:
    """What a checkpoint keeps besides tensors."""

    step: int = 0
    seconds: float = 0.0
    started: str = field(default_factory=lambda: datetime.now(timezone.utc).isoformat(timespec="seconds"))
    code: list[list[str]] = field(default_factory=list)
    precisions: list[str] = field(default_factory=list)
    epoch_losses: list[float] = field(default_factory=list)
    unreadable: list[str] = field(default_factory=list)
    curves: dict[str, list[float]] = field(
        default_factory=lambda: {
            key: [] for key in ("epoch", "train_loss", "test_loss", "test_accuracy", "test_top5", "learning_rate")
        }
    )


class Run(Resumable):
    """A run under way: model, optimizer, data, and where it stands.

    Raises:
        DataError: when the folder is not the data set that the recipe wants.
        ValueError: when recipe, processes and data do not fit each other.
        OSError: when the checkpoints will not fit on the disk.
    """

    def __init__(self, recipe: ImageNetRecipe, settings: Settings, processes: Processes) -> None:
        self.recipe, self.settings, self.processes, self.device = recipe, settings, processes, processes.device
        recipe.accumulation(processes.count)  # says what does not fit
        _check_label_maps(recipe, settings.label_maps)
        self.train_files, self.val_files = find_files(settings.data, recipe.num_classes, processes)
        self.share = Share(len(self.train_files), recipe, processes)
        if not self.share.steps_per_epoch:
            raise ValueError(f"total_batch {recipe.total_batch} is more than the {self.share.images} training images")
        random_seed(recipe.seed)
        self.model = self._build()
        self.optimizer = create_optimizer_v2(
            self.model, opt="adamw", lr=recipe.highest_rate, weight_decay=recipe.weight_decay
        )
        self.scheduler, _ = create_scheduler_v2(
            self.optimizer,
            sched="cosine",
            num_epochs=recipe.epochs,
            cooldown_epochs=recipe.cooldown_epochs,
            min_lr=recipe.min_learning_rate,
            warmup_lr=recipe.warmup_learning_rate,
            warmup_epochs=recipe.warmup_epochs,
        )
        self.ema = ModelEmaV3(self.model, decay=recipe.ema_decay) if recipe.ema_decay else None
        self.dtype = pick_precision(recipe.precision, self.device)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.dtype == torch.float16)
        self.wrapped = processes.wrap(Learner(self.model, dense=bool(recipe.token_weight)))
        forward = torch.compile(self.wrapped) if recipe.compile else self.wrapped
        self.objective = Objective(recipe, self.model, forward)
        self.progress, self.num_steps = _Progress(), recipe.total_epochs * self.share.steps_per_epoch
        self.pace = Pace(recipe.total_batch)
        self._losses: list[Tensor] = []
        self._damaged: list[Tensor] = []
        self.keeper = self._make_keeper() if processes.is_first else None
        self._resume()

    def _build(self) -> nn.Module:
        recipe, model = self.recipe, self.recipe.build().to(self.device)
        if recipe.sync_batchnorm:
            if self.device.type != "cuda":
                raise ValueError("sync_batchnorm works on GPUs only; set it to false")
            model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
        model.set_grad_checkpointing(recipe.grad_checkpointing)
        return model.to(memory_format=torch.channels_last) if recipe.channels_last else model

    def _make_keeper(self) -> Keeper:
        keeper = Keeper(self.settings.out, self.settings.keep)
        if keeper.paths() and not self.settings.resume:
            raise FileExistsError(f"{keeper.folder} already holds a run; add --resume, or choose another folder")
        weights = size_of(self.model.state_dict())
        keeper.check_space(weights * (4 if self.ema else 3))  # the weights, AdamW's two moments, the average
        return keeper

    # One step

    def step(self, batches: Iterator[tuple[Tensor, Targets]]) -> None:
        """One step of the optimizer, over all of this process's batches of it."""
        recipe, step = self.recipe, self.progress.step
        self.model.train()
        self.scheduler.step(step // self.share.steps_per_epoch)
        self.optimizer.zero_grad(set_to_none=True)
        loss = torch.zeros((), device=self.device)
        for batch in self.share.batches:
            with self.pace.waiting():
                images, targets = next(batches)
            self._damaged.append(targets.damaged)
            random_seed(seed_of(recipe.seed, step, batch))  # after the batch was read, which draws numbers too
            last = batch == self.share.batches[-1]
            with nullcontext() if last or self.processes.count == 1 else self.wrapped.no_sync():
                with autocast(self.device, self.dtype):
                    part = self.objective(images, targets) / len(self.share.batches)
                self.scaler.scale(part).backward()
            loss += part.detach()
        if recipe.clip_grad:
            self.scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self.model.parameters(), recipe.clip_grad)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        if self.ema:
            self.ema.update(self.model)
        self._losses.append(loss)
        self.progress.step += 1

    # The run

    def loop(self, stop_requested: Callable[[], bool]) -> None:
        """From where the run stands to its end.

        Raises:
            Interrupted: when asked to stop, TrialEnded as planned; the checkpoint stands at the very step.
            NonFiniteLossError: at a loss that is not finite; the last good checkpoint stays.
        """
        p, settings, per_epoch = self.progress, self.settings, self.share.steps_per_epoch
        self.note_computing()
        view = TrainView(self.recipe, self.model.default_cfg["mean"])
        pictures = Pictures(self.train_files, view, settings.label_maps if self.recipe.token_weight else None)
        sampler = Batches(self.share, p.step)
        batches = iter(load(pictures, sampler, self.model.default_cfg, self.device, settings.workers))
        first_step, last_save = p.step, time.monotonic()
        self.pace.start(p.step)
        while p.step < self.num_steps:
            self.step(batches)
            epoch_done = p.step % per_epoch == 0
            tried = settings.stop_after is not None and p.step - first_step >= settings.stop_after
            if not (epoch_done or tried or p.step % settings.look_every == 0):
                continue
            self._look()
            if epoch_done:
                self._end_epoch()
            stop = self.processes.any(stop_requested() or tried)
            if epoch_done or stop or time.monotonic() - last_save > 60 * settings.save_minutes:
                self.save()
                last_save = time.monotonic()
            self.pace.start(p.step)
            if tried:
                self._save_speed()
            if stop and p.step < self.num_steps:
                self.processes.meet()  # nobody leaves, and has the others ended, while the first still writes
                raise (TrialEnded if tried else Interrupted)(
                    f"stopped after step {p.step} of {self.num_steps}; the same command with --resume goes on"
                )

    def _look(self) -> None:
        """Takes stock: losses over all processes, and images that could not be read."""
        p = self.progress
        losses = self.processes.total(torch.stack(self._losses).cpu()) / self.processes.count
        p.seconds += self.pace.look(p.step)
        first = p.step - len(losses)
        self._losses.clear()
        for offset, loss in enumerate(losses.tolist()):
            if not np.isfinite(loss):
                raise NonFiniteLossError(self._non_finite_message(loss, first + offset))
            p.epoch_losses.append(loss)
        self._count_unreadable()
        rate = self.optimizer.param_groups[0]["lr"]
        memory = f", {self._peak_gib():.1f} GiB" if self.device.type == "cuda" else ""
        speed = f"{self.pace.rates[-1]:.0f} images/s, {self.pace.waits[-1]:.0%} of the time waiting for images"
        self._say(f"step {p.step} of {self.num_steps}: loss {losses[-1]:.4f}, rate {rate:.2e}, {speed}{memory}")

    def _peak_gib(self) -> float:
        return torch.cuda.max_memory_allocated(self.device) / 2**30

    def _non_finite_message(self, loss: float, step: int) -> str:
        return (
            f"the loss became {loss} at step {step}; lower learning_rate (now {self.recipe.highest_rate:g}), lengthen "
            f"warmup_epochs or set precision=float32, in a new folder"
        )

    def _count_unreadable(self) -> None:
        found = unreadable_names(torch.cat(self._damaged), self.train_files)
        self._damaged.clear()
        new = self.processes.gather(found) - set(self.progress.unreadable)
        for name in sorted(new):
            self.progress.unreadable.append(name)
            self._say(f"cannot be read and is skipped: {name}")
        if len(self.progress.unreadable) > self.settings.max_unreadable:
            raise DataError(
                f"{len(self.progress.unreadable)} training images cannot be read, more than the "
                f"{self.settings.max_unreadable} allowed; copy or unpack the data set again"
            )

    def _end_epoch(self) -> None:
        p, model = self.progress, self.ema.module if self.ema else self.model
        if self.processes.count > 1:  # one model everywhere: the first process's statistics of BatchNorm
            for module in filter(None, (self.model, self.ema and self.ema.module)):
                distribute_bn(module, self.processes.count, reduce=False)
        r = self.recipe
        how = {"img_size": r.img_size, "batch_size": r.batch_size, "workers": self.settings.workers}
        measured = measure(model, self.val_files, self.processes, precision=r.precision, **how)
        if not np.isfinite(measured["loss"]):
            raise NonFiniteLossError(self._non_finite_message(measured["loss"], p.step - 1))
        row = {
            "epoch": len(p.curves["epoch"]) + 1,
            "train_loss": sum(p.epoch_losses) / len(p.epoch_losses),
            "test_loss": measured["loss"],
            "test_accuracy": measured["top1"],
            "test_top5": measured["top5"],
            "learning_rate": self.optimizer.param_groups[0]["lr"],
        }
        for key, value in row.items():
            p.curves[key].append(value)
        p.epoch_losses = []
        self._say(f"epoch {row['epoch']}: top-1 {measured['top1']:.2%}, top-5 {measured['top5']:.2%}")

    def _save_speed(self) -> None:
        """What a trial is for: `speed.json`, a measurement of images per second and of memory."""
        if not self.processes.is_first:
            return
        pace, r, path = self.pace.row(), self.recipe, Path(self.settings.out) / "speed.json"
        if pace is None:
            self._say(f"no {path.name}: its first look at the loss warms up; more steps, or --look-every less than now")
            return
        how = ("model", "token_weight", "img_size", "total_batch", "batch_size", *EXECUTION)
        row = {**{name: getattr(r, name) for name in how}, "epochs": r.total_epochs, **pace}
        row |= {"precision": self.number_format(), "num_processes": self.processes.count}
        row |= {"workers": self.settings.workers, "train_images": len(self.train_files)}
        row["peak_gib"] = self._peak_gib() if self.device.type == "cuda" else None
        command = f"python -m deepvit_edu.imagenet.train --recipe FILE --stop-after {self.settings.stop_after}"
        more = {"recipe": asdict(r), "hardware": self._hardware()}
        records.save_measurement(path, "imagenet-speed", f"{command}; FILE holds the recipe given here", [row], **more)
        self._say(f"written to {path}")

    def _hardware(self) -> str:
        device, count = records.describe_hardware(self.device), self.processes.count
        return device if count == 1 else f"{count} processes, each {device}"

    def _say(self, text: str) -> None:
        if self.processes.is_first:
            print(text, flush=True)

    # Survival

    def save(self) -> None:
        """Writes a checkpoint. The first process's state is everyone's, so it alone writes."""
        if not self.processes.is_first:
            return
        self.keeper.save(self.progress.step, {"identity": self._identity(), **self.state()})

    def _identity(self) -> dict:
        return {"recipe": identity(self.recipe), "train": self.train_files.hash(), "val": self.val_files.hash()}

    def _resume(self) -> None:
        """Goes on from the newest whole checkpoint; the first process reads it for all."""
        state = self.processes.share(self.keeper.load() if self.keeper else None)
        if state is None:
            return
        ours, theirs = self._identity(), state["identity"]
        defaults = identity(ImageNetRecipe(theirs["recipe"]["model"]))
        # Options may be younger than the checkpoint.
        theirs["recipe"] = {**defaults, **current_options(theirs["recipe"])}
        for option, value in ours["recipe"].items():
            if theirs["recipe"].get(option) != value:
                raise ValueError(
                    f"{self.settings.out} holds a run with {option} {theirs['recipe'].get(option)}, not {value}; "
                    f"resume with the same recipe, or choose another folder"
                )
        if ours != theirs:
            raise ValueError(f"{self.settings.out} holds a run on other images; choose another folder")
        self.restore(state)
        self._say(f"resumed at step {self.progress.step} of {self.num_steps}")

    def finish(self) -> records.Record:
        """The record of the whole run; it and the weights are written."""
        p, r, curves = self.progress, self.recipe, self.progress.curves
        model = self.ema.module if self.ema else self.model
        record = {
            "model": r.model,
            "num_parameters": sum(parameter.numel() for parameter in model.parameters()),
            "dataset": Path(self.settings.data).resolve().name,
            "rung": "folder",
            "data_hash": self.train_files.hash(),
            "test_data_hash": self.val_files.hash(),
            "train_images": len(self.train_files),
            "test_images": len(self.val_files),
            "seed": r.seed,
            "epochs": r.total_epochs,
            **{key: curves[key][-1] for key in ("train_loss", "test_loss", "test_accuracy", "test_top5")},
            "curves": curves,
            "seconds": p.seconds,
            "images_per_second": p.step * r.total_batch / p.seconds,
            "unreadable_images": p.unreadable,
            "num_processes": self.processes.count,
            "hardware": self._hardware(),
            "config": {"model": asdict(model.config), "recipe": asdict(r)},
            **self.provenance(),
        }
        if self.processes.is_first:
            about = {"name": r.model, "classes": self.train_files.classes, "dataset": record["dataset"]}
            preparation = {key: list(self.model.default_cfg[key]) for key in ("mean", "std")}
            save_model(model, Path(self.settings.out) / "model.safetensors", **about, **preparation)
            records.save_record(record, Path(self.settings.out) / "record.json")
        return record


def _check_label_maps(recipe: ImageNetRecipe, folder: str | None) -> None:
    if recipe.token_weight and not folder:
        raise ValueError("this recipe learns from label maps; name their folder with --label-maps")
    if folder and not recipe.token_weight:
        raise ValueError("this recipe learns from no label maps; leave out --label-maps, or take one for token labels")
    if folder and not Path(folder).is_dir():
        raise FileNotFoundError(f"there is no folder {folder}; name the one that holds the label maps")


def train(
    recipe: ImageNetRecipe, settings: Settings, *, device: str | None = None, timeout_minutes: float = 10.0
) -> records.Record:
    """Trains by a recipe, alone or among the processes that `torchrun` started, and returns the record.

    Raises:
        ValueError, DataError, OSError: when something does not fit, before any training.
        NonFiniteLossError, Interrupted: see `Run.loop`.
    """
    with started(device, timeout_minutes) as processes:
        if processes.is_first:
            print(recipe.plan(processes.count), flush=True)
        run = Run(recipe, settings, processes)
        with stop_requests(once=False) as stop_requested:
            run.loop(stop_requested)
        return run.finish()


def build_parser() -> argparse.ArgumentParser:
    """The options of the command."""
    parser = argparse.ArgumentParser(
        prog="deepvit_edu.imagenet.train",
        description="Train a model on ImageNet by a recipe.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument(
        "--recipe", required=True, metavar="NAME", help=f"{', '.join(list_recipes())}, or a .yml file of yours"
    )
    parser.add_argument("--data", required=True, metavar="FOLDER", help="holds train and val, folders or tar files")
    parser.add_argument("--out", metavar="FOLDER", help="folder of the run; runs/imagenet_RECIPE unless given")
    parser.add_argument(
        "--resume", action="store_true", help="go on where the run in that folder stands, if there is one"
    )
    parser.add_argument(
        "--set", nargs="+", action="extend", default=[], metavar="OPTION=VALUE", help="change the recipe"
    )
    parser.add_argument("--label-maps", metavar="FOLDER", help="label maps of token labeling, CLASS/NAME.pt")
    parser.add_argument("--workers", type=int, default=8, metavar="N", help="processes that read ahead, for each GPU")
    parser.add_argument("--save-minutes", type=float, default=30.0, metavar="M", help="between checkpoints")
    parser.add_argument("--keep", type=int, default=3, metavar="N", help="checkpoints that stay")
    parser.add_argument("--max-unreadable", type=int, default=50, metavar="N", help="images that may be skipped")
    parser.add_argument("--look-every", type=int, default=20, metavar="STEPS", help="between two looks at the loss")
    parser.add_argument("--stop-after", type=int, metavar="STEPS", help="stop after so many, and write speed.json")
    parser.add_argument(
        "--timeout-minutes", type=float, default=10.0, metavar="M", help="wait for a process that hangs"
    )
    parser.add_argument("--device", help="cpu or cuda; the best there is unless given")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; 0, 1 for an error told in a sentence, 130 when it was told to stop and did."""
    options = vars(build_parser().parse_args(arguments))
    name, changes = options.pop("recipe"), options.pop("set")
    how = {key: options.pop(key) for key in ("device", "timeout_minutes")}
    options["out"] = options["out"] or f"runs/imagenet_{Path(name).stem}"
    try:
        train(load_recipe(name, changes), Settings(**options), **how)
    except TrialEnded as end:
        print(f"train: {end}")
    except Interrupted as stop:
        print(f"train: {stop}", file=sys.stderr)
        return 130
    except ERRORS as error:
        print(f"train: {sentence(error)}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
