"""How to train: one recipe, from a small set in memory to all of ImageNet."""

from dataclasses import asdict, dataclass

from timm.data import create_transform

from ..devices import check_precision
from ..options import LARGEST_SEED, check_options, option

EXECUTION = ("compile", "channels_last", "grad_checkpointing")
"""Options that change how fast a step is and not what it computes, so a run may be continued with others."""


@dataclass(frozen=True)
class Recipe:
    """How to train. Learning rates are per step of the optimizer, used as given unless `scale_rate` is on.

    `recipes/` holds the papers' recipes as files, every value with its source.

    Raises:
        ValueError: when a number is out of its range, or two options do not fit each other.
    """

    # Length and batch
    epochs: int = option(20, "passes over the training images", at_least=1)
    cooldown_epochs: int = option(0, "passes after these, at the lowest rate; with cosine-by-epoch", at_least=0)
    batch_size: int = option(128, "images at a time in each process: what BatchNorm and Mixup see", at_least=1)
    total_batch: int = option(
        0, "images a step of the optimizer, over all processes; 0 for those of one batch", at_least=0
    )
    evaluate_every: int = option(0, "images between two evaluations; 0 for one after each epoch", at_least=0)
    # Optimizer: AdamW
    learning_rate: float = option(1e-3, "highest learning rate, after the warm-up", at_least=0)
    scale_rate: bool = option(False, "multiply it by the images a step over rate_for_batch")
    rate_for_batch: int = option(512, "images a step that learning_rate is meant for, with scale_rate", at_least=1)
    min_learning_rate: float = option(1e-5, "learning rate at the end of the schedule", at_least=0)
    warmup_epochs: float = option(1.0, "epochs in which the learning rate rises; at most half of them", at_least=0)
    warmup_learning_rate: float = option(1e-6, "where it starts, with cosine-by-epoch", at_least=0)
    schedule: str = option(
        "cosine",
        "of the learning rate: cosine; constant, of which the last fifth falls; cosine-by-epoch, as in the papers",
        choices=("cosine", "constant", "cosine-by-epoch"),
    )
    weight_decay: float = option(0.05, "of AdamW; none on biases, norms, positions and class token", at_least=0)
    clip_grad: float = option(1.0, "largest norm of the gradient; 0 for no limit", at_least=0)
    ema_decay: float = option(
        0.0, "average the weights with this decay and evaluate the average; 0 for none", at_least=0, below=1
    )
    ema_warmup: bool = option(
        True, "the average's decay rises from 0 and its BatchNorm is measured anew; off: as the papers' scripts"
    )
    # Regularisation
    label_smoothing: float = option(0.1, "part of the target that is spread over all classes", at_least=0, below=1)
    drop_path: float = option(
        0.0, "stochastic depth: the probability in the last block; 0 for what the model has", at_least=0, below=1
    )
    map_penalty: float = option(
        0.0, "weight of the similarity of neighbouring blocks' maps in the loss; 0 for none", at_least=0
    )
    map_penalty_pairs: int = option(0, "pairs of blocks that it takes, from the first on; 0 for all", at_least=0)
    # Augmentation
    images_from: str = option(
        "memory",
        "memory: read once, augmented in batches on the device; files: read in every epoch, augmented one by one",
        choices=("memory", "files"),
    )
    crop_padding: int = option(4, "pixels by which images are shifted at most; from memory", at_least=0)
    smallest_crop: float = option(
        0.0, "smallest part of the image's area in a random crop; 0 for shifts instead", at_least=0, at_most=1
    )
    flip: float = option(0.5, "probability with which an image is mirrored", at_least=0, at_most=1)
    rand_augment: int = option(0, "operations of RandAugment an image; 0 for none; from memory", at_least=0)
    rand_magnitude: int = option(9, "strength of these operations, 0 to 30", at_least=0, at_most=30)
    auto_augment: str = option("", "timm's augmentation, such as rand-m9-mstd0.5-inc1; from files")
    color_jitter: float = option(0.0, "timm's, where there is no auto_augment; from files", at_least=0)
    mixup: float = option(0.0, "alpha of Mixup's Beta distribution; 0 for none", at_least=0)
    cutmix: float = option(0.0, "alpha of CutMix's Beta distribution; 0 for none", at_least=0)
    mixup_switch: float = option(0.5, "probability of CutMix where both are on", at_least=0, at_most=1)
    erase: float = option(0.0, "probability of random erasing", at_least=0, below=1)
    # Token labeling
    token_weight: float = option(0.0, "weight of the patch tokens in the loss (token labeling); 0 for none", at_least=0)
    class_from_maps: bool = option(False, "the class token, too, learns from the label maps, not the image's label")
    mix_token: bool = option(False, "MixToken: tokens mixed with those of another image, within a box")
    # Fewer tokens
    ratio_weight: float = option(0.0, "weight of the share of tokens that masks keep; 0 for none", at_least=0)
    teacher: str = option(
        "", "trained model that class_distillation and token_distillation learn from: a file of ours or the authors'"
    )
    teacher_model: str = option("", "name of its model, for an authors' file; it is built to keep all its tokens")
    class_distillation: float = option(0.0, "weight of the likeness to the teacher's classes; 0 for none", at_least=0)
    token_distillation: float = option(0.0, "weight of the likeness to its tokens; 0 for none", at_least=0)
    class_head_weight: float = option(
        0.0, "part of the loss that Evo-ViT's second head, on the class token, has", at_least=0, at_most=1
    )
    every_block_epochs: int = option(
        0, "first epochs in which Evo-ViT selects before every block from the first selection on", at_least=0
    )
    backbone_rate: float = option(
        1.0, "factor on the learning rate of all but what selects tokens", at_least=0, at_most=1
    )
    frozen_epochs: int = option(0, "first epochs in which only what selects tokens learns", at_least=0)
    # Execution
    precision: str = option("auto", "float32, bfloat16, float16, or auto: what the device does natively")
    compile: bool = option(False, "compile the model (torch.compile)")
    channels_last: bool = option(False, "another order in memory, for convolutional stems")
    grad_checkpointing: bool = option(False, "compute each block again on the way back: less memory, more time")
    sync_batchnorm: bool = option(False, "BatchNorm over the batches of all GPUs")
    seed: int = option(0, "of the images' order and of all augmentation", at_least=0, at_most=LARGEST_SEED)

    def __post_init__(self) -> None:
        check_options(self)
        check_precision(self.precision)
        self._check_lengths()
        self._check_augmentation()
        if self.map_penalty and (self.compile or self.grad_checkpointing):
            raise ValueError(
                "map_penalty reads the maps, which a compiled or checkpointed model does not show; set compile to "
                "false and grad_checkpointing to false"
            )
        if self.token_weight and not self.smallest_crop:
            raise ValueError("token labels are cropped with their images; set smallest_crop, too, to 0.5 for instance")
        if bool(self.teacher) != bool(self.class_distillation or self.token_distillation):
            raise ValueError(
                "a teacher is for class_distillation and token_distillation, and they for a teacher; set both or none"
            )
        if self.teacher_model and not self.teacher:
            raise ValueError("teacher_model is the name of a teacher's model; set teacher, too, to its file")
        if (self.teacher or self.ratio_weight or self.class_head_weight) and self.token_weight:
            raise ValueError("token labels do not go with the losses of dropped tokens; set token_weight to 0")
        if self.mix_token and not self.token_weight:
            raise ValueError("mix_token mixes tokens with their labels; set token_weight, too, to 0.5 for instance")

    def _check_lengths(self) -> None:
        by_epoch = self.schedule == "cosine-by-epoch"
        if by_epoch and self.warmup_epochs > self.epochs:
            raise ValueError(f"warmup_epochs {self.warmup_epochs} is more than the {self.epochs} epochs; set fewer")
        if self.cooldown_epochs and not by_epoch:
            raise ValueError("cooldown_epochs follow a schedule by epochs; set schedule to cosine-by-epoch")
        if self.images_per_step % self.batch_size:
            raise ValueError(
                f"total_batch is {self.total_batch} images, which no number of batches of {self.batch_size} makes; "
                "choose a multiple of batch_size"
            )
        if self.evaluate_every % self.images_per_step:
            raise ValueError(
                f"evaluate_every is {self.evaluate_every} images, which no number of steps of {self.images_per_step} "
                "makes; choose a multiple of batch_size, or of total_batch where that is set"
            )
        if (self.mixup or self.cutmix or self.mix_token) and self.batch_size % 2:
            raise ValueError(f"Mixup pairs the images of a batch, so batch_size {self.batch_size} must be even")

    def _check_augmentation(self) -> None:
        if self.images_from == "memory":
            if self.auto_augment or self.color_jitter:
                raise ValueError(
                    "auto_augment and color_jitter are for images from files, one by one; set rand_augment for images "
                    "from memory, or images_from to files"
                )
            return
        if not self.smallest_crop:
            raise ValueError("smallest_crop is 0; it must be more, as it is the share of the image that stays")
        if self.rand_augment:
            raise ValueError("rand_augment is for images from memory; set auto_augment for those from files")
        if self.ema_decay and self.ema_warmup:
            raise ValueError("ema_warmup measures BatchNorm on images from memory; set it to false with files")
        try:
            if self.auto_augment:
                create_transform(224, is_training=True, auto_augment=self.auto_augment)
        except (AssertionError, ValueError) as error:
            raise ValueError(
                f"auto_augment is '{self.auto_augment}', which timm does not know; rand-m9-mstd0.5-inc1, say, it does"
            ) from error

    @property
    def images_per_step(self) -> int:
        """Images a step of the optimizer, over all processes."""
        return self.total_batch or self.batch_size

    @property
    def total_epochs(self) -> int:
        """Epochs from the first to the last, cool-down included."""
        return self.epochs + self.cooldown_epochs

    @property
    def highest_rate(self) -> float:
        """The learning rate after the warm-up: as given, or scaled to the images a step."""
        return self.learning_rate * (self.images_per_step / self.rate_for_batch if self.scale_rate else 1)

    def accumulation(self, processes: int) -> int:
        """How many batches each process goes through for one step, so that a step has as many images as ever.

        Raises:
            ValueError: when the images of a step cannot be shared evenly.
        """
        if self.images_per_step % (processes * self.batch_size):
            raise ValueError(
                f"a step of {self.images_per_step} images is no multiple of {processes} processes times batch_size "
                f"{self.batch_size}; set batch_size to a divisor of {self.images_per_step} / {processes}, or another "
                "total_batch"
            )
        return self.images_per_step // (processes * self.batch_size)

    def describe(self, processes: int) -> str:
        """What a run will do, in lines to print before it."""
        how = f"scaled from {self.learning_rate:g} at {self.rate_for_batch}" if self.scale_rate else "as given"
        plural = "es" if processes > 1 else ""
        parts = f"{processes} process{plural} x {self.batch_size} images x {self.accumulation(processes)} accumulated"
        return (
            f"{self.epochs} epochs{f' and {self.cooldown_epochs} of cool-down' if self.cooldown_epochs else ''}\n"
            f"{self.images_per_step} images a step = {parts}\n"
            f"learning rate {self.highest_rate:g}, {how}"
        )

    def identity(self) -> dict:
        """What must agree before a run is continued."""
        return {name: value for name, value in asdict(self).items() if name not in EXECUTION}
