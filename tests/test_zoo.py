import pytest
import torch

from deepvit_edu.zoo import config_diff, create_model, list_models

# Parameters, and those that learn, counted on the authors' code.
PARAMETERS = {
    "vit_12b": (18_507_112, 18_507_112),
    "vit_16b": (24_423_784, 24_423_784),
    "vit_24b": (36_257_128, 36_257_128),
    "vit_32b": (48_090_472, 48_090_472),
    "deepvit_16b": (24_426_664, 24_426_664),
    "deepvit_24b": (36_261_448, 36_261_448),
    "deepvit_32b": (48_096_232, 48_096_232),
    "deepvit_s": (27_312_632, 27_312_632),
    "deepvit_l": (58_883_708, 58_883_708),
    "deepvit_l_384": (59_043_308, 59_043_308),
    "t2t_vit_7": (4_310_222, 4_255_694),
    "t2t_vit_10": (5_889_230, 5_834_702),
    "t2t_vit_12": (6_941_902, 6_887_374),
    "t2t_vit_14": (21_545_550, 21_465_806),
    "t2t_vit_19": (39_177_422, 39_085_070),
    "t2t_vit_24": (64_105_934, 64_000_974),
    "t2t_vit_t_14": (21_541_070, 21_465_422),
    "t2t_vit_t_19": (39_172_942, 39_084_686),
    "t2t_vit_t_24": (64_101_454, 64_000_590),
    "t2t_vit_14_resnext": (21_545_550, 21_465_806),
    "t2t_vit_14_wide": (25_156_302, 25_000_910),
    "t2t_vit_14_se": (21_803_598, 21_723_854),
    "t2t_vit_16_ghost": (16_253_262, 16_173_518),
    "t2t_vit_dense": (23_647_062, 23_617_750),
    "refiner_vit_s": (25_023_656, 25_023_656),
    "refiner_vit_m": (55_029_932, 55_029_932),
    "refiner_vit_l": (80_637_192, 80_637_192),
    "lvvit_t": (8_534_720, 8_534_720),
    "lvvit_s": (26_151_824, 26_151_824),
    "lvvit_m": (55_830_544, 55_830_544),
    "lvvit_l": (150_021_968, 150_021_968),
}
DENSE_HEAD = {"refiner_vit_s": 25_408_656, "refiner_vit_m": 55_450_932, "refiner_vit_l": 81_150_192}
AT_384 = {
    "refiner_vit_s": 25_169_576,
    "refiner_vit_m": 55_189_532,
    "refiner_vit_l": 80_831_752,
    "t2t_vit_14": 21_691_470,
}


def count(name, **options):
    with torch.device("meta"):
        parameters = list(create_model(name, **options).parameters())
    return sum(p.numel() for p in parameters), sum(p.numel() for p in parameters if p.requires_grad)


@pytest.mark.parametrize("name", PARAMETERS)
def test_parameters_equal_the_authors(name):
    assert count(name) == PARAMETERS[name]


@pytest.mark.parametrize("name", DENSE_HEAD)
def test_parameters_with_a_dense_head_equal_the_authors(name):
    assert count(name, dense_head=True)[0] == DENSE_HEAD[name]


@pytest.mark.parametrize("name", AT_384)
def test_parameters_at_another_size_equal_the_authors(name):
    assert count(name, img_size=384)[0] == AT_384[name]


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
