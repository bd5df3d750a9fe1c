"""The fast paths against the legible ones, both judged by the legible one in float64."""

import copy
from contextlib import nullcontext

import pytest
import torch
from torch import Tensor, nn
from torch.profiler import profile

from deepvit_edu.nn import kernels
from deepvit_edu.nn.attention import Attention, HeadNorm, ReAttention, RefinedAttention, legible_attention
from deepvit_edu.nn.refiner import AccumulatedAttention, ReusedAttention


class Reused(ReusedAttention):
    """With a map of its own, a function of the tokens, so that it is called as the others are."""

    def forward(self, x: Tensor) -> Tensor:
        """Tokens (B, N, C) to tokens (B, N, C)."""
        heads = x.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
        return super().forward(x, (heads @ heads.transpose(-2, -1)).softmax(dim=-1))[0]


class Accumulated(AccumulatedAttention):
    """After itself, so that it is handed a map and is called as the others are."""

    def forward(self, x: Tensor) -> Tensor:
        """Tokens (B, N, C) to tokens (B, N, C)."""
        return super().forward(*super().forward(x))[0]


def outcome(attn: nn.Module, x: Tensor, legible: bool) -> dict[str, Tensor]:
    """The output, every gradient and every running statistic of one step of a copy."""
    attn, x = copy.deepcopy(attn), x.detach().requires_grad_()
    with legible_attention() if legible else nullcontext():
        out = attn(x)
    out.backward(torch.randn(out.shape, generator=torch.Generator().manual_seed(1)).to(out.dtype))
    grads = {name: p.grad for name, p in attn.named_parameters() if p.requires_grad}
    return {"out": out.detach(), "x": x.grad, **grads, **dict(attn.named_buffers())}


def error(found: Tensor, exact: Tensor) -> float:
    return ((found.double() - exact).abs().max() / exact.abs().max().clamp(min=1e-3)).item()


def assert_equal_paths(attn: nn.Module, x: Tensor, bar: float = 1e-5) -> None:
    """Within `bar`, or where float32 cannot be that exact, not much further from float64 than the legible path is."""
    exact = outcome(copy.deepcopy(attn).double(), x.double(), legible=True)
    fast_one, legible_one = (outcome(attn, x, legible) for legible in (False, True))
    assert fast_one.keys() == exact.keys()
    for name in exact:
        assert error(fast_one[name], exact[name]) < max(bar, 4 * error(legible_one[name], exact[name])), (
            name,
            error(fast_one[name], exact[name]),
            error(legible_one[name], exact[name]),
            exact[name].abs().max(),
        )


def spoil(attn: nn.Module) -> nn.Module:
    """Affine weights and running statistics that are not zeros and ones, which would hide mistakes."""
    for norm in (part for part in attn.modules() if isinstance(part, nn.BatchNorm2d)):
        nn.init.uniform_(norm.weight, 0.5, 1.5)
        nn.init.normal_(norm.bias, std=0.1)
        nn.init.normal_(norm.running_mean, std=0.1)
        nn.init.uniform_(norm.running_var, 0.01, 0.1)
    return attn


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("mixing", ReAttention.MIXINGS)
@pytest.mark.parametrize("norm", HeadNorm.KINDS)
def test_re_attention_of_every_kind(norm, mixing, training):
    attn = spoil(ReAttention(24, 4, mixing=mixing, norm=norm, gain=1.5, map_scale=0.7)).train(training)
    assert_equal_paths(attn, torch.randn(3, 17, 24))


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(("images", "tokens", "heads"), [(1, 17, 1), (3, 65, 4), (2, 197, 12)])
@pytest.mark.parametrize("kind", [ReAttention, RefinedAttention, Accumulated, Reused])
def test_sizes(kind, images, tokens, heads, training):
    assert_equal_paths(spoil(kind(4 * heads, heads)).train(training), torch.randn(images, tokens, 4 * heads))


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("kind", [ReAttention, Reused])
def test_without_gradients(kind, training):
    attn, x = spoil(kind(24, 12)).train(training), torch.randn(3, 17, 24)
    with torch.no_grad():
        found = attn(x)
        with legible_attention():
            exact = attn.double()(x.double())
    assert error(found, exact) < 1e-5


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("kind", [ReAttention, Reused])
def test_a_few_images_at_a_time(kind, training, monkeypatch):
    attn, x = spoil(kind(24, 12)).train(training), torch.randn(5, 17, 24)
    with torch.set_grad_enabled(training):
        expected = attn(x)
        monkeypatch.setattr(kernels, "CACHE_BYTES", 2 * 36 * 17**2 * 4)  # 2 images of the widest maps, then 2, then 1
        torch.testing.assert_close(attn(x), expected, rtol=1e-5, atol=1e-5)
        if training:
            assert_equal_paths(attn, x)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("kernel_size", [1, 5])
