"""The networks that compute in the page give what PyTorch gives in 64 bits, for every specimen and replacement."""

import base64
from dataclasses import replace
from functools import cache
from operator import attrgetter

import pytest
import torch

from deepvit_edu.checkpoints import load_model, save_model
from deepvit_edu.diagnostics import record_attention
from deepvit_edu.diagnostics.interventions import replaced_logits
from deepvit_edu.nn.model import VisionTransformer, ViTConfig
from deepvit_edu.nn.sparse import Selection, select_tokens
from deepvit_edu.zoo import copy_shared_weights
from tools.contents import ROOT

SOURCE = "\n".join((ROOT / f"web/{name}.js").read_text(encoding="utf-8") for name in ("network", "interventions"))
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
STEM = attrgetter("stem")
PLAIN = [path for path in SPECIMENS if path.stem.startswith(("plain", "layerscale"))]  # their maps are softmax's
STEM_MEANS = {"tokens": "stem", "token_options": {"widths": (6, 10)}, "class_token": False}
MADE = {
    "stem, mean": STEM_MEANS,
    "stem, class token": {"tokens": "stem"},
    "longer stem, mean": STEM_MEANS | {"token_options": {"widths": (6, 9, 7)}, "patch_size": 8},
    "patches, mean": {"class_token": False},
    "stem, mean, Re-attention": STEM_MEANS | {"attention": ("re",)},
    "stem, mean, refined": STEM_MEANS | {"attention": ("refined",)},
}
PIXELS = torch.randint(0, 256, (2, 3, 32, 32), generator=torch.Generator().manual_seed(0))
COMPUTE = """([weights, images, changes, drops]) => {
  const network = visionNetwork(), { replace, drop } = interventions(network);
  const model = network.build(Uint8Array.from(atob(weights), (c) => c.charCodeAt(0)).buffer);
  const [base, other] = images.map((pixels) => network.run(model, pixels));
  const packed = (values) => { // numbers as text, much faster than as a list
    const bytes = new Uint8Array(values.buffer), pieces = [];
    for (let i = 0; i < bytes.length; i += 32768) pieces.push(String.fromCharCode(...bytes.subarray(i, i + 32768)));
    return btoa(pieces.join(""));
  };
  const replaced = changes.map(([blocks, how]) => Array.from(replace(model, base, blocks, how, other).logits));
  const dropped = drops.map(([before, counts, sign, named]) => {
    const scores = (looks, places) => (
      named ? places.map((place) => named.includes(place)) : looks.map((look) => sign * look)
    );
    const { logits, kept } = drop(model, base, before, (stage) => counts[stage], scores);
    return { logits: Array.from(logits), kept };
  });
  return { logits: Array.from(base.logits), maps: base.maps.map(packed), replaced, dropped };
}"""


@pytest.fixture(scope="module")
def compute(browser):
    """A function from a specimen's file, changes [(blocks, how)], drops and source to what the page computes.

    A drop is (blocks before which, how many patches stay at each, sign of the class token's attention, places that stay
    whatever it is, or None).
    """

    def run(path, changes=(), drops=(), source=SOURCE):
        page = browser.new_page()
        page.add_script_tag(content=source)
        weights = base64.b64encode(path.read_bytes()).decode()
        found = page.evaluate(COMPUTE, [weights, [image.flatten().tolist() for image in PIXELS], changes, drops])
        page.close()
        return found

    return run


@cache
def in_pytorch(path):
    """The model and both images, normalised, in 64 bits."""
    model, about = load_model(path)
    mean, std = (torch.tensor(about[key], dtype=torch.float64)[:, None, None] for key in ("mean", "std"))
    return model.double(), (PIXELS / 255 - mean) / std


@pytest.fixture
def make(tmp_path):
    """A function from a model's options to its file: all that training would change is drawn, statistics included."""

    def write(**options):
        torch.manual_seed(0)
        sizes = {"img_size": 32, "patch_size": 4, "embed_dim": 16, "depth": 3, "num_heads": 2, "num_classes": 5}
        start = {"init_std": 0.2}  # maps that are not uniform
        model = VisionTransformer(ViTConfig(**sizes | start | options))
        with torch.no_grad():
            for name, weight in model.state_dict().items():
                if name.endswith("running_var"):
                    weight.uniform_(0.002, 1)  # small enough for the epsilon to matter
                elif weight.ndim == 1 and weight.is_floating_point():
                    weight.add_(torch.randn_like(weight), alpha=0.3)  # norms start from 1, biases and means from 0
        about = {"mean": [0.4, 0.5, 0.6], "std": [0.2, 0.25, 0.3]}
        return save_model(model, tmp_path / "made.safetensors", **about)

    return write


