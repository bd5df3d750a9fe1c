"""Batches of images: which ones belong to a step, and those of sets in memory.

All randomness of a batch follows from the seed, the step and the batch's number in it, so neither the number of
processes nor a restart at any step changes what is computed.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from timm.utils import random_seed
from torch import Tensor

from ..augment import Views, rand_augment, random_crop, random_flip, random_views, take_views
from ..data import ImageSet
from ..labels import check_label_maps, tensor_hash
from ..nn.model import VisionTransformer
from .processes import Processes
from .recipe import Recipe


class Batch(NamedTuple):
    """A batch of images, normalised (B, 3, S, S), and what belongs to it.

    `labels` (B,) and `numbers` (B,), which images these are; where there are such, the `views` that are seen of them,
    their `label_maps` (B, 2, k, h, w), and whether each was `readable` (B,), where another may stand in for it.
    """

    images: Tensor
    labels: Tensor
    numbers: Tensor
    views: Views | None = None
    label_maps: Tensor | None = None
    readable: Tensor | None = None


def seed_of(*numbers: int) -> int:
    """One seed from several numbers, such that neighbours have nothing in common."""
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])


@dataclass
class StepSampler:
    """Which images each process sees at each step: a function of the seed, not of how many processes there are.

    A step's images are cut into batches of `batch_size`, dealt to the processes in turn.

    Args:
        train_set: the images, with their `order` in an epoch.
        recipe: for the images a step, the batch and the seed.
        processes: for this one's part.

    Raises:
        ValueError: when the images are too few for a step, or cannot be shared evenly.
    """

    train_set: Any
    recipe: Recipe
    processes: Processes

    def __post_init__(self) -> None:
        self.count = self.recipe.accumulation(self.processes.count)
        self._order: tuple[int, Tensor] | None = None
        if not self.steps_per_epoch:
            what = "total_batch" if self.recipe.total_batch else "a batch of"
            raise ValueError(
                f"{what} {self.recipe.images_per_step} is more than the {len(self.train_set)} training images; "
                "choose a smaller batch"
            )

    @property
    def steps_per_epoch(self) -> int:
        """Steps of the optimizer an epoch; what does not fill a step is left out."""
        return len(self.train_set) // self.recipe.images_per_step

    @property
    def batches(self) -> range:
        """The numbers, within a step, of this process's batches."""
        return range(self.processes.rank, self.processes.count * self.count, self.processes.count)

    @property
    def all_batches(self) -> range:
        """The numbers, within a step, of everyone's batches."""
        return range(self.processes.count * self.count)

    def steps(self, first: int) -> range:
        """The numbers of all steps from the first to the end of training."""
        return range(first, self.recipe.total_epochs * self.steps_per_epoch)

    def images(self, step: int, batch: int) -> Tensor:
        """The numbers of the images (B,) of a batch of a step."""
        epoch, position = divmod(step, self.steps_per_epoch)
        at = position * self.recipe.images_per_step + batch * self.recipe.batch_size
        return self.order(epoch)[at : at + self.recipe.batch_size]

    def order(self, epoch: int) -> Tensor:
        """All images in the order of an epoch."""
        if self._order is None or self._order[0] != epoch:
            generator = torch.Generator().manual_seed(seed_of(self.recipe.seed, epoch))
            self._order = (epoch, self.train_set.order(generator))
        return self._order[1]

    def set_seed(self, step: int, batch: int) -> None:
        """Starts all generators anew for a batch of a step."""
        # From 1 on, since zeros at its end would not change a seed, and an epoch has one, too.
        random_seed(seed_of(self.recipe.seed, step, batch + 1))


class MemoryBatches:
    """Batches of images in memory, which are augmented as uint8 where they lie: on the device.

    Args:
        train_set, test_set: the images.
        recipe: how to augment.
        model: for which they are to fit.
        processes: which share each step.
        label_maps: (N, 2, k, h, w), targets of the patch tokens of the training images; none unless given.

    Raises:
        ValueError: when sets, model, recipe and label maps do not fit each other.
    """

    def __init__(
        self,
        train_set: ImageSet,
        test_set: ImageSet,
        recipe: Recipe,
        model: VisionTransformer,
        processes: Processes,
        label_maps: Tensor | None = None,
    ) -> None:
        size = train_set.img_size
        if size != model.config.img_size:
            raise ValueError(
                f"the images are {size} pixels wide and the model takes {model.config.img_size}; give both one size"
            )
        if label_maps is not None and len(check_label_maps(label_maps, train_set.num_classes)) != len(train_set):
            raise ValueError(
                f"there are {len(label_maps)} label maps for {len(train_set)} images; make them of these images"
            )
        self.recipe, self.sampler, self.device = recipe, StepSampler(train_set, recipe, processes), processes.device
        self.train_set, self.test_set = train_set.to(self.device), test_set.to(self.device)
        self.label_maps = None if label_maps is None else label_maps.to(self.device)
        self.label_maps_hash = None if label_maps is None else tensor_hash(label_maps)

    def training(self, first_step: int) -> Iterator[Batch]:
        """This process's batches from a step on, one after the other; each leaves the generators as its seed does."""
        return (self.batch(step, number) for step in self.sampler.steps(first_step) for number in self.sampler.batches)

    def again(self, steps: Iterable[int]) -> Iterator[Batch]:
        """All processes' batches of some steps, as they were."""
        return (self.batch(step, number) for step in steps for number in self.sampler.all_batches)

    def batch(self, step: int, number: int) -> Batch:
        """A batch of a step: a function of these numbers and the seed alone."""
        r, chosen = self.recipe, self.sampler.images(step, number).to(self.device)
        self.sampler.set_seed(step, number)
        images, labels = self.train_set.batch(chosen)
        views = random_views(len(images), r.smallest_crop, r.flip) if r.smallest_crop else None
        if views is None:
            images = random_flip(random_crop(images, r.crop_padding), r.flip)
        images = self.train_set.normalise(rand_augment(images, r.rand_augment, r.rand_magnitude))
        if views is not None:
            images = take_views(images, views, images.shape[-1])
        label_maps = None if self.label_maps is None else self.label_maps.index_select(0, chosen)
        return Batch(images, labels, chosen, views, label_maps)


def test_batches(test_set: ImageSet, batch_size: int, processes: Processes) -> Iterator[Batch]:
    """The images of a set in memory, in order and normalised on the device, each batch for one of the processes."""
    numbers = torch.arange(len(test_set)).split(batch_size)
    for some in numbers[processes.rank :: processes.count]:
        at = slice(int(some[0]), int(some[-1]) + 1)
        images = test_set.normalise(test_set.images[at].to(processes.device))
        yield Batch(images, test_set.labels[at].to(processes.device), some)


test_batches.__test__ = False  # it is no test of pytest's
