"""Plausible wrong answers to the exercises of chapter 6."""

import math

import torch
import torch.nn.functional as F

from deepvit_edu.nn import mix_token

from . import mutant


def _with_truth(targets, classes, weight):
    weight = weight[:, None]
    return weight * targets + (1 - weight) * F.one_hot(classes, targets.shape[1])


def _agree(targets, classes):
    return (targets.argmax(dim=1) == classes).float()


@mutant("6.1", says="have changed places")
def alike_and_unlike_swapped(targets, classes, alike, unlike):
    """The weight for agreement is used where annotator and label disagree, and the other way round."""
    agree = _agree(targets, classes)
    return _with_truth(targets, classes, unlike * agree + alike * (1 - agree))


@mutant("6.1", says="the *annotator's* target weighs")
def weights_of_the_label(targets, classes, alike, unlike):
    """The weight is given to the true label instead of the annotator's target."""
    agree = _agree(targets, classes)
    return _with_truth(targets, classes, 1 - alike * agree - unlike * (1 - agree))


@mutant("6.1", says="slides with the probability")
def soft_agreement(targets, classes, alike, unlike):
    """The probability of the true class takes the place of the comparison of classes."""
    own = targets.gather(1, classes[:, None])[:, 0]
    return _with_truth(targets, classes, alike * own + unlike * (1 - own))


@mutant("6.1", says="one and the same weight")
def one_decision_for_the_batch(targets, classes, alike, unlike):
    """Annotator and label are compared once for the whole batch: `if (a == b).all()`."""
    weight = alike if _agree(targets, classes).all() else unlike
    return _with_truth(targets, classes, torch.full((len(targets),), weight))


@mutant("6.1", says="do not sum to 1")
def label_left_out(targets, classes, alike, unlike):
    """The annotator's target is made smaller, and nothing takes the place of what it lost."""
    agree = _agree(targets, classes)
    return (alike * agree + unlike * (1 - agree))[:, None] * targets


@mutant("6.1", says="targets have been changed in place")
def written_into_the_targets(targets, classes, alike, unlike):
    """The annotator's targets are overwritten, so that the next epoch starts from mixed ones."""
    agree = _agree(targets, classes)
    return targets.copy_(_with_truth(targets, classes, alike * agree + unlike * (1 - agree)))


def _targets_of_crop(scores, crop, mirrored, grid, mirror_first=False, reshaped=False, softmax_first=False):
    left, top, right, bottom = crop
    scores = scores.softmax(dim=1) if softmax_first else scores
    scores = scores.flip(-1) if mirrored and mirror_first else scores
    cropped = scores[:, :, top:bottom, left:right]
    cropped = cropped.flip(-1) if mirrored and not mirror_first else cropped
    resized = F.adaptive_avg_pool2d(cropped, grid)
    out = resized.reshape(len(scores), grid**2, -1) if reshaped else resized.flatten(2).transpose(1, 2)
    return out if softmax_first else out.softmax(dim=-1)


@mutant("6.2", says="score maps have been changed in place")
def written_into_the_maps(scores, crop, mirrored, grid):
    """The stored maps are shifted to a largest score of 0 in place, which changes no probability."""
    scores -= scores.amax(dim=1, keepdim=True)
    return _targets_of_crop(scores, crop, mirrored, grid)


@mutant("6.2", says="labels of another part of the image")
def still_mirrored_first(*parts):
    """Only the axes were mended: the whole map is still mirrored before the crop is cut."""
    return _targets_of_crop(*parts, mirror_first=True)


@mutant("6.2", says="a reshape does not move axes")
def still_reshaped(*parts):
    """Only the mirroring was mended: places and classes are still mixed up."""
    return _targets_of_crop(*parts, reshaped=True)


@mutant("6.2", says="softmax comes before the resizing")
def softmax_first(*parts):
    """The softmax moved to the front in the course of the repair."""
    return _targets_of_crop(*parts, softmax_first=True)


@mutant("6.2", says="x and y have changed places")
def rows_and_columns_swapped(scores, crop, mirrored, grid):
    """The crop's numbers are taken for top, left, bottom, right."""
    return _targets_of_crop(scores, (crop[1], crop[0], crop[3], crop[2]), mirrored, grid)


@mutant("6.2", says="not mirrored")
def mirroring_dropped(scores, crop, mirrored, grid):
    """The mirroring was taken out, and not put in again after the cut."""
    return _targets_of_crop(scores, crop, False, grid)


