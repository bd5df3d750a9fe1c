"""Plausible wrong answers to the exercises of chapter 1."""

import math
from copy import deepcopy

from . import mutant


def _grid(patches, patch_size):
    side = math.isqrt(len(patches))
    return patches.reshape(side, side, 3, patch_size, patch_size)


@mutant("1.1", says="A reshape moves no number")
def reshape_only(patches, patch_size):
    """One reshape to the image's shape, without a permutation."""
    side = math.isqrt(len(patches)) * patch_size
    return patches.reshape(3, side, side)


@mutant("1.1", says="column by column")
def columns_first(patches, patch_size):
    """The grid's two axes are taken in the wrong order: patches are laid out column by column."""
    return _grid(patches, patch_size).permute(2, 1, 3, 0, 4).flatten(3).flatten(1, 2)


@mutant("1.1", says="spread over the whole image")
def grid_inside_patch(patches, patch_size):
    """The pixel's axis is put before the grid's, so a patch is spread over the image."""
    return _grid(patches, patch_size).permute(2, 3, 0, 4, 1).flatten(3).flatten(1, 2)


@mutant("1.1", says="colours are mixed up")
def colours_last(patches, patch_size):
    """A patch is read as (P, P, 3), colours last, as image files have it."""
    side = math.isqrt(len(patches))
    grid = patches.reshape(side, side, patch_size, patch_size, 3)
    return grid.permute(4, 0, 2, 1, 3).flatten(3).flatten(1, 2)


def _attention(qkv, num_heads, over=-1, width=None, order=(0, 2, 1, 3)):
    query, key, value = qkv.unflatten(-1, (3, num_heads, -1)).permute(2, 0, 3, 1, 4)
    scores = query @ key.transpose(-2, -1) / math.sqrt(width or query.shape[-1])
    out = scores.softmax(dim=over) @ value
    return out.permute(order).reshape(*qkv.shape[:2], -1)


@mutant("1.2", says="one fault is left: the probabilities of one query")
def softmax_still_over_queries(qkv, num_heads):
    """Only scale and merging were mended: the softmax still runs over the queries."""
    return _attention(qkv, num_heads, over=-2)


