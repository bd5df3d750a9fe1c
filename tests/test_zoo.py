import re

import pytest
import torch

from deepvit_edu.zoo import config_diff, copy_shared_weights, create_model, list_models


@pytest.mark.parametrize("name", list_models())
def test_every_model_answers(name):
    with torch.device("meta"):
        model = create_model(name, num_classes=5, img_size=32).eval()
        assert model(torch.randn(1, 3, 32, 32)).shape == (1, 5)


def test_list_is_filtered_by_pattern():
    assert list_models("vit_*") == ["vit_12b", "vit_16b", "vit_24b", "vit_32b"]
    assert not list_models("nothing*")


def test_overrides_and_other_sizes():
    model = create_model("cifar_vit_4x64", num_classes=3, img_size=48, in_chans=1, depth=2)
    assert len(model.blocks) == 2
    assert model(torch.randn(1, 1, 48, 48)).shape == (1, 3)


def test_unknown_names_suggest_the_nearest():
    with pytest.raises(ValueError, match="did you mean 'vit_16b'"):
        create_model("vit_16")
    with pytest.raises(ValueError, match="did you mean 'depth'"):
        create_model("vit_16b", dept=3)
    with pytest.raises(ValueError, match="28 and 32 are"):
        create_model("cifar_vit_4x64", img_size=30)


def test_diff_shows_what_a_paper_changed_and_nothing_else():
    header, *rows = config_diff("vit_16b", "deepvit_16b").splitlines()
    assert header.split() == ["option", "vit_16b", "deepvit_16b"]
    assert [row.split()[0] for row in rows] == ["attention"]
    assert "'re'" in rows[0]


def test_diff_shows_a_number_in_few_digits():
    for first, second in (("deepvit_16b", "deepvit_s"), ("vit_16b", "t2t_vit_14")):
        assert not re.search(r"\d{6}", config_diff(first, second))
    assert "{'map_scale': 0.1741}" in config_diff("deepvit_16b", "deepvit_s")


def test_weights_of_one_name_and_shape_are_shared_and_no_others_change():
    sizes = {"num_classes": 3, "img_size": 32, "depth": 2}
    plain, wide = create_model("cifar_vit_4x64", **sizes), create_model("cifar_vit_4x64", attention=("re",), **sizes)
    wide.reset_classifier(5)
    before = {name: value.clone() for name, value in wide.state_dict().items()}
    assert copy_shared_weights(plain, wide) is wide
    first = plain.state_dict()
    for name, value in wide.state_dict().items():
        shared = name in first and first[name].shape == value.shape
        assert torch.equal(value, first[name] if shared else before[name]), name
    assert not torch.equal(before["blocks.0.attn.qkv.weight"], first["blocks.0.attn.qkv.weight"])
