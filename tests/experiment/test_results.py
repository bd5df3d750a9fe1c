"""Which records count: those of what the plan declares, at the rate that tuning chose, of the same images."""

import json
from dataclasses import asdict

import pytest

from deepvit_edu.experiment import load_plan
from deepvit_edu.experiment.plan import Job, arm_recipe
from deepvit_edu.experiment.results import open_questions, outcome, record_path, tuned_rate
from deepvit_edu.experiment.verdict import results_of, summary, waiting_text
from deepvit_edu.records import load_record, save_record

from .plans import TUNING, fill, with_accuracy, write_plan


def change(plan, job, folder, **options):
    """Writes a record again with some of its fields replaced."""
    path = record_path(plan, job, folder)
    save_record({**load_record(path), **options}, path)


def with_rate(plan, job, folder, rate):
    config = load_record(record_path(plan, job, folder))["config"]
    change(plan, job, folder, config={**config, "recipe": {**config["recipe"], "learning_rate": rate}})


def tune(plan, folder, template, best):
    """Tuning runs of the plain arm, of which the one at the rate `best` is the best."""
    for rate in TUNING["learning_rates"]:
        job = Job("plain", 9, rate)
        config = {**template["config"], "recipe": asdict(arm_recipe(plan, job, rate))}
        record = with_accuracy(template, 0.5 + 0.1 * (rate == best))
        parts = {"train_images": 20, "test_images": 20, "seed": 9}
        save_record({**record, "config": config, **parts}, record_path(plan, job, folder))


@pytest.fixture
def filled(tmp_path, template):
    plan = load_plan(write_plan(tmp_path))
    fill(plan, tmp_path, template, lambda arm, seed: 0.5)
    return plan


def test_a_record_at_another_rate_than_declared_is_refused(filled, tmp_path):
    with_rate(filled, Job("re", 1), tmp_path, 0.5)
    with pytest.raises(ValueError, match=r"re_s1\.json was made with learning_rate 0\.5 .* declares 0\.001"):
        results_of(filled, tmp_path)


@pytest.fixture
def tuned(tmp_path, template):
    template = {**template, "config": {**template["config"]}}
    plan = load_plan(
        write_plan(tmp_path, arms={"plain": None, "same": {"tuned_as": "plain"}}, tuning=TUNING, contrasts=None)
    )
    config = json.loads(json.dumps(template["config"]))
    fill(
        load_plan(write_plan(tmp_path, "untuned", arms={"plain": None}, contrasts=None)),
        tmp_path,
        template,
        lambda *_: 0.5,
    )
    config["model"] = load_record(tmp_path / "untuned" / "full" / "plain_s0.json")["config"]["model"]
    template["config"] = config
    tune(plan, tmp_path, template, best=0.01)
    fill(plan, tmp_path, template, lambda arm, seed: 0.5)
    return plan, template


def test_a_record_at_another_rate_than_tuning_chose_is_refused(tuned, tmp_path):
    plan, template = tuned
    assert tuned_rate(plan, "same", tmp_path) == 0.01
    results_of(plan, tmp_path)
    tune(plan, tmp_path, template, best=0.001)
    with pytest.raises(ValueError, match=r"plain_s0\.json was made with learning_rate 0\.01 .* declares 0\.001"):
        results_of(plan, tmp_path)


def test_a_tuning_run_under_the_name_of_another_rate_is_refused(tuned, tmp_path):
    plan, _ = tuned
    low, high = (record_path(plan, Job("plain", 9, rate), tmp_path) for rate in TUNING["learning_rates"])
    low.write_text(high.read_text())
    with pytest.raises(ValueError, match=r"lr0\.001_s9\.json was made with learning_rate 0\.01"):
        tuned_rate(plan, "plain", tmp_path)


def test_a_tuning_run_with_other_images_held_out_is_refused(tuned, tmp_path):
    plan, _ = tuned
    change(plan, Job("plain", 9, 0.01), tmp_path, train_images=36, test_images=4)
    with pytest.raises(ValueError, match=r"lr0\.01_s9\.json was made with test_images 4 .* declares 20"):
        tuned_rate(plan, "plain", tmp_path)


@pytest.mark.parametrize("field", ["data_hash", "test_data_hash"])
def test_records_of_different_images_are_not_compared(filled, tmp_path, field):
    for arm in filled.arms:
        for seed in filled.seeds:
            change(filled, Job(arm, seed), tmp_path, test_data_hash="a" * 64)
    results_of(filled, tmp_path)
    change(filled, Job("re", 1), tmp_path, **{field: "b" * 64})
    with pytest.raises(
        ValueError, match=r"re_s1\.json and .*plain_s0\.json cannot be compared: their .* images differ"
    ):
        results_of(filled, tmp_path)


def test_what_this_plan_cannot_run_is_told(tmp_path, template):
    write_plan(tmp_path)
    plan = load_plan(write_plan(tmp_path, "heir", arms={"plain": {"from": "tiny/plain"}, "re": {}}))
    fill(plan, tmp_path, template, lambda arm, seed: 0.5 if (arm, seed) == ("re", 0) else None)
    failure = record_path(plan, Job("re", 1), tmp_path).with_suffix(".failed")
    failure.write_text(
        json.dumps({"failed": "the loss is nan", "recipe": asdict(arm_recipe(plan, Job("re", 1), None))})
    )
    told = [
        "plain is tiny/plain, of which 2 of 2 runs have no record: deepvit-edu run tiny.yml",
        "re_s1 failed: the loss is nan",
    ]
    assert open_questions(plan, tmp_path) == told
    assert waiting_text(plan, tmp_path, []) == "\n".join(told)
    assert summary(plan, tmp_path).endswith(told[1])


@pytest.mark.parametrize("text", ["{}", "not json", "[" * 100_000, "[]", '{"failed": "x", "recipe": 3}'])
def test_a_note_of_failure_that_cannot_be_read_is_named(filled, tmp_path, text):
    path = record_path(filled, Job("re", 1), tmp_path)
    path.unlink()
    path.with_suffix(".failed").write_text(text)
    with pytest.raises(ValueError, match=r"re_s1\.failed does not describe a failed run"):
        outcome(filled, Job("re", 1), tmp_path)


def test_a_record_without_its_configuration_is_named(filled, tmp_path):
    change(filled, Job("re", 1), tmp_path, config={})
    with pytest.raises(ValueError, match=r"re_s1\.json does not say what it was made with"):
        outcome(filled, Job("re", 1), tmp_path)
