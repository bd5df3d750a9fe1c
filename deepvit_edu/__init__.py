"""Deeper Vision Transformers, step by step: the package behind the book."""

from .zoo import create_model, list_models  # timm knows the names from here on, too

__version__ = "0.1.0"
__all__ = ["create_model", "list_models"]
