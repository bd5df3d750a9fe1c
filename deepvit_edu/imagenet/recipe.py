"""Recipes: how a model is trained on ImageNet, one file each in `recipes/`, every value with its source."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from timm.data import create_transform

from ..devices import check_precision
from ..nn.model import VisionTransformer
from ..old_options import current_options
from ..options import check_options, option
from ..words import nearest
from ..yaml_files import read_yaml
from ..zoo import create_model, model_config

FOLDER = Path(__file__).parent / "recipes"
EXECUTION = ("compile", "channels_last", "grad_checkpointing")
"""Options that change how fast a step is and not what it computes: a run may be continued with others."""


@dataclass(frozen=True)
class ImageNetRecipe:
    """How to train a model on ImageNet; `recipes/` says where the papers' values come from.

    Raises:
        ValueError: when a number is out of its range, or two options do not fit each other.
    """

    model: str
    model_options: dict = field(default_factory=dict)  # options of `ViTConfig` that differ from the named model's
    num_classes: int = option(1000, at_least=1)
    img_size: int = option(224, at_least=1)
    # Length and batch
    epochs: int = option(300, "of the cosine, with the warm-up", at_least=1)
    cooldown_epochs: int = option(10, "after it, at the lowest rate", at_least=0)
    total_batch: int = option(512, "images a step of the optimizer, over all processes", at_least=1)
    batch_size: int = option(64, "images at a time in each process: what BatchNorm and Mixup see", at_least=1)
    # Optimizer: AdamW
    learning_rate: float = option(5e-4, at_least=0)
    scale_rate: bool = False  # learning_rate * total_batch / rate_for_batch instead of the rate as given
    rate_for_batch: int = option(512, at_least=1)
    min_learning_rate: float = option(1e-5, at_least=0)
    warmup_epochs: int = option(5, at_least=0)
    warmup_learning_rate: float = option(1e-6, at_least=0)
    weight_decay: float = option(0.05, at_least=0)
    clip_grad: float = option(0.0, "0 for no limit", at_least=0)
    ema_decay: float = option(0.99996, "0 for no average", at_least=0, below=1)
    # Regularisation
    drop_path: float = option(0.1, at_least=0, below=1)
    label_smoothing: float = option(0.1, at_least=0, below=1)
    map_penalty: float = option(0.0, "weight of the likeness of neighbouring blocks' maps in the loss", at_least=0)
    map_penalty_pairs: int = option(12, "pairs of blocks that it takes, from the first on; 0 for all", at_least=0)
    # Augmentation
    smallest_crop: float = option(0.08, "share of the image's area", at_least=0, at_most=1)
    flip: float = option(0.5, at_least=0, at_most=1)
    auto_augment: str = "rand-m9-mstd0.5-inc1"
    color_jitter: float = option(0.4, "timm applies it only where there is no auto_augment", at_least=0)
    erase: float = option(0.25, at_least=0, below=1)
    mixup: float = option(0.8, at_least=0)
    cutmix: float = option(1.0, at_least=0)
    mixup_switch: float = option(0.5, "probability of CutMix where both are on", at_least=0, at_most=1)
    # Token labeling
    token_weight: float = option(0.0, "weight of the patch tokens in the loss; 0 for none", at_least=0)
    mix_token: bool = False
    # Execution
    precision: str = "auto"
    compile: bool = False
    channels_last: bool = False
    grad_checkpointing: bool = False
    sync_batchnorm: bool = False
    seed: int = option(42, at_least=0)

    def __post_init__(self) -> None:
        check_options(self)
        self._check_augmentation()
        check_precision(self.precision)
        if self.warmup_epochs > self.epochs:
            raise ValueError(f"warmup_epochs {self.warmup_epochs} is more than the {self.epochs} epochs; set fewer")
        if (self.mixup or self.cutmix or self.mix_token) and self.batch_size % 2:
            raise ValueError(f"Mixup pairs the images of a batch, so batch_size {self.batch_size} must be even")
        if self.mix_token and not self.token_weight:
            raise ValueError("mix_token mixes tokens with their labels; set token_weight=0.5, or mix_token=false")
        if self.map_penalty and (self.token_weight or self.compile or self.grad_checkpointing):
            raise ValueError(
                "map_penalty reads the maps of a plain forward pass; set token_weight to 0, compile and "
                "grad_checkpointing to false with it"
            )
        self.config()

    def _check_augmentation(self) -> None:
        if not self.smallest_crop:
            raise ValueError("smallest_crop is 0; it must be more, as it is the share of the image that stays")
        try:
            if self.auto_augment:
                create_transform(self.img_size, is_training=True, auto_augment=self.auto_augment)
        except (AssertionError, ValueError) as error:
            raise ValueError(
                f"auto_augment is '{self.auto_augment}', which timm does not know; rand-m9-mstd0.5-inc1, say, it does"
            ) from error

    def config(self):
        """The model's `ViTConfig`; ValueError for a model or an option that there is not."""
        return model_config(self.model, **self._overrides())

    def build(self) -> VisionTransformer:
        """A new model with random weights."""
        return create_model(self.model, **self._overrides())

    def _overrides(self) -> dict:
        options = {"num_classes": self.num_classes, "img_size": self.img_size, "drop_path_rate": self.drop_path}
        if self.token_weight:
            options["dense_head"] = True
        return {**options, **self.model_options}

    @property
    def total_epochs(self) -> int:
        """Epochs from the first to the last, cool-down included."""
        return self.epochs + self.cooldown_epochs

    @property
    def highest_rate(self) -> float:
        """The learning rate after the warm-up: as given, or scaled to the batch."""
        return self.learning_rate * (self.total_batch / self.rate_for_batch if self.scale_rate else 1)

    def accumulation(self, processes: int) -> int:
        """How many batches each process goes through for one step, so that the total batch stays.

        Raises:
            ValueError: when the total batch cannot be shared evenly.
        """
        together = processes * self.batch_size
        if self.total_batch % together:
            raise ValueError(
                f"total_batch {self.total_batch} is no multiple of {processes} processes times batch_size "
                f"{self.batch_size}; set batch_size to a divisor of total_batch / {processes}, or another total_batch"
            )
        return self.total_batch // together

    def plan(self, processes: int) -> str:
        """What a run will do, in lines to print before it."""
        how = (
            f"scaled from {self.learning_rate:g} at {self.rate_for_batch}" if self.scale_rate else "as the recipe says"
        )
        parts = f"{processes} processes x {self.batch_size} images x {self.accumulation(processes)} accumulated"
        return (
            f"{self.model}, {self.img_size} pixels, {self.epochs} epochs and {self.cooldown_epochs} of cool-down\n"
            f"total batch {self.total_batch} = {parts}\n"
            f"learning rate {self.highest_rate:g}, {how}"
        )


