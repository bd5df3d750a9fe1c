import json

import pytest
import torch

from deepvit_edu.diagnostics import (
    at_initialisation,
    between_images,
    collapse_report,
    cross_layer_similarity,
    distance_from_uniform,
    excess,
    excess_report,
    feature_similarity,
    head_similarity,
    matched_similarity,
    query_independence,
    record_attention,
    record_features,
    repetition,
    similarity_matrices,
    unrelated_repetition,
)
from tests.diagnostics.test_recording import timm_model
from tests.helpers import tiny_model

IMAGES = torch.randn(6, 3, 8, 8)


@pytest.mark.parametrize("which", ["softmax", "used"])
def test_report_agrees_with_each_measure_on_recorded_maps(which):
    model = tiny_model(depth=4, attention=("re",), init_std=0.3)
    report, maps = collapse_report(model, IMAGES, axis="row", centre="double"), record_attention(model, IMAGES, which)
    prefix = "used_" if which == "used" else ""
    for suffix, centre in (("", None), ("_centred", "double")):
        expected = {
            "adjacent": cross_layer_similarity(maps, "row", centre).diagonal(1),
            "between_images": between_images(maps, "row", centre).diagonal(),
            "heads": torch.tensor([head_similarity(attn, "row", centre) for attn in maps]),
        }
        for name, numbers in expected.items():
            torch.testing.assert_close(torch.tensor(report[prefix + name + suffix]), numbers, rtol=1e-4, atol=1e-5)
    features = feature_similarity(record_features(model, IMAGES)).diagonal(1)
    torch.testing.assert_close(torch.tensor(report["adjacent_features"]), features)


@pytest.mark.parametrize(
    "model",
    [
        tiny_model(depth=4, attention=("accumulated", "reused")),
        tiny_model(dense_stages=(2, 2), growth=16),
        tiny_model(depth=4, num_heads=1),
        timm_model(depth=4),
    ],
    ids=["reused", "dense", "one head", "timm"],
)
def test_every_model_has_a_report_fit_for_json(model):
    report = json.loads(json.dumps(collapse_report(model, IMAGES), allow_nan=False))
    lengths = {name: len(numbers) for name, numbers in report.items() if isinstance(numbers, list)}
    assert lengths == {name: 3 if "adjacent" in name else 4 for name in lengths}
    assert {"entropy", "rank", "used_rank", "used_adjacent_centred", "token_similarity", "branch_ratio"} <= set(lengths)


def test_branch_ratio_is_that_of_the_attention_branch():
    model = tiny_model()
    for layer, block in enumerate(model.blocks):
        torch.nn.init.zeros_(block.attn.proj.weight)
        if layer == 0:
            torch.nn.init.zeros_(block.attn.proj.bias)
    first, second = collapse_report(model, IMAGES)["branch_ratio"]
    assert first == 0
    torch.nn.init.ones_(model.blocks[1].attn.proj.bias)
    after = record_features(model, IMAGES)[0]
    expected = (model.config.embed_dim**0.5 / after.norm(dim=-1)).mean().item()
    assert collapse_report(model, IMAGES)["branch_ratio"][1] == pytest.approx(expected)
    assert second == 0


def test_matrices_are_means_over_parts_of_the_images():
    model = tiny_model(depth=3, init_std=0.3)
    images = torch.randn(9, 3, 8, 8)
    maps = record_attention(model, images)
    layers, others = similarity_matrices(model, images, centre="row")
    torch.testing.assert_close(layers, cross_layer_similarity(maps, centre="row"))
    assert (others - between_images(maps, centre="row")).abs().max() < 0.2  # other pairs, so not the same
    assert others.diagonal().max() < 0.99


def test_one_image_is_refused():
    for measure in (collapse_report, similarity_matrices):
        with pytest.raises(ValueError, match="two images or more, not 1"):
            measure(tiny_model(), IMAGES[:1])


def test_at_initialisation_is_where_training_began():
    torch.manual_seed(7)
    start = type(model := tiny_model())(model.config)  # as a run with seed 0 makes it: tiny_model seeds with 0
    state = torch.get_rng_state()
    fresh = at_initialisation(start, seed=0)
    for ours, theirs in zip(fresh.parameters(), model.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    assert torch.equal(torch.get_rng_state(), state)
    with pytest.raises(ValueError, match="no configuration"):
        at_initialisation(timm_model())


def test_excess_is_what_the_measures_have_above_new_weights():
    model, images = tiny_model(depth=6, init_std=0.3), torch.randn(20, 3, 8, 8)
    new = [at_initialisation(model, seed) for seed in (1, 2, 3)]
    report, maps = excess_report(model, new, images, "used"), record_attention(model, images)
    assert json.loads(json.dumps(report, allow_nan=False)) == report
    assert (report["images"], report["new_models"]) == (20, 3)
    new_maps = [record_attention(each, images) for each in new]
    for name, measure in {
        "query_independence": lambda maps: query_independence(maps).mean(dim=1),
        "distance_from_uniform": lambda maps: distance_from_uniform(maps).mean(dim=1),
        "repetition": repetition,
        "repetition_stripes": lambda maps: repetition(maps, "stripes"),
    }.items():
        above, deviation = excess(measure(maps), [measure(each) for each in new_maps])
        for suffix, expected in (("", measure(maps)), ("_excess", above), ("_deviation", deviation)):
            torch.testing.assert_close(torch.tensor(report[name + suffix]), expected, rtol=1e-4, atol=1e-5)
    assert report["repetition_unrelated"] == pytest.approx(unrelated_repetition(matched_similarity(maps)), abs=1e-5)


def test_a_model_held_against_itself_has_no_excess_and_what_is_rounding_is_null():
    model = tiny_model(depth=3)
    report = excess_report(model, [model, model], IMAGES)
    assert report["query_independence_excess"] == report["query_independence_deviation"] == [0, 0, 0]
    for block in model.blocks:
        torch.nn.init.zeros_(block.attn.qkv.weight)
    report = excess_report(model, [model, model], IMAGES)
    assert report["repetition"] == [None, None]
    assert report["query_independence"] == [None] * 3
    assert report["repetition_unrelated"] is None
    with pytest.raises(ValueError, match="two or more models with new weights, not 1"):
        excess_report(model, [model], IMAGES)
