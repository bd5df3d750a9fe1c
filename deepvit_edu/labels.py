"""Token labeling (Jiang et al. 2021, LV-ViT): a soft label for every token, and the loss.

A trained model, the annotator, scores every position of every image once; the best scores are kept as label maps in the
authors' layout. In training a map is cropped, resized and mirrored along with its image.
"""

import hashlib
import json
import math
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from .augment import Views, take_views, whole_views
from .data import ImageSet
from .nn.model import VisionTransformer
from .reading import UnreadableError
from .tensors import read_pytorch, read_tensors, write_tensors

LARGEST_CLASS_COUNT = 2048
"""Half precision, in which label maps hold their class numbers, skips whole numbers above it."""


def token_scores(teacher: VisionTransformer, images: Tensor) -> Tensor:
    """A model's class scores at every token of images (B, 3, H, W), as maps (B, K, h, w).

    They come from its dense head, or where it has none from its head applied to every patch token, as in the authors'
    `generate_label.py`.
    """
    tokens = teacher.forward_features(images)[:, teacher.num_prefix_tokens :]  # (B, N, C)
    head = teacher.head if teacher.dense_head is None else teacher.dense_head
    side = math.isqrt(tokens.shape[1])
    return head(tokens).transpose(1, 2).unflatten(2, (side, side))


def keep_top(scores: Tensor, count: int = 5) -> Tensor:
    """Score maps (B, K, h, w) to label maps (B, 2, count, h, w) in half precision: the best scores and their classes.

    Scores that are left out count as zero. So the scores of each position are shifted first, such that its softmax
    keeps the probabilities of the kept classes; the authors store raw scores.

    Raises:
        ValueError: for more than 2,048 classes, since half precision cannot represent all their numbers.
    """
    num_classes = scores.shape[1]
    if num_classes > LARGEST_CLASS_COUNT:
        raise ValueError(
            f"label maps hold class numbers in half precision, which skips some above {LARGEST_CLASS_COUNT}; "
            f"{num_classes} classes are too many"
        )
    best, classes = scores.topk(min(count, num_classes), dim=1)  # (B, count, h, w) each
    left_out = num_classes - best.shape[1]
    if left_out:
        rest = scores.scatter(1, classes, -torch.inf)
        best = best - (rest.logsumexp(dim=1, keepdim=True) - math.log(left_out))
    return torch.stack([best.half(), classes.half()], dim=1)


def check_label_maps(label_maps: Tensor, num_classes: int) -> Tensor:
    """Returns label maps (B, 2, k, h, w); ValueError for another shape, scores that are NaN, or an unknown class."""
    if label_maps.ndim != 5 or label_maps.shape[1] != 2:
        raise ValueError(f"label maps are (B, 2, k, h, w), scores and classes, not {tuple(label_maps.shape)}")
    scores, classes = label_maps.unbind(1)
    if not scores.isfinite().all():
        raise ValueError("the label maps have scores that are NaN or infinite; make them again")
    unknown = (classes < 0) | (classes >= num_classes) | (classes != classes.round())
    if unknown.any():
        raise ValueError(f"the label maps name class {classes[unknown][0]:g} of {num_classes}; they are of other data")
    return label_maps


def fill_in(label_maps: Tensor, num_classes: int) -> Tensor:
    """Label maps (B, 2, k, h, w) to score maps (B, K, h, w), zero where nothing was kept.

    Raises:
        ValueError: for label maps of another shape, or with an unknown class.
    """
    if label_maps.device.type == "cpu":  # on a GPU the check would cause a wait; callers check before moving maps
        check_label_maps(label_maps, num_classes)
    best, classes = label_maps[:, 0].float(), label_maps[:, 1].long()
    batch, _, height, width = best.shape
    return best.new_zeros(batch, num_classes, height, width).scatter(1, classes, best)


@torch.no_grad()
def make_label_maps(
    annotator: Callable[[Tensor], Tensor], dataset: ImageSet, count: int = 5, batch_size: int = 500
) -> Tensor:
    """Label maps (len(dataset), 2, count, h, w) of a whole set.

    Args:
        annotator: normalised images (B, 3, H, W) to score maps (B, K, h, w), in eval mode.
        dataset: the images.
        count: scores to keep at each position.
        batch_size: images at a time.
    """
    batches = dataset.images.split(batch_size)
    return torch.cat([keep_top(annotator(dataset.normalise(batch)), count).cpu() for batch in batches])


