"""Numbers that survive: half precision, extreme images, float64, compilers, memory formats, small batches."""

import shutil
from collections.abc import Callable

import pytest
import torch

from deepvit_edu.nn.tokens import PerformerLayer
from deepvit_edu.zoo import create_model

NARROW = {"embed_dim": 48, "num_heads": 4, "depth": 1}
# One variant of each family, with all of its modules, small.
FAMILIES = {
    "vit_12b": NARROW,
    "deepvit_s": {**NARROW, "attention_start": 0},
    "t2t_vit_7": NARROW,
    "t2t_vit_t_14": NARROW,
    "t2t_vit_14_se": NARROW,
    "t2t_vit_16_ghost": NARROW,
    "t2t_vit_dense": {"embed_dim": 48, "num_heads": 4, "dense_stages": (1, 1), "growth": 16},
    "refiner_vit_s": {**NARROW, "depth": 2, "dense_head": True},
    "lvvit_t": NARROW,
}


def small(name: str, **options) -> torch.nn.Module:
    return create_model(name, num_classes=5, img_size=32, **{**FAMILIES[name], **options})


def photos(batch: int = 2) -> torch.Tensor:
    return torch.randn(batch, 3, 32, 32)


EXTREMES = {"50 deviations": lambda: 50 * photos(), "zeros": lambda: torch.zeros(2, 3, 32, 32)}


@pytest.mark.parametrize("extreme", EXTREMES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", FAMILIES)
def test_extreme_images_give_finite_logits_and_gradients(name, dtype, extreme):
    model = small(name).train()
    with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
        logits = model(EXTREMES[extreme]())
        loss = torch.nn.functional.cross_entropy(logits, torch.tensor([0, 1]))
    loss.backward()
    assert logits.isfinite().all()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_performer_keeps_float32_inside_autocast(dtype):
    # Queries along a random feature give the largest exponent there is, M / 2 = 16: too much for 16 bits.
    layer = PerformerLayer(dim=27)
    query = layer.random_features.detach()[None].to(dtype)
    value = torch.randn_like(query)
    exact = layer.double().linear_attention(query.double(), query.double(), value.double())
    with torch.autocast("cpu", dtype):
        mixed = layer.float().linear_attention(query, query, value)
    assert mixed.dtype == dtype
    torch.testing.assert_close(mixed.double(), exact, rtol=torch.finfo(dtype).eps, atol=1e-5)


def test_performer_attention_survives_tokens_of_50_deviations():
    layer = PerformerLayer(dim=27)
    tokens = [(50 * torch.randn(2, 16, 64)).requires_grad_() for _ in range(3)]
    out = layer.linear_attention(*tokens)
    out.square().sum().backward()
    assert out.isfinite().all()
    assert all(x.grad.isfinite().all() for x in tokens)


@pytest.mark.parametrize("name", FAMILIES)
def test_float64_works_and_agrees(name):
    model, images = small(name).eval(), photos()
    single = model(images)
    double = model.double()(images.double())
    assert double.dtype == torch.float64
    torch.testing.assert_close(single.double(), double, rtol=1e-4, atol=1e-5)
    double.sum().backward()


@pytest.mark.parametrize("name", FAMILIES)
def test_channels_last_images_give_the_same(name):
    model, images = small(name).eval(), photos()
    torch.testing.assert_close(model(images.to(memory_format=torch.channels_last)), model(images))


@pytest.mark.parametrize("name", FAMILIES)
def test_one_image_trains(name):
    model = small(name).train()
    model(photos(1)).square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters() if p.requires_grad)


def compiled(model: torch.nn.Module, backend: str = "aot_eager") -> Callable[[torch.Tensor], torch.Tensor]:
    torch.compiler.reset()
    return torch.compile(model, fullgraph=True, backend=backend)


@pytest.mark.parametrize("name", FAMILIES)
@torch.no_grad()
def test_one_graph_equals_eager(name):
    model, images = small(name).eval(), photos()
    torch.testing.assert_close(compiled(model)(images), model(images), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["deepvit_s", "refiner_vit_s"])
def test_one_graph_of_a_training_step_equals_eager(name):
    model, images = small(name).train().double(), photos().double()

    def gradients(run):
        return torch.autograd.grad(run(images).square().sum(), list(model.parameters()))

    torch.testing.assert_close(gradients(compiled(model)), gradients(model))


@pytest.mark.skipif(not shutil.which("g++"), reason="inductor needs a C++ compiler")
@torch.no_grad()
@pytest.mark.slow
def test_inductor_equals_eager():
    model, images = small("deepvit_s", tokens="patch", token_options={}).eval(), photos()
    torch.testing.assert_close(compiled(model, "inductor")(images), model(images), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", FAMILIES)
def test_exported_program_equals_eager(name):
    model, images = small(name).eval(), photos()
    sizes = {"images": {0: torch.export.Dim("count", min=1, max=64)}}
    exported = torch.export.export(model, (images,), dynamic_shapes=sizes).module()
    for others in (photos(), torch.cat([photos(), photos(), photos()]), photos()[:1]):
        torch.testing.assert_close(exported(others), model(others), rtol=1e-4, atol=1e-5)
