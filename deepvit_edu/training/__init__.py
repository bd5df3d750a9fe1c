"""Training and evaluation: one recipe, one loop, from a notebook to all of ImageNet on many GPUs."""

from ..signals import Interrupted
from .evaluation import evaluate
from .loop import NonFiniteLossError, Run, Settings, TrialEnded, make_batches, train
from .recipe import Recipe
from .recipe_files import Setup, list_recipes, load_recipe

__all__ = [
    "Interrupted",
    "NonFiniteLossError",
    "Recipe",
    "Run",
    "Settings",
    "Setup",
    "TrialEnded",
    "evaluate",
    "list_recipes",
    "load_recipe",
    "make_batches",
    "train",
]
