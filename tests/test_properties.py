"""What must hold whatever the sizes: checked on sizes, heads, depths and values that hypothesis draws."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from deepvit_edu.nn.attention import Attention, HeadNorm, ReAttention, RefinedAttention, legible_attention
from deepvit_edu.nn.blocks import Block, Mlp
from deepvit_edu.nn.mix_token import swap_within
from deepvit_edu.nn.model import VisionTransformer, ViTConfig, sinusoid
from deepvit_edu.nn.tokens import PatchEmbed

check = settings(max_examples=15, deadline=None, derandomize=True, database=None)
heads = st.integers(1, 6)
head_dims = st.integers(1, 8)
tokens = st.integers(1, 12)
seeds = st.integers(0, 1000)
paths = st.booleans()  # True: the fast path, as chosen by itself


def drawn(seed: int, *shape: int) -> torch.Tensor:
    """Numbers in float64, so that equal is equal whatever the order of sums."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def answer(module: torch.nn.Module, x: torch.Tensor, fast: bool) -> torch.Tensor:
    with torch.no_grad():
        if fast:
            return module(x)
        with legible_attention():
            return module(x)


@check
@given(heads, head_dims, tokens, seeds)
def test_rows_of_a_plain_map_are_distributions(num_heads, head_dim, num_tokens, seed):
    dim = num_heads * head_dim
    attention = Attention(dim, num_heads).double()
    _, attn = attention.forward_with_map(10 * drawn(seed, 2, num_tokens, dim))
    assert attn.shape == (2, num_heads, num_tokens, num_tokens)
    assert (attn >= 0).all()
    assert_close(attn.sum(dim=-1), torch.ones_like(attn[..., 0]))


@check
@given(heads, head_dims, tokens, seeds, paths, st.booleans())
def test_re_attention_that_neither_mixes_nor_norms_is_plain(num_heads, head_dim, num_tokens, seed, fast, training):
    dim = num_heads * head_dim
    plain = Attention(dim, num_heads).double()
    mixed = ReAttention(dim, num_heads, mixing="frozen", norm="none").double().train(training)
    mixed.load_state_dict(plain.state_dict(), strict=False)
    x = drawn(seed, 2, num_tokens, dim)
    assert_close(answer(mixed, x, fast), answer(plain, x, fast))


