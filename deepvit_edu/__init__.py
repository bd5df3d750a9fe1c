"""Deeper Vision Transformers, step by step: the package behind the book."""

__version__ = "0.1.0"