def tensor_hash(tensor: Tensor) -> str:
    """SHA-256 of a tensor's values, by which a run knows its label maps again."""
    return hashlib.sha256(tensor.cpu().contiguous().numpy().tobytes()).hexdigest()


def save_label_maps(label_maps: Tensor, path: str | Path, dataset: ImageSet) -> None:
    """Writes label maps, with the hash of the images that they belong to, as safetensors."""
    about = {"data_hash": dataset.hash(), "classes": json.dumps(list(dataset.classes))}
    write_tensors(path, {"label_maps": label_maps}, about)


def load_label_maps(path: str | Path, dataset: ImageSet) -> Tensor:
    """The label maps (len(dataset), 2, k, h, w) that `save_label_maps` wrote for these images.

    Raises:
        ValueError: for a file that is not a label-map file, or belongs to other images.
    """
    tensors, found = read_tensors(path)
    if "label_maps" not in tensors:
        raise UnreadableError(f"{path} holds no label maps; write them with save_label_maps")
    if found.get("data_hash") != dataset.hash():
        raise ValueError(f"{path} was made for other images than {dataset.name} ({dataset.split}); make it again")
    return tensors["label_maps"]


def load_official_label_map(path: str | Path) -> Tensor:
    """The label map (1, 2, k, h, w) of one image in the authors' layout, a `.pt` file of (2, k, h, w) for each image.

    Raises:
        ValueError: for any other file.
    """
    label_map = read_pytorch(path)
    if not isinstance(label_map, Tensor) or label_map.ndim != 4 or len(label_map) != 2:
        raise ValueError(f"{path} holds no label map, a tensor (2, k, h, w) of scores and classes")
    return label_map[None]


def soft_targets(
    label_maps: Tensor, num_classes: int, grid_size: int, views: Views | None = None, smoothing: float = 0.0
) -> tuple[Tensor, Tensor]:
    """The targets of the views of images: of the class token (B, K) and of every patch token (B, N, K).

    Scores are resized and the softmax comes after, as in the authors' code; the class token's are their mean.

    Args:
        label_maps: (B, 2, k, h, w).
        num_classes: how many classes, K.
        grid_size: tokens along a side, the square root of N.
        views: the crops of the images; the whole images unless given.
        smoothing: probability of each target that is spread over all classes.
    """
    scores = fill_in(label_maps, num_classes)  # (B, K, h, w)
    views = whole_views(len(scores)) if views is None else views
    of_class = take_views(scores, views, 1).flatten(1)  # (B, K)
    of_tokens = take_views(scores, views, grid_size).flatten(2).transpose(1, 2)  # (B, N, K)
    return tuple(smooth(scores.softmax(dim=-1), smoothing) for scores in (of_class, of_tokens))


def smooth(targets: Tensor, smoothing: float) -> Tensor:
    """Distributions (…, K) after label smoothing: the probability `smoothing` of each is spread over all classes."""
    return targets * (1 - smoothing) + smoothing / targets.shape[-1]


def token_labeling_loss(
    class_logits: Tensor,
    token_logits: Tensor,
    class_targets: Tensor,
    token_targets: Tensor,
    class_weight: float = 1.0,
    token_weight: float = 0.5,
) -> Tensor:
    """The weighted sum of two cross-entropies: of the class token, and of all patch tokens.

    Args:
        class_logits: (B, K).
        token_logits: (B, N, K).
        class_targets: distributions (B, K), or labels (B,).
        token_targets: distributions (B, N, K).
        class_weight, token_weight: 1 and 0.5 in Refiner's recipes; LV-ViT's code has 1 for both by default.

    Raises:
        ValueError: when logits and targets of the tokens differ in shape.
    """
    if token_logits.shape != token_targets.shape:
        raise ValueError(
            f"token logits {tuple(token_logits.shape)} and token targets {tuple(token_targets.shape)} differ; make the "
            f"targets with the model's grid size and number of classes"
        )
    of_class = F.cross_entropy(class_logits.float(), class_targets)
    of_tokens = F.cross_entropy(token_logits.float().flatten(0, 1), token_targets.flatten(0, 1))
    return class_weight * of_class + token_weight * of_tokens