@check
@given(heads, head_dims, tokens, seeds, st.sampled_from([1, 3, 5]), paths)
def test_refined_attention_that_only_looks_at_the_centre_is_plain(num_heads, head_dim, num_tokens, seed, kernel, fast):
    dim = num_heads * head_dim
    plain = Attention(dim, num_heads).double()
    refined = RefinedAttention(dim, num_heads, expansion=1, kernel_size=kernel).double()
    refined.load_state_dict(plain.state_dict(), strict=False)
    for conv in (refined.expand, refined.reduce):
        conv.weight.data.copy_(torch.eye(num_heads)[:, :, None, None])
    refined.local.weight.data.zero_()[:, :, kernel // 2, kernel // 2] = 1.0
    x = drawn(seed, 2, num_tokens, dim)
    assert_close(answer(refined, x, fast), answer(plain, x, fast))


@check
@given(heads, head_dims, tokens, seeds, st.randoms(use_true_random=False))
def test_permuting_heads_permutes_the_map_and_leaves_the_output(num_heads, head_dim, num_tokens, seed, random):
    dim = num_heads * head_dim
    first = Attention(dim, num_heads).double()
    second = Attention(dim, num_heads).double()
    order = torch.tensor(random.sample(range(num_heads), num_heads))
    channels = torch.arange(dim).unflatten(0, (num_heads, head_dim))[order].flatten()
    rows = torch.cat([part * dim + channels for part in range(3)])
    second.qkv.weight.data.copy_(first.qkv.weight[rows])
    second.qkv.bias.data.copy_(drawn(seed, 3 * dim)[rows])
    first.qkv.bias.data.copy_(drawn(seed, 3 * dim))
    second.proj.weight.data.copy_(first.proj.weight[:, channels])
    second.proj.bias.data.copy_(first.proj.bias)
    x = drawn(seed, 2, num_tokens, dim)
    (out, attn), (permuted_out, permuted_attn) = first.forward_with_map(x), second.forward_with_map(x)
    assert_close(permuted_attn, attn[:, order])
    assert_close(permuted_out, out)


@pytest.mark.parametrize("kind", ["plain", *HeadNorm.KINDS])
@settings(check, max_examples=6)
@given(heads, head_dims, tokens, seeds, paths, st.randoms(use_true_random=False))
def test_a_block_knows_no_order_of_tokens(kind, num_heads, head_dim, num_tokens, seed, fast, random):
    dim = num_heads * head_dim
    attention = Attention(dim, num_heads) if kind == "plain" else ReAttention(dim, num_heads, norm=kind)
    block = Block(dim, attention, Mlp(dim, 2 * dim)).double().eval()
    order = torch.tensor(random.sample(range(num_tokens), num_tokens))
    x = drawn(seed, 2, num_tokens, dim)
    assert_close(answer(block, x[:, order], fast), answer(block, x, fast)[:, order])


@check
@given(st.integers(1, 4), st.integers(1, 4), st.integers(1, 4), seeds)
def test_a_soft_split_without_overlap_is_undone_by_a_fold(stride, side, channels, seed):
    images = drawn(seed, 2, channels, stride * side, stride * side)
    split = torch.nn.Unfold(stride, stride=stride)
    assert_close(F.fold(split(images), images.shape[-2:], stride, stride=stride), images, rtol=0, atol=0)


@check
@given(st.integers(1, 4), st.integers(1, 4), st.integers(1, 3), st.integers(1, 8), seeds)
def test_patch_embedding_is_one_linear_map_of_every_patch(patch_size, side, in_chans, dim, seed):
    embed = PatchEmbed(patch_size * side, patch_size, in_chans, dim).double()
    images = drawn(seed, 2, in_chans, patch_size * side, patch_size * side)
    patches = F.unfold(images, patch_size, stride=patch_size).transpose(1, 2)
    assert_close(embed(images), F.linear(patches, embed.proj.weight.flatten(1), embed.proj.bias))


@check
@given(st.integers(1, 30), st.integers(0, 30), st.integers(1, 20))
def test_fixed_positions_do_not_depend_on_how_many_there_are(length, more, dim):
    positions = sinusoid(length + more, dim)
    assert positions.shape == (1, length + more, dim)
    assert torch.equal(positions[:, :length], sinusoid(length, dim))
    assert positions.abs().max() <= 1


@check
@given(st.integers(1, 6), st.data(), seeds)
def test_swapping_tokens_within_a_box_twice_changes_nothing(side, data, seed):
    rows, columns = (sorted(data.draw(st.tuples(st.integers(0, side), st.integers(0, side)))) for _ in range(2))
    box = (rows[0], columns[0], rows[1], columns[1])
    x = drawn(seed, 3, side**2, 2)
    swapped = swap_within(x, box)
    assert torch.equal(swap_within(swapped, box), x)
    area = (rows[1] - rows[0]) * (columns[1] - columns[0])
    assert (swapped != x).any(dim=-1).sum() == 2 * area  # the middle one of three swaps with itself


@settings(check, max_examples=8)
@given(st.integers(1, 4), st.integers(1, 3), st.sampled_from(["plain", "re", "refined"]), paths, seeds)
def test_images_of_a_batch_do_not_see_each_other_at_eval(depth, num_heads, attention, fast, seed):
    sizes = {"img_size": 8, "patch_size": 4, "embed_dim": 4 * num_heads, "num_heads": num_heads, "num_classes": 3}
    model = VisionTransformer(ViTConfig(**sizes, depth=depth, attention=(attention,))).double().eval()
    images = drawn(seed, 3, 3, 8, 8)
    assert_close(answer(model, images, fast)[1:2], answer(model, images[1:2], fast))
