"""Small things that several tests use."""

import torch

from deepvit_edu.data.image_set import ImageSet
from deepvit_edu.nn.model import VisionTransformer, ViTConfig

TINY = ViTConfig(img_size=8, patch_size=4, embed_dim=16, depth=2, num_heads=2, num_classes=3)


def tiny_set(count: int = 24, split: str = "train", seed: int = 0) -> ImageSet:
    """Noise in three classes that differ in brightness, 8 pixels wide."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % 3
    noise = torch.randint(0, 80, (count, 3, 8, 8), generator=generator)
    images = (noise + 80 * labels[:, None, None, None]).to(torch.uint8)
    return ImageSet(images, labels, ["dark", "grey", "bright"], "noise", "shapes", split)


def tiny_model(**options: object) -> VisionTransformer:
    torch.manual_seed(0)
    return VisionTransformer(ViTConfig(**{**TINY.__dict__, **options}))
