"""What PyTorch promises of any module: it is called, its hooks fire, its parts can be replaced, its tools see it."""

import types

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrize, prune

from deepvit_edu.nn import kernels
from deepvit_edu.nn.attention import Attention, ReAttention, RefinedAttention, legible_attention
from deepvit_edu.nn.refiner import AccumulatedAttention, ReusedAttention
from deepvit_edu.zoo import create_model

KINDS = [("plain",), ("re",), ("refined",), ("accumulated", "reused"), ("plain", "handing", "handed")]


def small_model(attention: tuple = ("plain",), num_classes: int = 10) -> nn.Module:
    torch.manual_seed(0)
    return create_model("cifar_vit_4x64", num_classes=num_classes, attention=attention)


IMAGES = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


# Blocks are modules that are called.


@pytest.mark.parametrize("attention", KINDS)
def test_hooks_on_blocks_attentions_and_parts_fire(attention):
    model, fired = small_model(attention), []
    modules = [part for block in model.blocks for part in (block, block.attn, block.mlp, block.norm1, block.mlp.fc1)]
    for i, part in enumerate(modules):
        part.register_forward_pre_hook(lambda module, args, i=i: fired.append((i, "before")))
        part.register_forward_hook(lambda module, args, out, i=i: fired.append((i, "after")))
        part.register_full_backward_hook(lambda module, grads, out, i=i: fired.append((i, "backward")))
    model(IMAGES.clone().requires_grad_()).sum().backward()
    assert sorted(fired) == sorted((i, when) for i in range(len(modules)) for when in ("before", "after", "backward"))


@pytest.mark.parametrize("attention", KINDS)
def test_a_hook_that_returns_something_replaces_the_output_of_a_block(attention):
    model = small_model(attention).eval()
    before = model(IMAGES)
    model.blocks[3].register_forward_hook(lambda module, args, out: torch.zeros_like(out))
    assert not torch.allclose(model(IMAGES), before)


