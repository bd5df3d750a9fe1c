"""Train a small convolutional network on our files of CIFAR-10, to see what the files themselves cost.

Network and recipe are those of airbench94 (Jordan 2024), whose accuracy on the published files is known: the mean of
1,000 runs. An hour of one core a seed, or a minute of a GPU. An interrupted run continues after its last epoch, and
seeds that the record has are not run again.

python -m tools.measure.calibrate                                       one seed, into book/records/measurements
python -m tools.measure.calibrate --epochs 0.1 --out trial.json         a trial of the command, in a minute
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR
from tqdm.auto import tqdm

from deepvit_edu import data
from deepvit_edu.data import ImageSet
from deepvit_edu.devices import pick_device
from deepvit_edu.files import atomic_path
from deepvit_edu.records import describe_hardware, load_measurement, save_measurement
from tools.contents import ROOT

RECORD = ROOT / "book" / "records" / "measurements" / "calibration_cifar10.json"
PUBLISHED = {"model": "airbench94", "published_accuracy": 0.9401, "published_runs": 1000}  # airbench94.py, its head


@dataclass(frozen=True)
class Recipe:
    """How airbench94 trains. Rates are for 1024 images, as if gradients stayed the same from step to step."""

    epochs: float = 9.9
    batch_size: int = 1024
    learning_rate: float = 11.5
    momentum: float = 0.85
    weight_decay: float = 0.0153
    bias_scale: float = 64.0  # on the learning rate of the norms' shifts
    label_smoothing: float = 0.2
    whitening_bias_epochs: int = 3  # so long the first layer's bias trains
    average_from: int = 3  # from this epoch on, weights are set to their running average
    average_every: int = 5  # steps
    average_base: float = 0.95  # of its decay, a step
    average_power: float = 3.0  # the decay grows with the share of training that is done, to this power
    translate: int = 2  # pixels


def group(before: int, after: int) -> list[nn.Module]:
    """Two 3×3 convolutions, each with a norm that learns no slope and a GELU; the first one's output is pooled."""
    layers: list[nn.Module] = []
    for channels, pool in ((before, nn.MaxPool2d(2)), (after, nn.Identity())):
        conv = nn.Conv2d(channels, after, 3, padding=1, bias=False)
        nn.init.dirac_(conv.weight.data[:channels])  # the first channels begin as copies of what comes in
        norm = nn.BatchNorm2d(after, eps=1e-12, momentum=0.4)
        norm.weight.requires_grad_(False)
        layers += [conv, pool, norm, nn.GELU()]
    return layers


class CalibrationNet(nn.Module):
    """airbench94's network: whitened patches of 2×2, three groups of 64, 256 and 256 channels, a linear head.

    Images, normalised (B, 3, 32, 32), to logits (B, K).
    """

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.whiten = nn.Conv2d(3, 24, 2)
        self.whiten.weight.requires_grad_(False)
        nn.init.zeros_(self.whiten.bias)
        self.body = nn.Sequential(nn.GELU(), *group(24, 64), *group(64, 256), *group(256, 256), nn.MaxPool2d(3))
        self.head = nn.Linear(256, num_classes, bias=False)

    @torch.no_grad()
    def whiten_patches(self, images: Tensor) -> None:
        """Sets the first layer to the principal directions of these images' patches, scaled to one deviation each."""
        patches = F.unfold(images, 2).transpose(1, 2).flatten(0, 1)  # (B * 31 * 31, 12)
        variances, directions = torch.linalg.eigh(patches.T @ patches / len(patches))
        scaled = (directions / (variances + 5e-4).sqrt()).T.unflatten(1, (3, 2, 2))
        self.whiten.weight.copy_(torch.cat([scaled, -scaled]))

    def forward(self, images: Tensor) -> Tensor:
        """Logits (B, K)."""
        return self.head(self.body(self.whiten(images)).flatten(1)) / 9


def rate_factor(step: int, steps: int) -> float:
    """The learning rate's factor: from 0.2 up to 1 at 23 % of the steps, then down to 0.07."""
    return float(np.interp(step, [0, int(0.23 * steps), steps], [0.2, 1.0, 0.07]))


def optimizer_of(model: nn.Module, recipe: Recipe) -> torch.optim.SGD:
    """Nesterov's momentum, for losses that are sums over a batch; weight decay does not depend on the rate."""
    scale = 1024 * (1 + 1 / (1 - recipe.momentum))  # what momentum makes of a gradient that stays the same
    rate, decay = recipe.learning_rate / scale, recipe.weight_decay * recipe.batch_size / scale
    norms = [part.bias for part in model.modules() if isinstance(part, nn.BatchNorm2d)]
    others = [p for p in model.parameters() if p.requires_grad and not any(p is bias for bias in norms)]
    fast = rate * recipe.bias_scale
    groups = [
        {"params": norms, "lr": fast, "weight_decay": decay / fast},
        {"params": others, "lr": rate, "weight_decay": decay / rate},
    ]
    return torch.optim.SGD(groups, momentum=recipe.momentum, nesterov=True)


