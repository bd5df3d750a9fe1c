"""The data ladder."""

from deepvit_edu.data.image_set import DataError, ImageSet

__all__ = ["DataError", "ImageSet"]