@mutant("1.2", says="one fault is left: the scores shrink")
def scale_still_of_all_channels(qkv, num_heads):
    """Only softmax and merging were mended: the scores are still divided by the root of C."""
    return _attention(qkv, num_heads, width=qkv.shape[-1] // 3)


@mutant("1.2", says="one fault is left: the scores are divided by the root of the number of heads")
def scale_of_the_number_of_heads(qkv, num_heads):
    """C, H and D are mixed up: the scores are divided by the root of the number of heads."""
    return _attention(qkv, num_heads, width=num_heads)


@mutant("1.2", says="one fault is left: a token's output is pieced together")
def heads_still_merged_as_they_lie(qkv, num_heads):
    """Only softmax and scale were mended: (B, H, N, D) is still reshaped without a transpose."""
    return _attention(qkv, num_heads, order=(0, 1, 2, 3))


@mutant("1.2", says="one fault is left: the scores are not divided")
def scale_dropped(qkv, num_heads):
    """The wrong scale was taken out, and none put in."""
    return _attention(qkv, num_heads, width=1)


@mutant("1.2", says="one fault is left: the scores are divided by the channels of a head")
def root_forgotten(qkv, num_heads):
    """The scores are divided by D, not by its root."""
    return _attention(qkv, num_heads, width=(qkv.shape[-1] // 3 // num_heads) ** 2)


@mutant("1.2", says="the division comes after the softmax")
def divided_too_late(qkv, num_heads):
    """The map is divided by the root of D in the place of the scores."""
    return _attention(qkv, num_heads, width=1) / math.sqrt(qkv.shape[-1] // 3 // num_heads)


@mutant("1.2", says="one fault is left: the heads' channels alternate")
def heads_alternate(qkv, num_heads):
    """Heads and channels are merged in the wrong order, (B, N, D, H)."""
    return _attention(qkv, num_heads, order=(0, 2, 3, 1))


@mutant("1.3", says="number of patches along a side")
def side_in_patches(dim, hidden_dim, patch_size):
    """The side is given in patches instead of pixels."""
    return math.isqrt(2 * dim + hidden_dim - 1) + 1


@mutant("1.3", says="How many tokens do so many patches give")
def class_token_forgotten(dim, hidden_dim, patch_size):
    """The class token is not counted."""
    return patch_size * (math.isqrt(2 * dim + hidden_dim) + 1)


@mutant("1.3", says="*more* is asked for")
def where_they_are_equal(dim, hidden_dim, patch_size):
    """Rounding up stops where the two are equal."""
    return patch_size * math.ceil(math.sqrt(2 * dim + hidden_dim - 1))


@mutant("1.3", says="*last* size")
def rounded_down(dim, hidden_dim, patch_size):
    """The root is rounded down."""
    return patch_size * math.isqrt(2 * dim + hidden_dim - 1)


@mutant("1.3", says="something follows the heads")
def projection_forgotten(dim, hidden_dim, patch_size):
    """Queries, keys and values are counted, the projection behind the heads is not."""
    return patch_size * (math.isqrt((3 * dim + 2 * hidden_dim - 2) // 2) + 1)


@mutant("1.3", says="two products")
def one_product_with_maps(dim, hidden_dim, patch_size):
    """Of the two products with a map only the scores are counted."""
    return patch_size * (math.isqrt(4 * dim + 2 * hidden_dim - 1) + 1)


def _scaled(model, factor_of, blocks=slice(None)):
    changed = deepcopy(model)
    for block in changed.blocks[blocks]:
        block.attn.scale = factor_of(block.attn.scale)
    return changed


@mutant("1.4", says="model that was given has changed")
def no_copy(model, factor):
    """The model itself is changed, so that factors pile up."""
    for block in model.blocks:
        block.attn.scale *= factor
    return model


@mutant("1.4", says="wrong way round")
def divided(model, factor):
    """The scale is divided, as if the factor were a temperature."""
    return _scaled(model, lambda scale: scale / factor if factor else 0.0)


@mutant("1.4", says="*become* the factor")
def replaced(model, factor):
    """The scale is replaced by the factor."""
    return _scaled(model, lambda scale: factor)


@mutant("1.4", says="still have their old maps")
def last_block_only(model, factor):
    """Only the last block is changed, the one that is drawn."""
    return _scaled(model, lambda scale: scale * factor, slice(-1, None))


@mutant("1.4", says="their biases are not")
def weights_without_biases(model, factor):
    """The weights of queries, keys and values are multiplied, their biases forgotten."""
    changed = deepcopy(model)
    for block in changed.blocks:
        block.attn.qkv.weight.data *= factor
    return changed


@mutant("1.4", says="the values?")
def queries_and_values(model, factor):
    """The queries are multiplied, which is right, and the values as well."""
    changed = deepcopy(model)
    for block in changed.blocks:
        for part in (0, 2):
            channels = slice(part * model.config.embed_dim, (part + 1) * model.config.embed_dim)
            block.attn.qkv.weight.data[channels] *= factor
            block.attn.qkv.bias.data[channels] *= factor
    return changed


@mutant("1.4", says="factor's square")
def queries_and_keys(model, factor):
    """Weights and biases of queries, keys and values are multiplied all together."""
    changed = deepcopy(model)
    for block in changed.blocks:
        block.attn.qkv.weight.data *= factor
        block.attn.qkv.bias.data *= factor
    return changed


@mutant("1.4", says="root of the factor")
def root_of_the_factor(model, factor):
    """The factor is split between queries and keys, and then given to one of them only."""
    return _scaled(model, lambda scale: scale * factor**0.5)


@mutant("1.4", says="*added*")
def added(model, factor):
    """The factor is added to the scale."""
    return _scaled(model, lambda scale: scale + factor)


@mutant("1.4", says="root of all channels")
def made_anew_from_all_channels(model, factor):
    """The scale is computed anew, and with C in the place of D."""
    return _scaled(model, lambda scale: factor / math.sqrt(model.config.embed_dim))


@mutant("1.4", says="piles up")
def from_block_to_block(model, factor):
    """One number is multiplied again in every block."""
    changed = deepcopy(model)
    scale = changed.blocks[0].attn.scale
    for block in changed.blocks:
        scale *= factor
        block.attn.scale = scale
    return changed


@mutant("1.4", says="once for each block")
def loop_within_a_loop(model, factor):
    """All blocks are multiplied for each block."""
    return _scaled(model, lambda scale: scale * factor ** len(model.blocks))


@mutant("1.4", says="untouched copy")
def copy_and_original_swapped(model, factor):
    """The copy is made, and the blocks of the original are changed."""
    changed = deepcopy(model)
    for block in model.blocks:
        block.attn.scale *= factor
    return changed


@mutant("1.4", says="treat 0 as if no factor were given")
def zero_is_no_factor(model, factor):
    """A factor of 0 counts as none."""
    return _scaled(model, lambda scale: scale * (factor or 1.0))


@mutant("1.4", says="scores are multiplied by 1.50")
def halved(model, factor):
    """The factor is shared between the heads."""
    return _scaled(model, lambda scale: scale * factor / model.config.num_heads)


@mutant("1.4", says="not the softmax of its scores times any number")
def positions_multiplied(model, factor):
    """The tokens are multiplied before the first block, positions and all."""
    changed = deepcopy(model)
    changed.pos_embed.data *= factor
    return changed