def shifted(images: Tensor, most: int, stream: torch.Generator) -> Tensor:
    """Each image (B, 3, H, W) moved by up to so many pixels; what comes in at the edge is mirrored."""
    side = images.shape[-1]
    padded = F.pad(images, (most,) * 4, mode="reflect")
    corners = torch.randint(2 * most + 1, (len(images), 2), generator=stream).tolist()
    return torch.stack([image[:, y : y + side, x : x + side] for image, (y, x) in zip(padded, corners, strict=True)])


class Calibration:
    """One run; its state is written after each epoch, so that the same call continues it.

    Raises:
        ValueError: when there are too few images for a batch, or the interrupted run had another recipe or other
            images.
    """

    def __init__(self, train_set: ImageSet, recipe: Recipe, seed: int, state_path: Path) -> None:
        if recipe.batch_size > len(train_set):
            raise ValueError(f"a batch of {recipe.batch_size} is more than the {len(train_set)} training images")
        self.train_set, self.recipe, self.state_path = train_set, recipe, state_path
        self.steps_per_epoch = len(train_set) // recipe.batch_size
        self.steps = math.ceil(self.steps_per_epoch * recipe.epochs)
        torch.manual_seed(seed)
        self.model = CalibrationNet(train_set.num_classes).to(
            train_set.images.device, memory_format=torch.channels_last
        )
        self.model.whiten_patches(train_set.normalise(train_set.images[:5000]))
        self.optimizer = optimizer_of(self.model, recipe)
        self.schedule = LambdaLR(self.optimizer, lambda step: rate_factor(step, self.steps))
        self.stream = torch.Generator().manual_seed(seed)
        # These are mirrored in even epochs, the others in odd ones.
        self.mirrored = torch.rand(len(train_set), generator=self.stream) < 0.5
        self.average: dict[str, Tensor] = {}
        self.step, self.seconds, self.loss = 0, 0.0, math.nan
        self.identity = {**asdict(recipe), "seed": seed, "data_hash": train_set.hash()}
        if state_path.exists():
            self._restore(torch.load(state_path, weights_only=True))

    def _parts(self) -> dict[str, object]:
        return {"model": self.model, "optimizer": self.optimizer, "schedule": self.schedule}

    def _restore(self, state: dict) -> None:
        if state["identity"] != self.identity:
            raise ValueError(f"{self.state_path} belongs to a run with another recipe or other images; delete it")
        for name, part in self._parts().items():
            part.load_state_dict(state[name])
        self.stream.set_state(state["stream"])
        self.average, self.step, self.seconds, self.loss = (state[n] for n in ("average", "step", "seconds", "loss"))

    def _save(self) -> None:
        state = {name: part.state_dict() for name, part in self._parts().items()}
        state |= {"stream": self.stream.get_state(), "average": self.average, "identity": self.identity}
        state |= {"step": self.step, "seconds": self.seconds, "loss": self.loss}
        with atomic_path(self.state_path) as temporary:
            torch.save(state, temporary)

    def train(self) -> None:
        """Trains to the end, from where it stands."""
        with tqdm(total=self.steps, initial=self.step, desc="calibrate", unit="step") as bar:
            while self.step < self.steps:
                started = time.perf_counter()
                order = torch.randperm(len(self.train_set), generator=self.stream)
                self._train_epoch(order.split(self.recipe.batch_size)[: self.steps_per_epoch], bar)
                self.seconds += time.perf_counter() - started
                self._save()

    def _train_epoch(self, batches: Sequence[Tensor], bar: tqdm) -> None:
        epoch = self.step // self.steps_per_epoch
        self.model.train().whiten.bias.requires_grad_(epoch < self.recipe.whitening_bias_epochs)
        for chosen in batches[: self.steps - self.step]:
            self.loss = self._train_step(chosen.to(self.train_set.images.device), mirror_others=epoch % 2 == 1)
            self.step += 1
            if epoch >= self.recipe.average_from and self.step % self.recipe.average_every == 0:
                self._move_average()
            bar.update()
            bar.set_postfix(loss=f"{self.loss:.3f}")
        if self.average:
            self.model.load_state_dict(self.average)

    def _train_step(self, chosen: Tensor, mirror_others: bool) -> float:
        images = shifted(self.train_set.normalise(self.train_set.images[chosen]), self.recipe.translate, self.stream)
        mirror = (self.mirrored[chosen.cpu()] ^ mirror_others).to(chosen.device)[:, None, None, None]
        images = torch.where(mirror, images.flip(-1), images).contiguous(memory_format=torch.channels_last)
        labels, smoothing = self.train_set.labels[chosen], self.recipe.label_smoothing
        loss = F.cross_entropy(self.model(images), labels, label_smoothing=smoothing, reduction="sum")
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        self.schedule.step()
        mean = loss.item() / len(chosen)
        if not math.isfinite(mean):
            raise RuntimeError(f"the loss is {mean} at step {self.step + 1}; the recipe does not fit these images")
        return mean

    @torch.no_grad()
    def _move_average(self) -> None:
        """Lookahead: the average follows the weights, ever more slowly, and the weights go on from it."""
        weights = self.model.state_dict()
        if not self.average:
            self.average = {name: value.clone() for name, value in weights.items()}
            return
        decay = (
            self.recipe.average_base**self.recipe.average_every * (self.step / self.steps) ** self.recipe.average_power
        )
        for name, value in weights.items():
            if value.is_floating_point():
                self.average[name].lerp_(value, 1 - decay)
                value.copy_(self.average[name])

    @torch.no_grad()
    def accuracy(self, test_set: ImageSet, views: bool) -> float:
        """The fraction of images classified correctly; with `views`, from six views of each, as airbench94 does."""
        right = 0
        for images, labels in zip(test_set.images.split(500), test_set.labels.split(500), strict=True):
            answer = self._six_views if views else self.model.eval()
            right += int((answer(test_set.normalise(images)).argmax(dim=1) == labels).sum())
        return right / len(test_set)

    def _six_views(self, images: Tensor) -> Tensor:
        """Logits (B, K): those of an image count half, of it moved a pixel to either corner a quarter each."""
        model, side, padded = self.model.eval(), images.shape[-1], F.pad(images, (1,) * 4, mode="reflect")
        moved = (padded[..., :side, :side], padded[..., 2:, 2:])
        return sum(
            share * (model(view) + model(view.flip(-1)))
            for share, view in zip((0.25, 0.125, 0.125), (images, *moved), strict=True)
        )


