import pytest
import timm
import torch

from deepvit_edu.zoo import create_model, list_models

# Counted on the authors' code.
PARAMETERS = {"vit_12b": 18_507_112, "vit_16b": 24_423_784, "vit_24b": 36_257_128, "vit_32b": 48_090_472}


@pytest.mark.parametrize("name", PARAMETERS)
def test_parameters_equal_the_authors(name):
    with torch.device("meta"):
        model = create_model(name)
    assert sum(parameter.numel() for parameter in model.parameters()) == PARAMETERS[name]


@pytest.mark.parametrize("name", list_models())
def test_every_model_answers_at_its_own_size(name):
    model = create_model(name, num_classes=5).eval()
    size = model.config.img_size
    assert model(torch.randn(1, 3, size, size)).shape == (1, 5)


def test_list_is_filtered_by_pattern():
    assert list_models("vit_*") == list(PARAMETERS)
    assert not list_models("nothing*")


def test_no_name_is_taken_by_timm():
    assert not set(list_models()) & set(timm.list_models())


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
