import pytest

from deepvit_edu.old_options import current_identity, current_options


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ({"smallest_view": 0.5, "seed": 1}, {"smallest_crop": 0.5, "seed": 1}),
        ({"flip": True}, {"flip": 0.5}),
        ({"flip": False}, {"flip": 0.0}),
        ({"token_labeling": True, "token_weight": 1.0}, {"token_weight": 1.0}),
        ({"token_labeling": True}, {"token_weight": 0.5}),
        ({"token_labeling": False, "token_weight": 0.5}, {"token_weight": 0.0}),
        ({"flip": 0.25, "smallest_crop": 0.1}, {"flip": 0.25, "smallest_crop": 0.1}),
    ],
)
def test_old_names_mean_what_they_meant(old, new):
    assert current_options(old) == new
    assert current_options(new) == new


def test_both_names_of_an_option_are_refused():
    with pytest.raises(ValueError, match="keep smallest_crop"):
        current_options({"smallest_crop": 0.5, "smallest_view": 0.4})


def test_a_checkpoint_of_the_former_trainer_on_imagenet_is_known_again():
    former = {"recipe": {"model": "deepvit_s", "flip": 0.5, "token_labeling": False}, "train": "a", "val": "b"}
    now = current_identity(former)
    assert (now["data_hash"], now["test_hash"]) == ("a", "b")
    assert (now["recipe"]["images_from"], now["recipe"]["schedule"]) == ("files", "cosine-by-epoch")
    assert now["recipe"]["token_weight"] == 0
    in_memory = {"recipe": {"smallest_view": 0.5}, "model": {}, "data_hash": "a", "test_hash": "b"}
    assert current_identity(in_memory) == {**in_memory, "recipe": {"smallest_crop": 0.5}}
