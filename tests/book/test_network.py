"""The networks that compute in the page give what PyTorch gives in 64 bits, for every specimen and replacement."""

import base64
from functools import cache

import pytest
import torch

from deepvit_edu.checkpoints import load_model, save_model
from deepvit_edu.diagnostics import record_attention
from deepvit_edu.diagnostics.interventions import replaced_logits
from deepvit_edu.nn.model import VisionTransformer, ViTConfig
from tools.contents import ROOT

SOURCE = (ROOT / "web/network.js").read_text(encoding="utf-8")
SPECIMENS = sorted(
    path for path in (ROOT / "book/weights").glob("*.safetensors") if not path.stem.endswith("_similarity")
)
WAYS = {
    "previous": "previous",
    "uniform": "uniform",
    "query-mean": "mean",
    "other image": "other",
    "no attention": "none",
}
BOUND = 1e-5
PIXELS = torch.randint(0, 256, (2, 3, 32, 32), generator=torch.Generator().manual_seed(0))
COMPUTE = """([weights, images, changes]) => {
  const network = visionNetwork();
  const model = network.build(Uint8Array.from(atob(weights), (c) => c.charCodeAt(0)).buffer);
  const [base, other] = images.map((pixels) => network.run(model, pixels));
  const packed = (values) => { // numbers as text, much faster than as a list
    const bytes = new Uint8Array(values.buffer), pieces = [];
    for (let i = 0; i < bytes.length; i += 32768) pieces.push(String.fromCharCode(...bytes.subarray(i, i + 32768)));
    return btoa(pieces.join(""));
  };
  const replaced = changes.map(([blocks, how]) => Array.from(network.replace(model, base, blocks, how, other).logits));
  return { logits: Array.from(base.logits), maps: base.maps.map(packed), replaced };
}"""


@pytest.fixture(scope="module")
def compute(browser):
    """A function from a specimen's file, changes [(blocks, how)] and the network's source to what the page computes."""

    def run(path, changes, source=SOURCE):
        page = browser.new_page()
        page.add_script_tag(content=source)
        weights = base64.b64encode(path.read_bytes()).decode()
        found = page.evaluate(COMPUTE, [weights, [image.flatten().tolist() for image in PIXELS], changes])
        page.close()
        return found

    return run


@cache
def in_pytorch(path):
    """The model and both images, normalised, in 64 bits."""
    model, about = load_model(path)
    mean, std = (torch.tensor(about[key], dtype=torch.float64)[:, None, None] for key in ("mean", "std"))
    return model.double(), (PIXELS / 255 - mean) / std


def unpacked(text):
    return torch.frombuffer(bytearray(base64.b64decode(text)), dtype=torch.float64)


def largest_difference(found, expected):
    return (torch.as_tensor(found, dtype=torch.float64) - expected.flatten()).abs().max().item()


@pytest.mark.parametrize("path", SPECIMENS, ids=lambda path: path.stem)
def test_scores_maps_and_replaced_maps_are_pytorchs(compute, path):
    model, images = in_pytorch(path)
    depth = len(model.blocks)
    places = [[1], [depth - 1], list(range(depth // 2, depth))]
    changes = [(blocks, how) for blocks in places for how in WAYS.values()]
    found = compute(path, changes)
    with torch.no_grad():
        assert largest_difference(found["logits"], model(images)[0]) < BOUND
        for ours, theirs in zip(found["maps"], record_attention(model, images, "used"), strict=True):
            assert largest_difference(unpacked(ours), theirs[0]) < BOUND
        expected = [replaced_logits(model, images, blocks, list(WAYS)) for blocks in places]
    expected = [logits[how][0] for logits in expected for how in WAYS]
    for change, ours, theirs in zip(changes, found["replaced"], expected, strict=True):
        assert largest_difference(ours, theirs) < BOUND, change


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("0.5 * x * (1 + erf(x / Math.SQRT2))", "0.5 * x * (1 + Math.tanh(0.7978845608 * (x + 0.044715 * x ** 3)))"),
        ("Math.sqrt(variance + eps)", "Math.sqrt(variance + 10 * eps)"),
    ],
    ids=["another GELU", "another epsilon"],
)
def test_the_bound_tells_a_wrong_network(compute, right, wrong):
    path = next(path for path in SPECIMENS if path.stem == "plain_shapes")
    assert right in SOURCE
    model, images = in_pytorch(path)
    found = compute(path, [], SOURCE.replace(right, wrong))
    with torch.no_grad():
        assert largest_difference(found["logits"], model(images)[0]) > BOUND


def test_a_model_that_the_page_cannot_compute_is_refused(compute, tmp_path):
    config = ViTConfig(img_size=32, patch_size=8, embed_dim=8, depth=1, num_heads=2, num_classes=3, tokens="stem")
    path = save_model(VisionTransformer(config), tmp_path / "stem.safetensors", mean=[0.5] * 3, std=[0.5] * 3)
    with pytest.raises(Exception, match="models of patches with plain, Re- or refined attention only"):
        compute(path, [])
