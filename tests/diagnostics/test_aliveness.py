"""Whether maps are at work: on networks that are known to need them, and on some that are known not to."""

import pytest
import torch

from deepvit_edu import data
from deepvit_edu.diagnostics import aliveness, at_initialisation, intervene, least_harmful, map_matters
from deepvit_edu.specimens import load_specimen
from tests.diagnostics.test_interventions import IMAGES, LABELS, no_queries, sharp_model, sharp_timm_model

FEW = 128  # of the 2,000 test images: enough for these networks, and seconds


@pytest.fixture(scope="module")
def shapes():
    some = data.load("shapes", "test", limit=FEW)
    return some.normalise(some.images), some.labels


def test_the_trained_network_whose_deep_attention_is_idle_is_not_alive(shapes):
    effects = aliveness(load_specimen("plain"), *shapes)
    assert map_matters(effects) is False
    assert abs(effects["uniform"]["loss"][0]) < 0.01
    cost, error = effects["none"]["loss"]  # taking the branch away costs something, and says nothing about the map
    assert cost > 0.02
    assert 3 * error < cost
    assert map_matters({"none": effects["none"]}) is True


def test_the_trained_network_that_works_with_its_deep_attention_is_alive(shapes):
    effects = aliveness(load_specimen("layerscale"), *shapes)
    assert map_matters(effects) is True
    assert all(effect["accuracy"][0] < 0 for effect in effects.values())


@pytest.mark.slow
@pytest.mark.timeout(1500)
@pytest.mark.parametrize(("remedy", "alive"), [("plain", False), ("layerscale", True)])
def test_all_test_images_say_the_same_with_a_smaller_error(remedy, alive):
    drawn = data.load("shapes", "test")
    assert len(drawn) >= 2000
    effects = aliveness(load_specimen(remedy), drawn.normalise(drawn.images), drawn.labels)
    assert map_matters(effects) is alive
    cost, error = effects["uniform"]["loss"]
    if alive:
        assert cost > 0.02
        assert 3 * error < cost
    else:
        assert abs(cost) < 0.004
        assert error < 0.002


def test_an_untrained_network_is_not_alive(shapes):
    assert map_matters(aliveness(at_initialisation(load_specimen("layerscale")), *shapes)) is False


@pytest.mark.parametrize(
    "model",
    [sharp_model(depth=4), sharp_model(depth=4, attention=("accumulated", "reused")), sharp_timm_model()],
    ids=["ours", "refiner", "timm"],
)
def test_it_is_what_replacing_these_maps_together_does(model):
    effects, depth = aliveness(model, IMAGES, LABELS, batch_size=6), len(model.blocks)
    kinds = {"uniform": "uniform", "query-mean": "query-mean", "other image": "other image", "one map": "previous"}
    for name, how in {**kinds, "none": "no attention"}.items():
        expected = intervene(model, IMAGES, range(depth // 2, depth), how, LABELS)
        for key in ("loss", "accuracy"):
            assert effects[name][key] == pytest.approx((expected[key], expected[f"{key}_error"]), abs=1e-6)
    some = aliveness(model, IMAGES, LABELS, blocks=[1])
    assert some["uniform"]["loss"][0] == pytest.approx(intervene(model, IMAGES, 1, "uniform", LABELS)["loss"], abs=1e-6)


def test_images_in_parts_are_images_at_once():
    model = sharp_model(depth=4)
    whole, parts = (aliveness(model, IMAGES, LABELS, batch_size=size) for size in (6, 3))
    for name in ("uniform", "query-mean", "one map", "none"):  # who is the other image depends on the parts
        for key in ("loss", "accuracy"):
            assert parts[name][key] == pytest.approx(whole[name][key], abs=1e-6)


def test_uniform_maps_are_worth_nothing():
    effects = aliveness(no_queries(sharp_model(depth=4)), IMAGES, LABELS, blocks=range(4))
    for name in ("uniform", "query-mean", "other image", "one map"):
        assert effects[name]["loss"] == pytest.approx((0, 0), abs=1e-6)
    assert map_matters(effects) is False


def effects_of(**losses):
    return {name: {"loss": loss, "accuracy": (0.0, 0.0)} for name, loss in losses.items()}


@pytest.mark.parametrize(
    ("effects", "matters"),
    [
        (effects_of(uniform=(0.5, 0.01), one=(0.03, 0.01)), True),
        (effects_of(uniform=(0.5, 0.01), one=(0.03, 0.011)), None),  # more images would tell
        (effects_of(uniform=(0.5, 0.01), one=(0.02, 0.0001)), None),
        (effects_of(uniform=(0.0, 0.0), one=(-0.1, 0.2)), False),  # a noisy one does not hide a harmless one
        (effects_of(uniform=(0.5, 0.01), one=(0.004, 0.007)), False),
        (effects_of(uniform=(0.5, 0.01), one=(0.004, 0.009)), None),
        (effects_of(uniform=(0.5, 0.01), one=(-0.3, 0.01)), False),  # better without its maps
    ],
)
def test_the_least_harmful_replacement_decides(effects, matters):
    assert least_harmful(effects) == "one"
    assert map_matters(effects) is matters


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"blocks": [0, 2]}, "name blocks that follow one another"),
        ({"blocks": []}, "name blocks that follow one another"),
        ({"blocks": [3, 4]}, "there is no block 4"),
        ({"batch_size": 1}, "take 2 or more"),
        ({"labels": LABELS[:2]}, "a label for each, not 6 and 2"),
    ],
)
def test_what_cannot_be_measured_is_refused_in_a_sentence(options, said):
    with pytest.raises(ValueError, match=said):
        aliveness(**{"model": sharp_model(depth=4), "images": IMAGES, "labels": LABELS, **options})


def test_one_block_has_no_map_before_it():
    assert set(aliveness(sharp_model(depth=1), IMAGES, LABELS)) == {"uniform", "query-mean", "other image", "none"}
    assert torch.isfinite(torch.tensor(aliveness(sharp_model(depth=1), IMAGES, LABELS)["none"]["loss"])).all()
