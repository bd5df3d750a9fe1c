"""Our models as timm's users meet them."""

from fnmatch import fnmatch

import pytest
import timm
import torch
from timm.data import create_transform, resolve_model_data_config
from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.models._hub import has_hf_hub, save_for_hf
from timm.optim import create_optimizer_v2

from deepvit_edu import timm_names, zoo
from deepvit_edu.data.catalogue import SOURCES
from deepvit_edu.nn.model import VisionTransformer
from deepvit_edu.zoo import create_model, list_models
from tools.measure import timm_tests

HALF = (0.5, 0.5, 0.5)
SMALL = {"img_size": 32, "depth": 2, "embed_dim": 48, "num_heads": 4}


@pytest.mark.parametrize("name", list_models())
def test_timm_builds_our_model(name):
    with torch.device("meta"):
        ours, through_timm = create_model(name), timm.create_model(name)
    assert type(through_timm) is VisionTransformer
    assert through_timm.config == ours.config
    assert through_timm.pretrained_cfg == ours.pretrained_cfg


def test_timm_lists_the_names():
    assert timm.list_models("deepvit*") == sorted(list_models("deepvit*"))
    assert not timm.list_models("deepvit*", pretrained=True)


def test_a_name_that_timm_has_stays_with_timm(monkeypatch):
    monkeypatch.setitem(zoo.CONFIGS, "resnet18", zoo.CONFIGS["vit_12b"])
    with pytest.warns(UserWarning, match="models of its own named resnet18, so") as warned:
        timm_names.register_with_timm()
    assert len(warned) == 1
    assert isinstance(timm.create_model("resnet18", num_classes=2), timm.models.ResNet)


def test_options_of_timm():
    options = {**SMALL, "img_size": (32, 32), "num_classes": 0, "in_chans": 1, "drop_rate": 0.1, "drop_path_rate": 0.2}
    model = timm.create_model("deepvit_16b", **options, global_pool=None).eval()
    assert model(torch.randn(2, 1, 32, 32)).shape == (2, 48)
    assert (model.num_classes, model.num_features, model.config.drop_rate) == (0, 48, 0.1)
    assert model.blocks[-1].drop_path.drop_prob == 0.2
    model.reset_classifier(7)
    assert model.num_classes == model.config.num_classes == 7


def test_what_timm_cannot_have_is_told():
    with pytest.raises(ValueError, match=r"weights of lvvit_t cannot be downloaded; .*load_official"):
        timm.create_model("lvvit_t", pretrained=True)
    with pytest.raises(ValueError, match="not square"):
        timm.create_model("vit_12b", img_size=(32, 64))
    with pytest.raises(ValueError, match="no option 'global_pool'"):
        timm.create_model("vit_12b", global_pool="avg")


@pytest.mark.skipif(not has_hf_hub(), reason="this timm is older than the huggingface_hub beside it")
def test_timm_loads_what_timm_saved(tmp_path):
    model, images = create_model("cifar_vit_4x64", num_classes=7).eval(), torch.randn(2, 3, 32, 32)
    save_for_hf(model, tmp_path)
    again = timm.create_model(f"local-dir:{tmp_path}", pretrained=True)
    torch.testing.assert_close(again.eval()(images), model(images))


def test_timm_loads_a_file_that_is_named(tmp_path):
    model, images = create_model("cifar_vit_4x64", num_classes=7).eval(), torch.randn(2, 3, 32, 32)
    torch.save(model.state_dict(), tmp_path / "weights.pth")
    overlay = {"file": str(tmp_path / "weights.pth"), "num_classes": 7}
    again = timm.create_model("cifar_vit_4x64", pretrained=True, num_classes=7, pretrained_cfg_overlay=overlay)
    torch.testing.assert_close(again.eval()(images), model(images))


def test_weights_from_a_file(tmp_path):
    model = create_model("vit_12b", **SMALL)
    torch.save({"state_dict": model.state_dict()}, tmp_path / "weights.pth")
    again = timm.create_model("vit_12b", checkpoint_path=str(tmp_path / "weights.pth"), **SMALL)
    assert all(torch.equal(value, again.state_dict()[key]) for key, value in model.state_dict().items())


@pytest.mark.parametrize(
    ("name", "mean", "std", "crop"),
    [
        ("vit_32b", HALF, HALF, 0.9),
        ("deepvit_s", HALF, HALF, 0.9),
        ("deepvit_l_384", HALF, HALF, 1.0),
        ("refiner_vit_s", HALF, HALF, 0.9),
        ("refiner_vit_m", HALF, HALF, 1.0),
        ("refiner_vit_l", HALF, HALF, 1.13),
        ("t2t_vit_14", IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD, 0.9),
        ("lvvit_s", IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD, 0.9),
        ("lvvit_m", IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD, 1.0),
        ("cifar_vit_4x64", SOURCES["cifar10"].mean, SOURCES["cifar10"].std, 1.0),
    ],
)
def test_images_are_prepared_as_the_authors_did(name, mean, std, crop):
    with torch.device("meta"):
        model = timm.create_model(name)
    side = zoo.CONFIGS[name].img_size
    expected = {"input_size": (3, side, side), "interpolation": "bicubic", "mean": mean, "std": std, "crop_pct": crop}
    config = resolve_model_data_config(model)
    assert expected.items() <= config.items()
    assert create_transform(**config)


