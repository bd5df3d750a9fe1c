import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from deepvit_edu.nn.attention import Attention, ReAttention, legible_attention
from deepvit_edu.nn.paths import fast_path_allowed, register_fast_path
from deepvit_edu.nn.refiner import AccumulatedAttention


def both_paths(attn, x):
    fast = attn(x)
    with legible_attention():
        legible = attn(x)
    return fast, legible


@settings(max_examples=25, deadline=None)
@given(heads=st.integers(1, 6), head_dim=st.integers(1, 9), tokens=st.integers(1, 20), bias=st.booleans())
def test_paths_are_equal_forward_and_backward(heads, head_dim, tokens, bias):
    attn = Attention(heads * head_dim, heads, qkv_bias=bias)
    x = torch.randn(2, tokens, heads * head_dim, requires_grad=True)
    fast, legible = both_paths(attn, x)
    torch.testing.assert_close(fast, legible, rtol=1e-5, atol=1e-5)
    upstream = torch.randn_like(fast)
    gradients = [torch.autograd.grad((out * upstream).sum(), [x, attn.qkv.weight]) for out in (fast, legible)]
    for of_fast, of_legible in zip(*gradients, strict=True):
        torch.testing.assert_close(of_fast, of_legible, rtol=1e-4, atol=1e-5)


def test_each_path_agrees_with_float64():
    attn, x = Attention(24, 4), torch.randn(2, 10, 24)
    fast, legible = both_paths(attn, x)
    exact = attn.double().forward_with_map(x.double())[0]
    for out in (fast, legible):
        torch.testing.assert_close(out.double(), exact, rtol=1e-5, atol=1e-6)


def test_map_is_a_distribution_over_keys():
    attn = Attention(24, 4)
    out, attn_map = attn.forward_with_map(torch.randn(2, 10, 24))
    assert out.shape == (2, 10, 24)
    assert attn_map.shape == (2, 4, 10, 10)
    assert (attn_map >= 0).all()
    torch.testing.assert_close(attn_map.sum(dim=-1), torch.ones(2, 4, 10))


def test_output_follows_a_permutation_of_the_tokens():
    attn, x, order = Attention(24, 4), torch.randn(1, 10, 24), torch.randperm(10)
    torch.testing.assert_close(attn(x[:, order]), attn(x)[:, order], rtol=1e-5, atol=1e-6)


def test_heads_must_share_the_channels():
    with pytest.raises(ValueError, match="10 channels cannot be divided equally among 3 heads"):
        Attention(10, 3)


def test_context_ends_with_an_error_too():
    with pytest.raises(RuntimeError), legible_attention():  # noqa: PT012
        assert not fast_path_allowed()
        raise RuntimeError
    assert fast_path_allowed()


def test_dropout_of_the_map_works_on_both_paths():
    attn, x = Attention(24, 4, attn_drop=0.5), torch.randn(2, 10, 24)
    for out in both_paths(attn.train(), x):
        assert not torch.allclose(out, attn.eval()(x))
        attn.train()
    torch.testing.assert_close(*both_paths(attn.eval(), x), rtol=1e-5, atol=1e-6)


class Uniform(Attention):
    """Every token looks everywhere alike."""

    def attention_map(self, query, key):
        return torch.full_like(query @ key.transpose(-2, -1), 1 / query.shape[-2])


class Halved(ReAttention):
    """A map that is made of the softmax map in another way."""

    def softmax_of(self, query, key):
        return Attention.softmax_of(self, query, key) / 2


class UniformMixin:
    attention_map = Uniform.attention_map


class MixedIn(UniformMixin, Attention):
    """The map comes from a class that is no attention."""


@pytest.mark.parametrize("kind", [Uniform, Halved, MixedIn])
@pytest.mark.parametrize("training", [True, False])
def test_a_subclass_with_a_map_of_its_own_is_never_bypassed(kind, training):
    attn, x = kind(24, 4).train(training), torch.randn(2, 10, 24)
    found, legible = both_paths(attn, x)
    assert torch.equal(found, legible)
    parent = ReAttention if kind is Halved else Attention
    assert not torch.allclose(found, copy_into(parent(24, 4), attn)(x), atol=1e-3)


def test_an_accumulated_map_of_its_own_is_not_bypassed_either():
    class HalvedFirst(AccumulatedAttention):
        softmax_of = Halved.softmax_of

    fast, legible = both_paths(HalvedFirst(24, 4), torch.randn(2, 10, 24))
    assert torch.equal(fast[0], legible[0])


def copy_into(other, attn):
    other.load_state_dict(attn.state_dict())
    return other.train(attn.training)


def test_a_subclass_may_have_a_fast_path_of_its_own_and_its_subclasses_keep_it():
    class Average(Uniform):
        def attention_map(self, query, key):
            return super().attention_map(query, key)

    class Subclass(Average):
        pass

    calls = []

    def average(attn, query, key, value):
        calls.append(type(attn))
        return value.mean(dim=-2, keepdim=True).expand_as(value)

    register_fast_path((Average.attention_map, Attention.softmax_of), average)
    fast, legible = both_paths(Subclass(24, 4), torch.randn(2, 10, 24))
    torch.testing.assert_close(fast, legible, rtol=1e-5, atol=1e-6)
    assert calls == [Subclass]
    Uniform(24, 4)(torch.randn(2, 10, 24))
    assert calls == [Subclass]