def list_recipes() -> list[str]:
    """Names of the recipes that come with the package; `common` holds what they share."""
    return sorted(path.stem for path in FOLDER.glob("*.yml") if path.stem != "common")


def load_recipe(name: str | Path, overrides: Iterable[str] = ()) -> ImageNetRecipe:
    """A recipe by its name, or from a file, with options replaced.

    Args:
        name: one of `list_recipes()`, or the path of a `.yml` file.
        overrides: "option=value" each; "model_options.depth=2" reaches into the model.

    Raises:
        FileNotFoundError: when there is no such recipe.
        ValueError: for an option that there is not or a value that does not fit, in one sentence.
    """
    declared = _read(_path_of(name))
    if "model" not in declared:
        raise ValueError(f"the recipe {name} names no model; add a line 'model: deepvit_32b', say")
    for text in overrides:
        _override(declared, text)
    return ImageNetRecipe(**{option: _convert(option, value) for option, value in declared.items()})


def _override(declared: dict, text: str) -> None:
    option, sign, value = (part.strip() for part in text.partition("="))
    if not sign:
        raise ValueError(f"'{text}' sets nothing; write it as option=value")
    group, dot, inner = option.partition(".")
    if dot and group == "model_options":
        declared[group] = {**declared.get(group, {}), inner: _number_or_word(value)}
    else:
        declared[option] = value


def _path_of(name: str | Path) -> Path:
    path = Path(name) if str(name).endswith((".yml", ".yaml")) else FOLDER / f"{name}.yml"
    if not path.is_file():
        raise FileNotFoundError(f"there is no recipe '{name}'{nearest(str(name), list_recipes())}")
    return path


def _read(path: Path) -> dict:
    """What a file declares, upon what it inherits."""
    declared = read_yaml(path)
    if not isinstance(declared, dict):
        raise ValueError(f"{path} holds no recipe; it needs lines of the form 'option: value'")
    declared = current_options(declared)
    parent = declared.pop("inherits", None)
    return {**(_read(_path_of(parent)) if parent else {}), **declared}


def _convert(option: str, value: Any) -> Any:
    """The value as the option's type has it: on a command line all values are words."""
    types = {item.name: item.type for item in fields(ImageNetRecipe)}
    if option not in types:
        raise ValueError(f"a recipe has no option '{option}'{nearest(option, list(types))}")
    make = _truth if types[option] is bool else types[option]
    try:
        converted = make(value)
        if types[option] is int and converted != float(value):
            raise ValueError("a fraction")
    except (TypeError, ValueError) as error:
        raise ValueError(f"{option} is '{value}', which is no {types[option].__name__}; give it one") from error
    return converted


def _truth(value: Any) -> bool:
    known = {"true": True, "false": False}
    if str(value).lower() not in known:
        raise ValueError("neither true nor false")
    return known[str(value).lower()]


def _number_or_word(text: str) -> Any:
    for kind in (int, float, _truth):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def identity(recipe: ImageNetRecipe) -> dict:
    """What of a recipe must agree before a run is continued."""
    return {name: value for name, value in asdict(recipe).items() if name not in EXECUTION}
