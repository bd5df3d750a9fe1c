"""What every run's record says of its model."""

import itertools
import json

import pytest
import torch

from deepvit_edu.diagnostics import aliveness, excess_report, record_attention, unit_vectors
from deepvit_edu.experiment import measure
from tests.helpers import tiny_model, tiny_set


def _all_pairs(model, images) -> list[float]:
    """The mean cosine of every head of a block with every head of the next, maps doubly centred."""
    maps = [unit_vectors(attn, centre="double") for attn in record_attention(model, images, "softmax")]
    vectors = [attn.movedim(1, 0).flatten(1) for attn in maps]  # (H, B·N·N)
    columns = maps[0][:, 0].numel() / maps[0].shape[-1]
    return [(one @ other.T).mean().item() / columns for one, other in itertools.pairwise(vectors)]


@pytest.mark.parametrize("attention", [("plain",), ("re",)])
def test_a_record_has_the_measures_and_what_they_exceed(attention):
    model, images = tiny_model(depth=4, attention=attention), tiny_set(40, "test")
    found = measure.measure_model(model, images)
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    some, labels = measure.measured_images(images, 2000)
    assert found["excess_images"] == found["aliveness_images"] == 40
    assert found["new_models"] == 5
    new = [measure.at_initialisation(model, seed) for seed in range(5)]
    for prefix, which in (("", "softmax"), ("used_", "used")):
        expected = measure.rounded(excess_report(model, new, some, which))
        assert found[f"{prefix}repetition_excess"] == expected["repetition_excess"]
        assert len(found[f"{prefix}query_independence_excess"]) == 4
    assert found["aliveness"]["one map"]["loss"] == pytest.approx(
        aliveness(model, some, labels)["one map"]["loss"], 1e-3
    )
    assert found["map_matters"] in (False, None)
    assert found["images"] == 40
    assert {len(values) for values in found["renumbered"].values()} == {3}
    assert found["renumbered"]["expected"] == pytest.approx(_all_pairs(model, some[:32]), abs=1e-4)


def test_more_images_come_after_those_of_a_smaller_number():
    few, more = (measure.measured_images(tiny_set(40, "test"), count)[0] for count in (8, 30))
    assert torch.equal(few, more[:8])
