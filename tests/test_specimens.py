"""The trained models that the chapters dissect."""

from dataclasses import asdict
from pathlib import Path

import pytest
import torch

from deepvit_edu import data
from deepvit_edu.diagnostics import INTERVENTIONS
from deepvit_edu.experiment import load_plan
from deepvit_edu.experiment.plan import arm_config
from deepvit_edu.specimens import DATA, REMEDIES, load_specimen, specimen_interventions, specimen_record
from deepvit_edu.specimens import specimen_similarity as similarity_of
from deepvit_edu.training import evaluate

BOOK = Path(__file__).parents[1] / "book"
MEGABYTE = 10**6


@pytest.mark.parametrize("data_name", DATA)
@pytest.mark.parametrize("remedy", REMEDIES)
def test_specimen_is_what_its_plan_declares_and_its_record_tells(remedy, data_name):
    plan = load_plan(BOOK / "experiments" / "specimens.yml", data_name)
    model, record = load_specimen(remedy, data_name), specimen_record(remedy, data_name)
    assert model.config == arm_config(plan, remedy, num_classes=10)
    assert asdict(model.config)["embed_dim"] == record["config"]["model"]["embed_dim"]
    assert sum(p.numel() for p in model.parameters()) == record["num_parameters"]
    assert not model.training
    similarity, depth = similarity_of(remedy, data_name), model.config.depth
    assert {tuple(matrices.shape) for matrices in similarity.values()} == {(record["epochs"] + 1, depth, depth)}
    torch.testing.assert_close(
        similarity["raw"].diagonal(0, 1, 2), torch.ones(record["epochs"] + 1, depth), atol=2e-3, rtol=0
    )
    replacements = {(row["layer"], row["how"]) for row in specimen_interventions(remedy, data_name)}
    assert replacements == {(layer, how) for layer in range(depth) for how in INTERVENTIONS} - {(0, "previous")}


def test_half_precision_keeps_the_recorded_accuracy():
    record = specimen_record("re")
    drawn = data.load("shapes", "test", limit=record["test_images"], img_size=32)
    assert drawn.hash() == record["test_data_hash"]
    assert evaluate(load_specimen("re"), drawn)["accuracy"] == pytest.approx(record["test_accuracy"], abs=0.005)


def test_files_stay_small():
    sizes = [path.stat().st_size for path in (BOOK / "weights").glob("*.safetensors")]
    assert max(sizes) <= 8 * MEGABYTE
    assert sum(sizes) <= 30 * MEGABYTE


@pytest.mark.parametrize(("remedy", "data_name", "asked"), [("rea", "shapes", "rea"), ("plain", "mnist", "mnist")])
def test_unknown_specimen_is_named_with_what_there_is(remedy, data_name, asked):
    with pytest.raises(ValueError, match=rf"unknown specimen '{asked}'; (did you mean|known:) .*"):
        load_specimen(remedy, data_name)
