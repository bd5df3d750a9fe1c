"""Recipes as files: the papers' in `recipes/`, every value with its source, and the reader's own."""

from dataclasses import asdict, dataclass, fields
from pathlib import Path

from ..nn.model import VisionTransformer, ViTConfig
from ..old_options import current_options
from ..words import nearest
from ..yaml_files import read_yaml
from ..zoo import create_model, model_config
from .recipe import Recipe

FOLDER = Path(__file__).parent / "recipes"
COMMON = FOLDER / "common.yml"
"""What the papers' scripts share; a file that inherits from no other inherits from this one."""
OF_THE_MODEL = ("num_classes", "img_size")
"""Options of the model that a file gives beside those of the recipe."""


@dataclass(frozen=True)
class Setup:
    """A model and how it is trained: what a recipe's file declares.

    Args:
        model: its name.
        model_options: options of `ViTConfig` that differ from the named model's.
        recipe: how it is trained.

    Raises:
        ValueError: for an unknown model or option of it.
    """

    model: str
    model_options: dict
    recipe: Recipe

    def __post_init__(self) -> None:
        self.config()

    def config(self) -> ViTConfig:
        """The model's configuration."""
        return model_config(self.model, **self._overrides())

    def build(self) -> VisionTransformer:
        """A new model with random weights."""
        return create_model(self.model, **self._overrides())

    def _overrides(self) -> dict:
        dense = {"dense_head": True} if self.recipe.token_weight else {}
        return {"drop_path_rate": self.recipe.drop_path, **dense, **self.model_options}


def list_recipes() -> list[str]:
    """Names of the recipes that come with the package."""
    return sorted(path.stem for path in FOLDER.glob("*.yml") if path != COMMON)


def load_recipe(name: str | Path, **changes: object) -> Setup:
    """A model and its recipe, by name or from a file.

    Args:
        name: one of `list_recipes()`, or the path of a `.yml` file.
        changes: options of the recipe to replace; `model`, `model_options`, `num_classes` and `img_size` as well.

    Raises:
        FileNotFoundError: when there is no such recipe.
        ValueError: for an unknown option or a value that does not fit, in one sentence.
    """
    declared, model_options = _read(_path_of(name)), {}
    for options in (declared, changes):
        model_options |= {option: options.pop(option) for option in OF_THE_MODEL if option in options}
        more = options.pop("model_options", {})
        if not isinstance(more, dict):
            raise ValueError(f"model_options is {more!r}; it must be a table of options and their values")
        model_options |= more
    declared |= changes
    if "model" not in declared:
        raise ValueError(f"the recipe {name} names no model; add a line 'model: deepvit_32b', say")
    return Setup(declared.pop("model"), model_options, Recipe(**_checked(declared)))


def recipe_options(name: str | Path) -> dict:
    """What a recipe's file declares of the recipe, without model and seed: for plans, which have their own.

    Raises:
        FileNotFoundError, ValueError: as of `load_recipe`.
    """
    setup, declared = load_recipe(name), _read(_path_of(name))  # the first checks
    return {option: value for option, value in declared.items() if option in asdict(setup.recipe) and option != "seed"}


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
    if path == COMMON:
        return declared
    return {**_read(_path_of(declared.pop("inherits", COMMON))), **declared}


def _checked(declared: dict) -> dict:
    known = [item.name for item in fields(Recipe)]
    for option in declared:
        if option not in known:
            raise ValueError(f"a recipe has no option '{option}'{nearest(str(option), known)}")
    return declared