def unpacked(text):
    return torch.frombuffer(bytearray(base64.b64decode(text)), dtype=torch.float64)


def largest_difference(found, expected):
    return (torch.as_tensor(found, dtype=torch.float64) - expected.flatten()).abs().max().item()


@pytest.mark.parametrize("path", SPECIMENS, ids=STEM)
def test_scores_maps_and_replaced_maps_are_pytorchs(compute, path):
    check_scores_and_maps(compute, path)


@pytest.mark.parametrize("options", MADE.values(), ids=MADE)
def test_stems_and_means_are_pytorchs(compute, make, options):
    check_scores_and_maps(compute, make(**options))


def check_scores_and_maps(compute, path):
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
    found = compute(path, source=SOURCE.replace(right, wrong))
    with torch.no_grad():
        assert largest_difference(found["logits"], model(images)[0]) > BOUND


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("Math.sqrt(variance[i] + eps)", "Math.sqrt(variance[i])"),
        ("- edge + inside % kernel", "- edge + 1 + inside % kernel"),
        ("Math.max(value, 0)", "value"),
        ("layerNorm(classToken ? x.subarray(0, width) : x,", "layerNorm(x.subarray(0, width),"),
    ],
    ids=["no epsilon in BatchNorm", "a stem's windows one pixel lower", "no ReLU", "the first token, not the mean"],
)
def test_the_bound_tells_a_wrong_stem(compute, make, right, wrong):
    path = make(**STEM_MEANS)
    assert right in SOURCE
    model, images = in_pytorch(path)
    found = compute(path, source=SOURCE.replace(right, wrong))
    with torch.no_grad():
        assert largest_difference(found["logits"], model(images)[0]) > BOUND


def test_the_network_is_short_enough_to_be_shown():
    assert len((ROOT / "web/network.js").read_text(encoding="utf-8").splitlines()) <= 290


@pytest.mark.parametrize("options", [{"tokens": "t2t-transformer"}, {"mlp": "ghost"}, {"dense_head": True}])
def test_a_model_that_the_page_cannot_compute_is_refused(compute, make, options):
    with pytest.raises(Exception, match="models of patches or a stem with plain, Re- or refined attention only"):
        compute(make(**options))


class Named(Selection):
    """Keeps the places that it is told."""

    places = None

    def scores(self, stage, x, row, places):
        return torch.isin(places, torch.tensor(self.places)).double()


def with_fewer_tokens(model, before, keep, selection):
    options = {"selection": selection, "selection_before": before, "keep_ratio": keep}
    return copy_shared_weights(model, VisionTransformer(replace(model.config, **options)).double()).eval()


@pytest.mark.parametrize("path", PLAIN, ids=STEM)
def test_dropped_tokens_are_the_packages(compute, path):
    """The same patches go, and the scores are the same, by attention, its reverse, and places that are given."""
    model, images = in_pytorch(path)
    patches = images.shape[-1] ** 2 // model.config.patch_size**2
    for before, keep in (((1,), 0.5), ((12,), 0.25), ((4, 8, 16), 0.5)):
        counts = [int(patches * keep ** (stage + 1)) for stage in range(len(before))]
        named = list(range(1, 2 * counts[0], 2))
        expected = [with_fewer_tokens(model, before, keep, f"{how}-attended") for how in ("most", "least")]
        drops = [[before, counts, 1, None], [before, counts, -1, None]]
        if len(before) == 1:
            expected.append(with_fewer_tokens(model, before, keep, "random"))
            expected[-1].selection = Named(model.config.embed_dim, patches, before, keep)
            expected[-1].selection.places = named
            drops.append([before, counts, 0, named])
        found = compute(path, drops=drops)["dropped"]
        for ours, theirs in zip(found, expected, strict=True):
            with torch.no_grad():
                assert ours["kept"] == [kept[0].tolist() for kept in select_tokens(theirs, images[:1]).kept]
                assert largest_difference(ours["logits"], theirs(images[:1])[0]) < BOUND, (before, keep)


@pytest.mark.parametrize(
    ("name", "reason"), [("re_shapes", "their mean, 1/N"), ("refiner_cifar10", "other neighbours")]
)
def test_no_token_is_dropped_where_maps_need_all(compute, name, reason):
    path = next(path for path in SPECIMENS if path.stem == name)
    with pytest.raises(Exception, match=reason):
        compute(path, drops=[[[12], [4], 1, None]])


@pytest.mark.parametrize("tokens", ["stem", "patch"])
def test_no_token_is_dropped_without_a_class_token(compute, make, tokens):
    with pytest.raises(Exception, match="this network has no class token"):
        compute(make(tokens=tokens, class_token=False), drops=[[[1], [4], 1, None]])