def calibrate(train_set: ImageSet, test_set: ImageSet, recipe: Recipe, seed: int, state_path: Path) -> dict:
    """One run; a row of the measurement."""
    run = Calibration(train_set, recipe, seed, state_path)
    run.train()
    accuracy = {"accuracy": run.accuracy(test_set, views=True), "accuracy_of_one_view": run.accuracy(test_set, False)}
    state_path.unlink()
    return {
        "seed": seed,
        **accuracy,
        "train_loss": run.loss,
        "steps": run.step,
        "seconds": run.seconds,
        **asdict(recipe),
    }


def recorded_rows(path: Path, recipe: Recipe, train_set: ImageSet) -> list[dict]:
    """The runs that a record has already; ValueError where it is of another recipe or of other images."""
    if not path.exists():
        return []
    record = load_measurement(path)
    recipes = [{name: row.get(name) for name in asdict(recipe)} for row in record["rows"]]
    if record.get("data_hash") != train_set.hash() or any(recorded != asdict(recipe) for recorded in recipes):
        raise ValueError(f"{path} belongs to another recipe or other images; choose another --out, or remove it")
    return record["rows"]


def build_parser() -> argparse.ArgumentParser:
    """The command's options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="of weights, order and shifts (default: 0)")
    parser.add_argument("--epochs", type=float, default=Recipe.epochs, help=f"(default: {Recipe.epochs})")
    parser.add_argument("--data", default="cifar10", help="name or folder of the images (default: cifar10)")
    parser.add_argument("--device", help="cpu, cuda, ...; the best there is unless given")
    parser.add_argument("--out", type=Path, default=RECORD, help=f"(default: {RECORD.relative_to(ROOT)})")
    return parser


def main() -> None:
    """Train and record."""
    given = build_parser().parse_args()
    try:
        device = pick_device(given.device)
        train_set, test_set = (data.load(given.data, split).to(device) for split in ("train", "test"))
        recipe = Recipe(epochs=given.epochs)
        rows = recorded_rows(given.out, recipe, train_set)
        for seed in sorted(set(given.seeds) - {row["seed"] for row in rows}):
            state_path = given.out.with_suffix(f".seed{seed}.unfinished")
            row = calibrate(train_set, test_set, recipe, seed, state_path)
            rows.append({**row, "hardware": describe_hardware(device)})
            print(f"seed {seed}: accuracy {row['accuracy']:.2%}")
        more = {
            **PUBLISHED,
            "dataset": train_set.name,
            "data_hash": train_set.hash(),
            "hardware": describe_hardware(device),
        }
        seeds = " ".join(str(row["seed"]) for row in rows)
        command = f"python -m tools.measure.calibrate --data {given.data} --epochs {given.epochs} --seeds {seeds}"
        print(save_measurement(given.out, "calibration", command, rows, **more))
    except (ValueError, OSError, RuntimeError) as error:
        sys.exit(f"calibrate: {error}")


if __name__ == "__main__":
    main()
