"""Deeper Vision Transformers, step by step: the package behind the book."""

from . import timm_names  # timm knows the models from here on, too
from .zoo import create_model, list_models

__version__ = "0.1.0"
__all__ = ["create_model", "list_models", "timm_names"]
