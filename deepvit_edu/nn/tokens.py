"""From an image to a sequence of tokens."""

from torch import Tensor, nn


def fitting_sizes(size: int, multiple: int) -> str:
    """The multiples of `multiple` around `size`, in words: for error messages."""
    below = size // multiple * multiple
    return f"{below} and {below + multiple} are" if below else f"{multiple} is"


class PatchEmbed(nn.Module):
    """Cuts an image into square patches and projects each to a token (Dosovitskiy et al. 2021, section 3.1).

    A convolution whose stride is its kernel size is the same linear map applied to every patch.

    Args:
        img_size: height and width of the images, in pixels.
        patch_size: height and width P of a patch, in pixels.
        in_chans: colour channels of the images.
        embed_dim: channels C of a token.

    Raises:
        ValueError: when patches do not tile the image.
    """

    def __init__(self, img_size: int = 224, patch_size: int = 16, in_chans: int = 3, embed_dim: int = 768) -> None:
        super().__init__()
        if img_size < patch_size or img_size % patch_size:
            raise ValueError(
                f"img_size {img_size} is not a multiple of the patch size {patch_size}; "
                f"{fitting_sizes(img_size, patch_size)}"
            )
        self.img_size = img_size
        self.patch_size = patch_size
        self.grid_size = img_size // patch_size
        self.num_tokens = self.grid_size**2
        self.proj = nn.Conv2d(in_chans, embed_dim, kernel_size=patch_size, stride=patch_size)

    def forward(self, images: Tensor) -> Tensor:
        """Images (B, 3, H, W) to tokens (B, N, C), row by row from the top left; ValueError at another size."""
        check_images(images, self.proj.in_channels, self.img_size)
        return self.proj(images).flatten(2).transpose(1, 2)  # (B, C, h, w) -> (B, N, C)


def check_images(images: Tensor, in_chans: int, img_size: int) -> None:
    """Raises ValueError, saying what fits, unless `images` is (B, in_chans, img_size, img_size)."""
    if images.ndim != 4 or tuple(images.shape[1:]) != (in_chans, img_size, img_size):
        raise ValueError(
            f"images of shape {tuple(images.shape)} do not fit this model: it takes (B, {in_chans}, {img_size}, "
            f"{img_size}); resize them, or create the model with another img_size or in_chans"
        )