def test_kernels(kernel_size, training):
    attn = RefinedAttention(24, 4, expansion=2, kernel_size=kernel_size).train(training)
    assert_equal_paths(attn, torch.randn(2, 17, 24))


@pytest.mark.parametrize("std", [0.02, 1e-4])
def test_maps_that_are_nearly_uniform(std):
    attn = ReAttention(48, 4)
    nn.init.normal_(attn.qkv.weight, std=std)
    assert_equal_paths(attn, torch.randn(3, 65, 48))


@pytest.mark.parametrize("scale", [1, 1e-3])
def test_handed_maps_that_are_nearly_uniform(scale):
    assert_equal_paths(Reused(48, 4), scale * torch.randn(3, 65, 48))


@pytest.mark.parametrize("evaluates", ["refine.norm1", "refine.norm2", "refine.norm3", "norm", ""])
def test_refinement_with_a_norm_that_does_not_train(evaluates):
    attn = spoil(Reused(24, 4))
    attn.get_submodule(evaluates).eval()
    assert_equal_paths(attn, torch.randn(3, 17, 24))


@pytest.mark.parametrize("kind", [ReAttention, Reused])
def test_running_statistics_over_several_steps_with_a_cumulative_average(kind):
    attn = kind(24, 4)
    norms = [part for part in attn.modules() if isinstance(part, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = None
    twin = copy.deepcopy(attn)
    for x in torch.randn(3, 2, 9, 24):
        attn(x)
        with legible_attention():
            twin(x)
    assert [norm.num_batches_tracked for norm in norms] == [3] * len(norms)
    for found, expected in zip(attn.buffers(), twin.buffers(), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-9)


@pytest.mark.parametrize("kind", [ReAttention, Reused])
def test_changed_weights_are_noticed_at_eval(kind):
    attn, x = spoil(kind(24, 4)).eval().requires_grad_(False), torch.randn(2, 9, 24)
    before = attn(x)
    spoil(attn)
    after = attn(x)
    assert not torch.allclose(after, before)
    with legible_attention():
        torch.testing.assert_close(after, attn(x), rtol=1e-4, atol=1e-5)


def takes_fast_path(attn: nn.Module, x: Tensor, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether the fast path is taken: it is made to fail."""

    def fail(*args: object) -> None:
        raise NotImplementedError

    for name in ("mixed_attention", "constant_map", "reused_in_evaluation", "refine_in_training"):
        monkeypatch.setattr(kernels, name, fail)
    try:
        attn(x)
    except NotImplementedError:
        return True
    return False


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("kind", [ReAttention, Reused])
def test_a_hook_on_either_map_is_called(kind, training, monkeypatch):
    attn, x, seen = kind(24, 4).train(training), torch.randn(2, 9, 24), []
    for place in (attn.softmax_map, attn.used_map):
        hook = place.register_forward_hook(lambda module, inputs, attn: seen.append(attn.shape))
        attn(x)
        hook.remove()
    assert seen == [(2, 4, 9, 9)] * 2
    assert takes_fast_path(attn, x, monkeypatch)


@pytest.mark.parametrize(
    "change",
    [
        lambda attn: setattr(attn.attn_drop, "p", 0.5),
        lambda attn: attn.norm.eval(),
        lambda attn: setattr(attn.norm, "batch", nn.SyncBatchNorm(4).eval()),
        lambda attn: attn.eval().norm.train(),
        lambda attn: setattr(attn.norm.batch, "weight", None),
        lambda attn: setattr(attn.norm.batch, "bias", None),
    ],
)
def test_what_no_fast_path_knows_takes_the_legible_one(change, monkeypatch):
    attn = ReAttention(24, 4)
    change(attn)
    assert not takes_fast_path(attn, torch.randn(2, 9, 24), monkeypatch)


@pytest.mark.parametrize(
    "change",
    [
        lambda attn: setattr(attn.refine, "norm1", nn.SyncBatchNorm(12).eval()),
        lambda attn: setattr(attn.refine, "norm3", nn.BatchNorm2d(4, track_running_stats=False)),
        lambda attn: setattr(attn, "norm", nn.BatchNorm2d(4, affine=False)),
        lambda attn: setattr(attn, "norm", nn.Identity()),
        lambda attn: setattr(attn.norm, "bias", None),
    ],
)
def test_refinement_with_norms_of_another_kind_takes_the_legible_path(change, monkeypatch):
    attn, x = Reused(24, 4), torch.randn(2, 9, 24)
    assert takes_fast_path(attn, x, monkeypatch)
    change(attn)
    assert not takes_fast_path(attn, x, monkeypatch)


@pytest.mark.parametrize("kind", [ReAttention, Reused])
def test_a_single_entry_cannot_train(kind):
    with pytest.raises(ValueError, match="single entry"):
        kind(24, 4)(torch.randn(1, 1, 24))


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("kind", [ReAttention, RefinedAttention, Accumulated, Reused])
def test_bfloat16_autocast(kind, training):
    attn, x = kind(24, 4).train(training), torch.randn(2, 17, 24)
    with torch.autocast("cpu", torch.bfloat16):
        found = outcome(attn, x, legible=False)
    exact = outcome(attn.double(), x.double(), legible=True)
    assert all(value.isfinite().all() for value in found.values())
    assert error(found["out"], exact["out"]) < 0.03


@pytest.mark.parametrize("legible", [False, True])
def test_bfloat16_keeps_what_batch_norm_amplifies(legible):
    attn, x = ReAttention(48, 4), torch.randn(3, 65, 48)
    nn.init.normal_(attn.qkv.weight, std=0.02)  # as a model starts: nearly uniform maps, amplified some 300-fold
    attn.norm.batch.momentum = 1.0
    for training in (True, False):
        path = legible_attention() if legible else nullcontext()
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16), path:
            found = attn.train(training)(x)
        exact = outcome(copy.deepcopy(attn).double(), x.double(), legible=True)
        assert error(found, exact["out"]) < (0.1 if legible else 0.03)  # autocast leaves a CPU's softmax in 16 bits


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kind", [ReAttention, Reused])
def test_sixteen_bits_of_heads_that_are_nearly_alike(kind, dtype):
    for seed in range(8):
        torch.manual_seed(seed)
        attn, x = kind(24, 4), torch.randn(1, 17, 6).repeat(1, 1, 4) + 1e-3 * torch.randn(1, 17, 24)
        weight = attn.mix.weight if kind is ReAttention else attn.refine.expand.weight
        weight.data -= weight.data.mean(dim=1, keepdim=True)  # what the heads have in common cancels
        if kind is ReAttention:
            heads = attn.qkv.weight.data.view(3, 4, 6, 24)
            heads.copy_(10 * heads[:, :1] + 1e-3 * torch.randn(heads.shape))
            with torch.autocast("cpu", dtype):
                out = attn(x)
        else:
            out = attn.to(dtype)(x.to(dtype))
        assert out.isfinite().all()
        assert all((norm.running_var >= 0).all() for norm in attn.modules() if isinstance(norm, nn.BatchNorm2d))


@pytest.mark.parametrize("kind", [ReAttention, Reused])
def test_a_gradient_of_a_gradient_is_refused_and_the_legible_path_gives_it(kind):
    attn, x = spoil(kind(24, 4)), torch.randn(2, 9, 24)
    weight = attn.mix.weight if kind is ReAttention else attn.refine.expand.weight
    with pytest.raises(RuntimeError, match=r"inside deepvit_edu\.nn\.attention\.legible_attention"):
        torch.autograd.grad(attn(x).square().sum(), weight, create_graph=True)
    with legible_attention():
        (first,) = torch.autograd.grad(attn(x).square().sum(), weight, create_graph=True)
        assert torch.autograd.grad(first.square().sum(), weight)[0].isfinite().all()


@pytest.mark.parametrize("kind", [ReAttention, Reused])
def test_a_graph_from_eval_mode_outlives_a_training_step(kind):
    attn, x = spoil(kind(24, 4)).eval(), torch.randn(2, 9, 24)
    out = attn(x)
    attn.train()(x)
    out.sum().backward()


def test_refined_attention_is_traced():
    attn, x = RefinedAttention(24, 4).eval(), torch.randn(2, 9, 24)
    with torch.no_grad():
        traced = torch.jit.trace(attn, x)
        torch.testing.assert_close(traced(2 * x), attn(2 * x), rtol=1e-4, atol=1e-5)


def test_accumulated_attention_forms_its_map_by_fewer_passes():
    attn, x = Accumulated(24, 4), torch.randn(2, 9, 24)
    counts = []
    for path in (nullcontext(), legible_attention()):
        with path, profile() as seen:
            attn(x)
        counts.append(sum(event.count for event in seen.key_averages() if event.key == "aten::mul"))
    assert counts == [0, 3]  # the scores of both times, and the map that is handed on


def saved_bytes(attn: nn.Module, x: Tensor) -> int:
    """What autograd keeps for the backward pass, each storage counted once; the weights are not counted."""
    own = {p.untyped_storage().data_ptr() for p in attn.parameters()}
    storages = {}

    def pack(tensor: Tensor) -> Tensor:
        storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        out = attn(x)
    assert out.requires_grad  # and alive until here, so that no storage was used twice
    return sum(size for pointer, size in storages.items() if pointer not in own)


@pytest.mark.parametrize(("kind", "share"), [(ReAttention, 0.5), (RefinedAttention, 0.5), (Reused, 0.92)])
def test_less_is_kept_for_the_backward_pass(kind, share):
    attn, x = kind(384, 12), torch.randn(2, 197, 384, requires_grad=True)
    with legible_attention():
        legible = saved_bytes(attn, x)
    assert saved_bytes(attn, x) <= share * legible


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("kind", [ReAttention, RefinedAttention, Accumulated, Reused])
def test_compiled_whole(kind, training):
    attn, x = spoil(kind(24, 4)).train(training), torch.randn(2, 9, 24)
    expected = outcome(attn, x, legible=False)
    compiled = torch.compile(copy.deepcopy(attn), backend="aot_eager", fullgraph=True)
    out = compiled(x)
    torch.testing.assert_close(out.detach(), expected["out"], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", [ReAttention, RefinedAttention, Accumulated, Reused])
def test_exported_for_any_number_of_images(kind):
    attn, x = spoil(kind(24, 4)).eval(), torch.randn(3, 9, 24)
    exported = torch.export.export(attn, (x[:2],), dynamic_shapes={"x": {0: torch.export.Dim("images")}})
    torch.testing.assert_close(exported.module()(x), attn(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("tokens", "fused"), [(17, False), (65, True)])
def test_short_sequences_on_a_cpu_are_spared_the_fused_kernel(tokens, fused):
    attn, x = Attention(24, 4), torch.randn(2, tokens, 24)
    with profile() as seen:
        attn(x)
    assert any("scaled_dot_product" in event.key for event in seen.key_averages()) == fused
