import argparse
import json
import pickle
from dataclasses import asdict

import pytest
import torch
from timm.layers import resample_abs_pos_embed

from deepvit_edu.checkpoints import from_official, load_model, load_official, load_pretrained, save_model, to_official
from deepvit_edu.tensors import write_tensors
from deepvit_edu.zoo import create_model
from tests.helpers import tiny_model


def test_round_trip(tmp_path):
    model = tiny_model().eval()
    path = save_model(model, tmp_path / "m.safetensors", name="tiny", mean=[0.5] * 3)
    loaded, about = load_model(path)
    images = torch.randn(2, 3, 8, 8)
    assert torch.equal(loaded(images), model(images))
    assert loaded.config == model.config
    assert about == {"name": "tiny", "mean": [0.5] * 3}


@pytest.mark.parametrize(
    ("about", "message"),
    [
        ([], r"what it says about its model is \[\], not a table"),
        ({"name": 3}, "its name is 3, not a text"),
        ({"dataset": ["a"]}, "its dataset is .'a'., not a text"),
        ({"mean": "abc"}, "its mean is 'abc', not a number for each of 3 channels"),
        ({"mean": [0.5]}, "its mean is .0.5., not a number for each of 3"),
        ({"mean": [float("nan"), 0, 0]}, "its mean is nan; it must be a finite number"),
        ({"std": [0.5, 0, 0.5]}, "its std is 0; it must be above 0"),
        ({"classes": 3}, "its classes are 3, not a list of names"),
        ({"classes": ["a"]}, "it names 1 classes, and its head has"),
    ],
)
def test_what_a_file_says_of_its_model_is_checked(tmp_path, about, message):
    model = tiny_model()
    texts = {"config": json.dumps(asdict(model.config)), "about": json.dumps(about)}
    path = write_tensors(tmp_path / "m.safetensors", model.state_dict(), texts)
    with pytest.raises(ValueError, match=message):
        load_model(path)


def test_missing_file_is_said(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no model file"):
        load_model(tmp_path / "none.safetensors")


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("truncated", "cannot be read"),
        ("flipped", "is damaged: its checksum does not fit"),
        ("pickle", "is no safetensors file"),
        ("pytorch", "is a file of PyTorch's; load_official reads"),
        ("empty", "is empty"),
        ("foreign", "holds weights and no configuration"),
        ("younger", "has the option 'new_option', so a younger version wrote it"),
        ("huge", "depth is 1000000000000; it must be"),
        ("parts", "missing head.bias"),
        ("shape", r"its head.weight is \(4, 16\) and its configuration says \(3, 16\)"),
        ("type", "its head.weight holds torch.int64"),
        ("nan", "has a head.weight that is not all finite numbers"),
    ],
)
def test_what_is_not_ours_is_refused_without_running_it(tmp_path, kind, message):
    path, trap = tmp_path / "m.safetensors", tmp_path / "trap"
    model = tiny_model()
    save_model(model, path)
    weights, config = dict(model.state_dict()), {}
    if kind == "truncated":
        path.write_bytes(path.read_bytes()[:-100])
    elif kind == "flipped":
        content = bytearray(path.read_bytes())
        content[-1] ^= 1
        path.write_bytes(content)
    elif kind == "pickle":
        path.write_bytes(pickle.dumps(_Trap(str(trap))))
    elif kind == "pytorch":
        torch.save(weights, path)
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "foreign":
        write_tensors(path, weights, {})
    else:
        head = {
            "shape": torch.zeros(4, 16),
            "type": torch.zeros(3, 16, dtype=torch.int64),
            "nan": torch.full((3, 16), torch.nan),
        }
        weights["head.weight"] = head.get(kind, weights["head.weight"])
        if kind == "parts":
            del weights["head.bias"]
        config = {"younger": {"new_option": 1}, "huge": {"depth": 10**12}}.get(kind, {})
        write_tensors(path, weights, {"config": json.dumps({**asdict(model.config), **config})})
    with pytest.raises(ValueError, match=message):
        load_model(path)
    assert not trap.exists()


class _Trap:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (self.path, "w")


# The authors' files, here made on the spot in their layouts. Two blocks are enough: every layer's names are alike.

FAMILIES = ("vit_16b", "deepvit_16b", "t2t_vit_7", "t2t_vit_t_14", "t2t_vit_14_se", "t2t_vit_16_ghost", "refiner_vit_s")


def small(name, **options):
    return create_model(name, **{"depth": 2, "num_classes": 5, "img_size": 64, **options})


def official(model, name):
    return to_official(model.state_dict(), name, **{"depth": model.config.depth, "img_size": 64})