def _lengths(side, grid):
    """The length that is left of a side, for each centre."""
    return [min(centre - side // 2 + side, grid) - max(centre - side // 2, 0) for centre in range(grid)]


@mutant("6.3", says="hangs over the edge of the grid is not lost yet")
def nothing_hangs_over(grid):
    """The side is rounded down, but boxes are taken to lie inside the grid."""
    return sum((2 * side + 1) / grid**2 * side**2 / grid**2 for side in range(grid))


@mutant("6.3", says="where cells are tiny")
def continuous_box(grid):
    """The integral for a box in a square without cells: the side is not rounded."""
    return 1 / 2 - 1 / 5 + 1 / 48


@mutant("6.3", says="every side has the same probability")
def sides_equally_likely(grid):
    """Sides are weighted alike; it is the area that is uniform."""
    return sum((sum(_lengths(side, grid)) / grid**2) ** 2 for side in range(grid)) / grid


@mutant("6.3", says="square of the mean length")
def mean_length_squared(grid):
    """The mean over sides is taken before height and width are multiplied."""
    return sum((2 * side + 1) / grid**2 * sum(_lengths(side, grid)) / grid**2 for side in range(grid)) ** 2


@mutant("6.3", says="mean of draws")
def by_simulation(grid):
    """The fraction is estimated from random boxes."""
    boxes = torch.tensor([mix_token.random_box(grid) for _ in range(500)])
    return ((boxes[:, 2:] - boxes[:, :2]).prod(dim=1) / grid**2).mean().item()


def _mixed_loss(class_logits, token_logits, y, token_y, box, beta, area=None, partner=None, moved=True, over=None):
    grid = math.isqrt(token_y.shape[1])
    top, left, bottom, right = box
    partner = list(range(len(y)))[::-1] if partner is None else partner
    inside = torch.zeros(grid, grid, dtype=torch.bool)
    inside[top:bottom, left:right] = True
    share = inside.float().mean() if area is None else area(inside.float().mean())
    y = (1 - share) * y + share * y[partner]
    if moved:
        token_y = torch.where(inside.flatten()[:, None], token_y[partner], token_y)
    of_class = -(y * class_logits.log_softmax(-1)).sum(-1).mean()
    of_tokens = -(token_y * token_logits.log_softmax(-1)).sum(-1)
    return of_class + beta * (of_tokens.mean() if over is None else of_tokens.sum(over).mean())


@mutant("6.5", says="the class target is not mixed")
def class_target_as_it_was(*parts):
    """The class token's target stays the image's own."""
    return _mixed_loss(*parts, area=lambda share: 0.0)


@mutant("6.5", says="takes each image for the other")
def area_of_the_rest(*parts):
    """The partner's target gets the area outside the box."""
    return _mixed_loss(*parts, area=lambda share: 1 - share)


@mutant("6.5", says="neither has been moved")
def tokens_as_they_stand(*parts):
    """Token logits of a mixed batch meet the targets of the unmixed images."""
    return _mixed_loss(*parts, moved=False)


@mutant("6.5", says="every patch token's target is mixed by area")
def token_targets_by_area(class_logits, token_logits, y, token_y, box, beta):
    """The rule for the class token is used for every patch token as well."""
    share = (box[2] - box[0]) * (box[3] - box[1]) / token_y.shape[1]
    mixed = (1 - share) * token_y + share * token_y.flip(0)
    return _mixed_loss(class_logits, token_logits, y, mixed, box, beta, moved=False)


@mutant("6.5", says="images get a wrong partner")
def partner_by_roll(class_logits, *parts):
    """The partner is the next image of the batch, not the one of the flipped batch."""
    images = len(class_logits)
    return _mixed_loss(class_logits, *parts, partner=[(b + 1) % images for b in range(images)])


@mutant("6.5", says="lies on its side")
def box_transposed(class_logits, token_logits, y, token_y, box, beta):
    """Rows and columns of the box are exchanged; its area does not show it."""
    return _mixed_loss(class_logits, token_logits, y, token_y, (box[1], box[0], box[3], box[2]), beta)


@mutant("6.5", says="a sum over the tokens")
def sum_over_tokens(*parts):
    """The patch tokens' term is summed over tokens: beta means N times as much."""
    return _mixed_loss(*parts, over=1)