class Wrapper(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner, self.calls = inner, 0

    def forward(self, x):
        self.calls += 1
        return self.inner(x)


@pytest.mark.parametrize("attention", KINDS)
def test_a_block_can_be_wrapped_in_another_module(attention):
    model = small_model(attention).eval()
    expected = model(IMAGES)
    model.blocks[1] = Wrapper(model.blocks[1])
    assert torch.equal(model(IMAGES), expected)
    assert model.blocks[1].calls == 1


def test_a_block_can_be_replaced_and_its_forward_patched():
    model = small_model().eval()
    model.blocks[0] = nn.Identity()
    expected = model(IMAGES)
    model.blocks[1] = nn.Identity()
    assert not torch.allclose(model(IMAGES), expected)
    seen = []
    forward = model.blocks[2].forward
    model.blocks[2].forward = lambda x: seen.append(x.shape) or forward(x)
    model(IMAGES)
    assert seen == [model.embed(IMAGES).shape]


class MeanOfTokens(nn.Module):
    """Any module from tokens to tokens can be an attention."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.linear = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x.mean(dim=1, keepdim=True)).expand_as(x)


def test_any_module_from_tokens_to_tokens_can_be_the_attention_of_a_block():
    model = small_model()
    model.blocks[1].attn = MeanOfTokens(64)
    model(IMAGES).sum().backward()
    assert model.blocks[1].attn.linear.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("attention", KINDS)
@pytest.mark.parametrize("enabled", [True, False])
def test_gradient_checkpointing_gives_the_same_gradients(attention, enabled):
    model = small_model(attention)
    model.set_grad_checkpointing(enabled)
    model(IMAGES).sum().backward()
    twin = small_model(attention)
    twin(IMAGES).sum().backward()
    for ours, expected in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, expected.grad)


@pytest.mark.parametrize("attention", KINDS)
def test_blocks_are_compiled_one_by_one(attention):
    model = small_model(attention).eval()
    expected = model(IMAGES)
    for block in model.blocks:
        block.compile(backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(model(IMAGES), expected, rtol=1e-4, atol=1e-5)
    assert all(block._compiled_call_impl is not None for block in model.blocks)


@pytest.mark.parametrize("attention", KINDS)
def test_torchvision_extracts_features_by_name(attention):
    from torchvision.models.feature_extraction import create_feature_extractor

    model = small_model(attention).eval()
    extractor = create_feature_extractor(model, {"blocks.3.mlp": "branch", "norm": "tokens"})
    features = extractor(IMAGES)
    torch.testing.assert_close(features["tokens"], model.forward_features(IMAGES), rtol=1e-4, atol=1e-4)
    assert features["branch"].shape == features["tokens"].shape


@pytest.mark.parametrize("attention", KINDS)
def test_a_traced_model_takes_any_number_of_images(attention):
    model = small_model(attention).eval()
    with torch.no_grad():
        traced = torch.jit.trace(model, IMAGES)
        images = torch.randn(5, 3, 32, 32)
        torch.testing.assert_close(traced(images), model(images), rtol=1e-4, atol=1e-5)


def test_a_model_cut_after_a_block_that_passes_its_map_on_still_gives_tokens():
    model = small_model(("accumulated", "reused"), num_classes=0).eval()
    expected = model.forward_intermediates(IMAGES, indices=[1], output_fmt="NLC", intermediates_only=True)
    model.prune_intermediate_layers([1], prune_norm=True)
    torch.testing.assert_close(model.forward_features(IMAGES)[:, 1:], expected[0])


# A fast path never passes by what stands there.


def attention_of(kind: type, training: bool = False) -> nn.Module:
    torch.manual_seed(0)
    return kind(24, 4).train(training)


TOKENS = torch.randn(2, 9, 24, generator=torch.Generator().manual_seed(0))
MAPS = torch.rand(2, 4, 9, 9, generator=torch.Generator().manual_seed(1)).softmax(dim=-1)


def call(attn: nn.Module, x: Tensor = TOKENS) -> Tensor:
    """The output tokens, also of the attentions that take and give a map."""
    return attn(x, MAPS)[0] if isinstance(attn, (AccumulatedAttention, ReusedAttention)) else attn(x)


def explicit(attn: nn.Module, x: Tensor = TOKENS) -> Tensor:
    """The same by the explicit path."""
    with legible_attention():
        return call(attn, x)


def parts_of_all_kinds() -> list:
    names = {
        Attention: ["attn_drop", "softmax_map", "used_map"],
        ReAttention: ["attn_drop", "softmax_map", "used_map", "mix", "norm", "norm.batch"],
        RefinedAttention: ["attn_drop", "softmax_map", "used_map", "expand", "local", "reduce"],
        AccumulatedAttention: ["attn_drop", "softmax_map", "used_map"],
        ReusedAttention: ["softmax_map", "used_map", "norm", "refine"]
        + [f"refine.{name}" for name in ("expand", "norm1", "act1", "local", "norm2", "act2", "reduce", "norm3")],
    }
    return [(kind, name) for kind, parts in names.items() for name in parts]


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize(("kind", "name"), parts_of_all_kinds())
def test_a_hook_on_any_part_fires(kind, name, training):
    attn, fired = attention_of(kind, training), []
    attn.get_submodule(name).register_forward_hook(lambda *args: fired.append(name))
    call(attn)
    assert fired == [name]


@pytest.mark.parametrize(("kind", "name"), parts_of_all_kinds())
def test_a_hook_on_all_modules_sees_every_part(kind, name):
    attn, seen = attention_of(kind), set()
    hook = nn.modules.module.register_module_forward_hook(lambda module, args, out: seen.add(module))
    try:
        call(attn)
    finally:
        hook.remove()
    assert attn.get_submodule(name) in seen


class Doubled(nn.Module):
    """A wrapper that changes what a part gives."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return 2 * self.inner(x)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize(("kind", "name"), parts_of_all_kinds())
def test_a_replaced_part_is_used(kind, name, training):
    attn = attention_of(kind, training)
    plain = explicit(attn)
    owner, _, child = name.rpartition(".")
    setattr(attn.get_submodule(owner), child, Doubled(attn.get_submodule(name)))
    expected, out = explicit(attn), call(attn)
    torch.testing.assert_close(out, expected)
    if name not in ("mix", "expand", "local", "reduce") and not training:
        assert not torch.allclose(out, plain, rtol=1e-3)


@pytest.mark.parametrize(("kind", "name"), parts_of_all_kinds())
def test_a_part_with_a_patched_forward_is_used(kind, name):
    attn, seen = attention_of(kind), []
    part = attn.get_submodule(name)
    forward = part.forward
    part.forward = lambda x: seen.append(name) or forward(x)
    call(attn)
    assert seen == [name]


CONVOLUTIONS = [(ReAttention, "mix"), *((RefinedAttention, name) for name in ("expand", "local", "reduce"))]


@pytest.mark.parametrize("on", ["instance", "class"])
@pytest.mark.parametrize(("kind", "name"), CONVOLUTIONS)
def test_a_convolution_whose_inner_function_is_patched_is_used(kind, name, on, monkeypatch):
    attn = attention_of(kind)
    part, before = attn.get_submodule(name), call(attn)

    def half(self: nn.Conv2d, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return 0.5 * F.conv2d(x, weight, bias, padding=self.padding, groups=self.groups)

    if on == "class":
        monkeypatch.setattr(nn.Conv2d, "_conv_forward", half)
    else:
        part._conv_forward = types.MethodType(half, part)
    out = call(attn)
    torch.testing.assert_close(out, explicit(attn))
    assert not torch.allclose(out, before)


def test_a_class_with_a_patched_forward_is_used(monkeypatch):
    attn, seen = attention_of(Attention), []
    forward = nn.Dropout.forward
    monkeypatch.setattr(nn.Dropout, "forward", lambda self, x: seen.append(x.shape) or forward(self, x))
    attn(TOKENS)
    assert (2, 4, 9, 9) in seen


def uniform_map(self: nn.Module, query: Tensor, key: Tensor) -> Tensor:
    return torch.full_like(query @ key.transpose(-2, -1), 1 / query.shape[-2])


@pytest.mark.parametrize("kind", [Attention, ReAttention, RefinedAttention, AccumulatedAttention])
@pytest.mark.parametrize("method", ["attention_map", "softmax_of"])
def test_a_method_patched_on_an_instance_is_used(kind, method):
    attn = attention_of(kind)
    before = call(attn)
    setattr(attn, method, types.MethodType(uniform_map, attn))
    out = call(attn)
    assert torch.equal(out, explicit(attn))
    assert not torch.allclose(out, before)


@pytest.mark.parametrize("kind", [Attention, ReAttention, RefinedAttention, AccumulatedAttention])
def test_a_method_patched_on_a_class_is_used(kind, monkeypatch):
    attn = attention_of(kind)
    before = call(attn)
    monkeypatch.setattr(kind, "attention_map", uniform_map)
    assert torch.equal(call(attn), explicit(attn))
    assert not torch.allclose(call(attn), before)


def test_a_method_borrowed_from_another_attention_is_used():
    attn, other = attention_of(Attention), Attention(24, 4)
    attn.attention_map = other.attention_map
    other.attn_drop = Doubled(other.attn_drop)
    assert torch.equal(attn(TOKENS), explicit(attn))


def test_an_own_attn_drop_of_a_subclass_is_used():
    class KeepTop(nn.Module):
        def forward(self, attn: Tensor) -> Tensor:
            return torch.where(attn < attn.amax(dim=-1, keepdim=True), 0.0, attn)

    class Sparse(Attention):
        def __init__(self, *args: object) -> None:
            super().__init__(*args)
            self.attn_drop = KeepTop()

    for training in (False, True):
        attn = attention_of(Sparse, training)
        assert torch.equal(attn(TOKENS), explicit(attn))


def test_an_own_map_of_an_accumulated_attention_is_used():
    class Uniform(AccumulatedAttention):
        attention_map = uniform_map

    attn = attention_of(Uniform)
    _, own = attn(TOKENS)
    torch.testing.assert_close(own, torch.full((2, 4, 9, 9), 1 / 9))
    _, summed = attn(TOKENS, MAPS)
    torch.testing.assert_close(summed, 1 / 9 + attn.scale * MAPS)


class LowRank(nn.Module):
    """A low-rank adapter, as fine-tuning libraries wrap a layer."""

    def __init__(self, inner: nn.Conv2d) -> None:
        super().__init__()
        self.inner = inner
        self.down = nn.Conv2d(inner.in_channels, 1, 1, bias=False)
        self.up = nn.Conv2d(1, inner.out_channels, 1, bias=False)

    @property
    def weight(self) -> Tensor:
        return self.inner.weight

    @property
    def bias(self) -> Tensor:
        return self.inner.bias

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x) + self.up(self.down(x))


@pytest.mark.parametrize("training", [False, True])
def test_a_low_rank_adapter_on_the_mixing_works_and_learns(training):
    attn = attention_of(ReAttention, training)
    attn.mix = LowRank(attn.mix)
    expected = explicit(attn)
    out = attn(TOKENS)
    torch.testing.assert_close(out, expected)
    out.square().sum().backward()
    assert attn.mix.up.weight.grad.abs().sum() > 0


class Halved(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return weight / 2


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("change", ["parametrize", "prune"])
def test_a_parametrised_or_pruned_mixing_is_followed_over_steps(change, training):
    attn = attention_of(ReAttention, training)
    if change == "prune":
        prune.random_unstructured(attn.mix, "weight", amount=0.5)
    else:
        parametrize.register_parametrization(attn.mix, "weight", Halved())
    optimizer = torch.optim.SGD(attn.parameters(), lr=0.1)
    for _ in range(3):
        expected = explicit(attn)
        out = attn(TOKENS)
        torch.testing.assert_close(out, expected)
        optimizer.zero_grad()
        out.square().sum().backward()
        optimizer.step()


@pytest.mark.parametrize(
    ("kind", "name", "new"),
    [
        (ReAttention, "mix", lambda: nn.Conv2d(4, 4, 3, padding=1)),
        (ReAttention, "mix", lambda: nn.Conv2d(4, 4, 1, bias=False)),
        (ReAttention, "mix", lambda: nn.Conv2d(4, 4, 1, groups=2)),
        (RefinedAttention, "local", lambda: nn.Conv2d(12, 12, 3, padding=1)),
        (RefinedAttention, "local", lambda: nn.Conv2d(12, 12, 3, padding=2, dilation=2, groups=12, bias=False)),
        (RefinedAttention, "local", lambda: nn.Conv2d(12, 12, 3, padding=1, groups=12, padding_mode="circular")),
        (RefinedAttention, "reduce", lambda: nn.Conv2d(12, 4, 1)),
    ],
)
@pytest.mark.parametrize("training", [False, True])
def test_a_part_of_the_same_class_and_another_form_is_used(kind, name, new, training):
    attn = attention_of(kind, training)
    setattr(attn, name, new())
    expected = explicit(attn)
    torch.testing.assert_close(call(attn), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", [ReAttention, ReusedAttention])
def test_where_torch_lacks_a_private_operation_the_explicit_path_is_taken(kind, monkeypatch):
    attn = attention_of(kind, training=True)
    monkeypatch.setattr(kernels, "PRIVATE_OPERATIONS", ("an_operation_that_no_torch_has",))
    expected = explicit(attn)
    assert torch.equal(call(attn), expected)


# Several processes.


def _shard_and_step(rank: int, store: str, results: str) -> None:
    """One step of each kind of model under DDP and fully_shard; writes the outputs beside those of a lone model."""
    from torch import distributed
    from torch.distributed.fsdp import fully_shard
    from torch.nn.parallel import DistributedDataParallel

    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    mesh = distributed.device_mesh.init_device_mesh("cpu", (2,))
    outputs = {}
    for attention in KINDS:
        expected = small_model(attention).eval()(IMAGES).detach()
        data_parallel = DistributedDataParallel(small_model(attention).eval())
        sharded = small_model(attention).eval()
        for block in sharded.blocks:
            fully_shard(block, mesh=mesh)
        fully_shard(sharded, mesh=mesh)
        for name, model in (("DDP", data_parallel), ("FSDP", sharded)):
            out = model(IMAGES)
            out.square().sum().backward()
            outputs[name, attention] = (out.detach(), expected, all(p.grad is not None for p in model.parameters()))
    torch.save(outputs, f"{results}.{rank}")
    distributed.destroy_process_group()


@pytest.mark.slow
def test_data_parallel_and_sharded_models_compute_the_same(tmp_path):
    torch.multiprocessing.spawn(_shard_and_step, (str(tmp_path / "store"), str(tmp_path / "out")), nprocs=2)
    outputs = torch.load(tmp_path / "out.0")
    assert len(outputs) == 2 * len(KINDS)
    for out, expected, all_have_gradients in outputs.values():
        torch.testing.assert_close(out, expected, rtol=1e-4, atol=1e-5)
        assert all_have_gradients