def wrap(weights, kind):
    module = {f"module.{name}": value for name, value in weights.items()}
    wrong = {name: torch.zeros_like(value) for name, value in weights.items()}
    return {
        "bare": weights,
        "checkpoint": {"epoch": 3, "state_dict": weights, "args": argparse.Namespace(lr=0.1)},
        "moving average": {"state_dict": wrong, "state_dict_ema": module},
        "cifar": {"net": module, "acc": 98.3, "epoch": 59},
        "detector": {"state_dict": {f"module.backbone.{name}": value for name, value in weights.items()}},
    }[kind]


@pytest.mark.parametrize("kind", ["bare", "checkpoint", "moving average", "cifar", "detector"])
@pytest.mark.parametrize("name", FAMILIES)
def test_a_released_file_loads_however_it_is_wrapped(tmp_path, name, kind):
    source, target = small(name).eval(), small(name).eval()
    torch.save(wrap(official(source, name), kind), tmp_path / "file.pth.tar")
    images = torch.randn(1, 3, 64, 64)
    assert not torch.equal(target(images), source(images))
    assert load_official(target, tmp_path / "file.pth.tar") is target
    assert torch.equal(target(images), source(images))


def test_positions_of_another_size_are_resized_and_fixed_ones_rebuilt(tmp_path):
    source, target = small("vit_16b"), small("vit_16b", img_size=96)
    torch.save(official(source, "vit_16b"), tmp_path / "learned.pth")
    load_official(target, tmp_path / "learned.pth")
    expected = resample_abs_pos_embed(source.pos_embed, [6, 6], num_prefix_tokens=1)
    torch.testing.assert_close(target.pos_embed, expected)
    fixed = small("t2t_vit_7", img_size=96)
    before = fixed.pos_embed.clone()
    torch.save(official(small("t2t_vit_7"), "t2t_vit_7"), tmp_path / "fixed.pth")
    assert torch.equal(load_official(fixed, tmp_path / "fixed.pth").pos_embed, before)


def test_refiner_before_its_layer_scale_gets_ones(tmp_path):
    weights = official(small("refiner_vit_s"), "refiner_vit_s")
    torch.save({k: v for k, v in weights.items() if "scale_channel" not in k}, tmp_path / "june.pth")
    model = load_official(small("refiner_vit_s"), tmp_path / "june.pth")
    assert torch.equal(model.blocks[0].scale2.gamma, torch.ones(384))


def test_dense_head_round_trip_and_its_absence_in_the_model(tmp_path):
    source = small("lvvit_t").eval()
    torch.save(official(source, "lvvit_t"), tmp_path / "dense.pth")
    images = torch.randn(1, 3, 64, 64)
    loaded = load_official(small("lvvit_t").eval(), tmp_path / "dense.pth")
    assert torch.equal(loaded(images), source(images))
    with pytest.raises(ValueError, match="create the model with dense_head=True"):
        load_official(small("lvvit_t", dense_head=False), tmp_path / "dense.pth")


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("family", "file.pth do not fit the model: .*missing"),
        ("classes", "create the model with num_classes=5"),
        ("truncated", "cut or damaged"),
        ("malicious", "holds code"),
        ("list", "holds no weights"),
        ("absent", "there is no file"),
    ],
)
def test_what_does_not_fit_is_one_sentence_and_nothing_is_half_loaded(tmp_path, kind, message):
    path, trap = tmp_path / "file.pth", tmp_path / "trap"
    source, model = small("t2t_vit_7"), small("t2t_vit_7", num_classes=6 if kind == "classes" else 5)
    if kind == "family":
        torch.save(official(small("vit_16b"), "vit_16b"), path)
    elif kind == "malicious":
        torch.save({"state_dict": _Trap(str(trap))}, path)
    elif kind == "list":
        torch.save([1, 2], path)
    elif kind != "absent":
        torch.save(official(source, "t2t_vit_7"), path)
    if kind == "truncated":
        path.write_bytes(path.read_bytes()[:-1000])
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        load_official(model, path)
    assert not trap.exists()
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def rejected(path, model, message):
    """Whether loading ends in that one sentence, with the model as it was."""
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(ValueError, match=message) as told:
        load_official(model, path)
    assert "\n" not in str(told.value)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_an_old_file_that_is_cut_anywhere_is_told(tmp_path):
    path, model = tmp_path / "file.pth", small("t2t_vit_7")
    torch.save(official(small("t2t_vit_7"), "t2t_vit_7"), path, _use_new_zipfile_serialization=False)
    whole = path.read_bytes()
    for length in [*range(0, 3000, 37), len(whole) // 2, len(whole) - 1]:
        path.write_bytes(whole[:length])
        rejected(path, model, "cut or damaged|holds code|is empty")


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("head.weight", torch.eye(5, 256).to_sparse(), "holds no weights in a known layout"),
        (7, torch.ones(1), "holds no weights in a known layout"),
        ("head.weight", torch.ones(5, 256, dtype=torch.complex64), "head.weight of torch.complex64"),
        ("head.weight", torch.ones(5, 256, dtype=torch.int64), "head.weight of torch.int64"),
        ("head.weight", torch.full((5, 256), float("nan")), "head.weight that is not all finite numbers"),
        ("head.weight", torch.tensor(1.0), r"head.weight of shape \(\), the model one of \(5, 256\)"),
    ],
)
def test_what_is_no_weight_is_told(tmp_path, name, value, message):
    torch.save({**official(small("t2t_vit_7"), "t2t_vit_7"), name: value}, tmp_path / "file.pth")
    rejected(tmp_path / "file.pth", small("t2t_vit_7"), message)