def test_size_of_the_images_is_the_models_own():
    for build in (create_model, timm.create_model):
        model = build("t2t_vit_7", img_size=48, in_chans=1, depth=1)
        assert resolve_model_data_config(model)["input_size"] == (1, 48, 48)


@pytest.mark.parametrize("name", ["deepvit_s", "refiner_vit_s", "t2t_vit_dense"])
def test_features_only(name):
    options = {"img_size": 64, "depth": 3, "dense_head": name == "refiner_vit_s"}
    torch.manual_seed(0)
    net = timm.create_model(name, features_only=True, out_indices=(0, -2), **options).eval()
    torch.manual_seed(0)
    whole = create_model(name, **options).eval()
    images = torch.randn(2, 3, 64, 64)
    maps = net(images)
    assert [tuple(x.shape) for x in maps] == [(2, channels, 4, 4) for channels in net.feature_info.channels()]
    assert net.feature_info.reduction() == [16, 16]
    torch.testing.assert_close(maps, whole.forward_intermediates(images, [0, -2], intermediates_only=True))
    assert len(net.model.blocks) == len(whole.blocks) - 1


@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize("options", [{}, {"output_fmt": "NLC", "return_prefix_tokens": True}, {"stop_early": True}])
@pytest.mark.parametrize("indices", [None, 2, [0, -2]])
def test_intermediates_equal_timms(indices, options, norm):
    sizes = {"img_size": 32, "patch_size": 8, "embed_dim": 48, "depth": 3, "num_heads": 4, "num_classes": 3}
    theirs = timm.models.VisionTransformer(mlp_ratio=3.0, **sizes).eval()
    ours = create_model("vit_12b", **sizes).eval()
    ours.load_state_dict(theirs.state_dict())
    images = torch.randn(2, 3, 32, 32)
    expected = theirs.forward_intermediates(images, indices, norm=norm, **options)
    torch.testing.assert_close(ours.forward_intermediates(images, indices, norm=norm, **options), expected)


def test_the_last_norm_is_refused_for_other_widths():
    model = create_model("t2t_vit_dense", img_size=32).eval()
    with pytest.raises(ValueError, match="the last norm takes 584 channels, and a chosen block gives 192; choose norm"):
        model.forward_intermediates(torch.randn(1, 3, 32, 32), [0], norm=True)
    with pytest.raises(ValueError, match="choose NCHW or NLC"):
        model.forward_intermediates(torch.randn(1, 3, 32, 32), output_fmt="NHWC")


def test_layers_may_learn_at_rates_of_their_own():
    model = create_model("vit_12b", **SMALL)
    groups = create_optimizer_v2(model, opt="sgd", lr=1.0, weight_decay=0.1, layer_decay=0.5).param_groups
    scale = {id(p): group["lr_scale"] for group in groups for p in group["params"]}
    decay = {id(p): group["weight_decay"] for group in groups for p in group["params"]}
    ordered = [model.pos_embed, model.blocks[0].norm1.weight, model.blocks[1].norm1.weight, model.head.weight]
    assert [scale[id(p)] for p in ordered] == sorted({scale[id(p)] for p in ordered})
    assert decay[id(model.pos_embed)] == 0 < decay[id(model.head.weight)]


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_a_model_is_made_on_a_device_and_in_a_number_format(device):
    for create in (create_model, timm.create_model):
        model = create("t2t_vit_7", **{"img_size": 32, "depth": 2}, device=device, dtype=torch.float64)
        assert {value.device.type for value in model.parameters()} == {device}
        assert {value.dtype for value in model.parameters()} == {torch.float64}
        assert model.get_classifier().weight.device.type == device


def test_an_unknown_option_is_the_error_that_timms_users_expect():
    with pytest.raises(TypeError, match="no option 'not_a_model_arg'"):
        timm.create_model("vit_12b", not_a_model_arg=1)


@pytest.mark.parametrize("name", ["vit_12b", "deepvit_s", "t2t_vit_7", "cifar_vit_4x64"])
def test_the_first_convolution_is_where_the_configuration_says(name):
    with torch.device("meta"):
        model = timm.create_model(name)
    first = model.default_cfg["first_conv"]
    names = (first,) if isinstance(first, str) else first
    assert all(isinstance(model.get_submodule(each), torch.nn.Conv2d) for each in names)
    assert bool(names) == (name != "t2t_vit_7")
    assert model.eval().reset_classifier(3) is None
    assert not model.head.training


def test_what_is_left_out_of_timms_own_tests_is_said_of_models_and_tests_that_there_are():
    assert set(timm_tests.MODELS) <= set(list_models())
    for family, tests, why in timm_tests.NOT_FOR:
        left_out = [(model, test) for model in list_models(family) for test in timm_tests.TESTS if fnmatch(test, tests)]
        assert left_out
        assert all(timm_tests.reason(model, test) == why for model, test in left_out)
    assert not timm_tests.reason("vit_12b", "test_model_backward")