@pytest.mark.parametrize("shape", [(1, 19, 384), (1, 17, 384, 1), (17,), ()])
def test_positions_that_are_no_square_are_told(tmp_path, shape):
    torch.save({**official(small("vit_16b"), "vit_16b"), "pos_embed": torch.zeros(shape)}, tmp_path / "file.pth")
    rejected(tmp_path / "file.pth", small("vit_16b", img_size=96), "pos_embed of shape")


@pytest.mark.parametrize(
    ("has", "wants", "message"),
    [
        ({}, {"num_classes": 0}, "has a head; create the model with num_classes=5"),
        ({"dense_head": False}, {}, "has no dense head; create the model with dense_head=False"),
    ],
)
def test_other_heads_are_told(tmp_path, has, wants, message):
    torch.save(official(small("lvvit_t", **has), "lvvit_t"), tmp_path / "file.pth")
    rejected(tmp_path / "file.pth", small("lvvit_t", **wants), message)


@pytest.mark.parametrize("name", FAMILIES)
def test_there_and_back_changes_nothing(name):
    ours = create_model(name, num_classes=1000).state_dict()
    back = from_official(to_official(ours, name), name)
    assert back.keys() == ours.keys()
    assert all(torch.equal(back[key], ours[key]) for key in ours)


# Fine-tuning: weights for other classes, at another size


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("whose", ["ours", "authors"])
def test_weights_start_a_model_of_other_classes_and_size(tmp_path, name, whose):
    source = small(name)
    if whose == "ours":
        path = save_model(source, tmp_path / "file.safetensors")
    else:
        path = tmp_path / "file.pth.tar"
        torch.save({"state_dict_ema": official(source, name)}, path)
    model = small(name, num_classes=3, img_size=2 * source.config.img_size)
    before = model.head.weight.clone()
    assert load_pretrained(model, path) == ["head.bias", "head.weight"]
    assert torch.equal(model.head.weight, before)
    assert torch.equal(model.blocks[-1].norm1.weight, source.blocks[-1].norm1.weight)
    same = small(name)
    assert load_pretrained(same, path) == []
    images = torch.randn(2, 3, source.config.img_size, source.config.img_size)
    with torch.no_grad():
        torch.testing.assert_close(same.eval()(images), source.eval()(images))
    if source.config.positions == "learned":
        expected = resample_abs_pos_embed(source.pos_embed, [model.patch_embed.grid_size] * 2, num_prefix_tokens=1)
        assert torch.equal(model.pos_embed, expected)


def test_a_dense_head_may_come_or_go(tmp_path):
    path = save_model(small("lvvit_t"), tmp_path / "dense.safetensors")
    assert load_pretrained(small("lvvit_t", dense_head=False), path) == []
    path = save_model(small("lvvit_t", dense_head=False), tmp_path / "plain.safetensors")
    assert load_pretrained(small("lvvit_t"), path) == ["dense_head.bias", "dense_head.weight"]


@pytest.mark.parametrize("whose", ["ours", "authors"])
def test_weights_of_another_model_start_none(tmp_path, whose):
    source, model = small("vit_16b"), small("t2t_vit_7")
    path = tmp_path / "file.pth"
    save_model(source, path) if whose == "ours" else torch.save(official(source, "vit_16b"), path)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(ValueError, match="do not fit the model"):
        load_pretrained(model, path)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


@pytest.mark.parametrize("whose", ["ours", "authors"])
@pytest.mark.parametrize(("depth", "of_model"), [(2, 3), (3, 2)])
def test_weights_of_another_depth_are_told_by_their_blocks(tmp_path, whose, depth, of_model):
    source, model = small("vit_16b", depth=depth), small("vit_16b", depth=of_model)
    path = tmp_path / "file.pth"
    save_model(source, path) if whose == "ours" else torch.save(official(source, "vit_16b"), path)
    with pytest.raises(
        ValueError, match=f"file.pth do not fit .* there are {depth} blocks, and the model has {of_model}"
    ):
        load_pretrained(model, path)
