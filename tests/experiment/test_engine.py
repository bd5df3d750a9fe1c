import json
import signal
import time

import pytest
import torch

from deepvit_edu.checkpoints import load_model
from deepvit_edu.experiment import engine, load_plan, missing_jobs, run_plan
from deepvit_edu.experiment.plan import Job, all_jobs
from deepvit_edu.experiment.results import outcome, record_path, tuned_rate
from deepvit_edu.nn.model import VisionTransformer
from deepvit_edu.records import load_record
from deepvit_edu.training import Interrupted, Run, evaluate
from deepvit_edu.training.processes import started
from tests.training.helpers import make_imagenet, together

from .plans import TINY_PLAN, TUNING, write_plan


def run(plan, folder, **options):
    told = []
    missing = run_plan(plan, folder, device="cpu", workers=1, progress=False, say=told.append, **options)
    return missing, told


def pixels_of(*sets):
    return {image.numpy().tobytes() for part in sets for image in part.images}


def count_blocks(model, images):
    return {"blocks": len(model.blocks), "images": len(images)}


def test_one_record_a_run_and_nothing_left_over(tmp_path):
    plan = load_plan(write_plan(tmp_path))
    missing, told = run(plan, tmp_path / "records", measure=count_blocks)
    assert missing == []
    assert len(told) == 4
    files = [path for path in (tmp_path / "records").rglob("*") if path.is_file()]
    assert sorted(path.name for path in files) == ["plain_s0.json", "plain_s1.json", "re_s0.json", "re_s1.json"]
    record = load_record(tmp_path / "records/tiny/full/re_s1.json")
    assert record["plan"] == {"name": "tiny", "section": "full", "arm": "re", "tuning": False}
    assert record["diagnostics"] == {"blocks": 2, "images": 20}
    assert (record["seed"], record["config"]["model"]["attention"], record["train_images"]) == (1, ["re"], 40)
    before = {path: path.stat().st_mtime_ns for path in files}
    assert run(plan, tmp_path / "records") == ([], [])  # nothing is made twice
    assert before == {path: path.stat().st_mtime_ns for path in files}


def test_a_plan_that_keeps_weights_has_them_beside_the_records_of_runs_that_count(tmp_path):
    tuned = {"tuning": {**TUNING, "learning_rates": [0.001]}, "seeds": [0], "arms": {"plain": None}, "contrasts": None}
    plan = load_plan(write_plan(tmp_path, keep_weights=True, **tuned))
    run(plan, tmp_path / "records")
    kept = [path.relative_to(tmp_path / "records") for path in (tmp_path / "records").rglob("*.safetensors")]
    assert [str(path) for path in kept] == ["tiny/full/weights/plain_s0.safetensors"]
    model, _ = load_model(tmp_path / "records" / kept[0])
    measured = evaluate(model, engine.splits(plan, "plain")[1])
    assert measured["accuracy"] == load_record(tmp_path / "records/tiny/full/plain_s0.json")["test_accuracy"]


def test_a_model_can_be_measured_after_each_evaluation(tmp_path):
    plan, seen = load_plan(write_plan(tmp_path)), []
    engine.run_job(plan, Job("plain", 0), tmp_path, "cpu", 0.001, after_evaluation=lambda model: seen.append(model))
    assert len(seen) == TINY_PLAN["recipe"]["epochs"]


def test_arms_of_a_seed_start_from_the_same_weights(tmp_path):
    plan = load_plan(write_plan(tmp_path))
    plain, re = (engine.paired_model(plan, arm, 3, 10).state_dict() for arm in plan.arms)
    other = engine.paired_model(plan, "plain", 4, 10).state_dict()
    for name, value in plain.items():
        assert torch.equal(re[name], value), name
        if "weight" in name and value.ndim > 1:
            assert not torch.equal(other[name], value), name
    assert any("mix" in name for name in re)


def test_tuning_never_sees_the_test_images_and_its_choice_is_used(tmp_path):
    plan = load_plan(write_plan(tmp_path, tuning=TUNING))
    train_set, held_out = engine.splits(plan, "plain", tuning=True)
    whole, _ = engine.splits(plan, "plain")
    assert len(train_set) == len(held_out) == 20
    assert pixels_of(train_set, held_out) == pixels_of(whole)
    folder = tmp_path / "records"
    assert tuned_rate(plan, "re", folder) is None
    missing, _ = run(plan, folder)
    assert missing == []
    accuracy = {
        rate: load_record(folder / f"tiny/full/tuning/re_lr{rate:g}_s9.json")["test_accuracy"]
        for rate in TUNING["learning_rates"]
    }
    best = max(accuracy, key=accuracy.get)
    assert tuned_rate(plan, "re", folder) == best
    assert load_record(folder / "tiny/full/re_s0.json")["config"]["recipe"]["learning_rate"] == best


def test_a_share_of_each_classs_training_images_becomes_test_images(tmp_path):
    before, test_before = engine.splits(load_plan(write_plan(tmp_path)), "plain")
    data = {**TINY_PLAN["data"], "moved_to_test": 0.25}
    plan = load_plan(write_plan(tmp_path, data=data, tuning=TUNING))
    whole, test = engine.splits(plan, "plain")
    assert (len(whole), len(test)) == (30, 30)
    moved = test.subset(slice(20, None))
    assert pixels_of(test.subset(slice(20))) == pixels_of(test_before)
    assert pixels_of(whole, moved) == pixels_of(before)
    assert not pixels_of(whole) & pixels_of(moved)
    count, of = (part.labels.bincount(minlength=10) for part in (moved, before))
    assert (count - of / 4).abs().max() < 1
    tuned = engine.splits(plan, "plain", tuning=True)
    assert not pixels_of(*tuned) & pixels_of(test)  # nor does tuning see those


def test_a_run_that_was_cut_goes_on_to_the_same_numbers(tmp_path, monkeypatch):
    plan = load_plan(write_plan(tmp_path))
    run(plan, tmp_path / "whole")
    step = Run.train_step

    def interrupt(self):
        if self.progress.step == 2:
            signal.raise_signal(signal.SIGINT)
        return step(self)

    with monkeypatch.context() as patch:
        patch.setattr(Run, "train_step", interrupt)
        with pytest.raises(Interrupted, match="what is missing of tiny"):
            run(plan, tmp_path / "cut")
    assert len(missing_jobs(plan, tmp_path / "cut")) == 4
    run(plan, tmp_path / "cut")
    for job in all_jobs(plan):
        whole, cut = (outcome(plan, job, tmp_path / name) for name in ("whole", "cut"))
        assert whole["curves"]["train_loss"] == cut["curves"]["train_loss"]
        assert whole["test_accuracy"] == cut["test_accuracy"]


def test_a_budget_ends_before_the_run_that_would_not_fit(tmp_path, monkeypatch):
    plan = load_plan(write_plan(tmp_path))
    monkeypatch.setattr(engine, "estimate_seconds", lambda plan, job, folder: 1e6 if job.arm == "re" else 0.0)
    missing, told = run(plan, tmp_path / "records", budget_seconds=1e6)
    assert [job.name for job in missing] == ["re_s0", "plain_s1", "re_s1"]
    assert told[-1] == "re_s0 would not fit into the time that is left"


def test_a_run_that_no_budget_holds_is_begun_all_the_same(tmp_path, monkeypatch):
    plan = load_plan(write_plan(tmp_path))
    monkeypatch.setattr(engine, "estimate_seconds", lambda plan, job, folder: 1e6)
    assert run(plan, tmp_path / "records", budget_seconds=1000)[0] == []


def test_a_run_under_way_is_continued_though_a_new_one_would_not_fit(tmp_path, monkeypatch):
    plan = load_plan(write_plan(tmp_path))
    monkeypatch.setattr(engine, "estimate_seconds", lambda plan, job, folder: 999.999)
    (tmp_path / "records/tiny/full/.unfinished/plain_s0").mkdir(parents=True)
    missing, told = run(plan, tmp_path / "records", budget_seconds=1000)
    assert [job.name for job in missing] == ["re_s0", "plain_s1", "re_s1"]
    assert told[-1] == "re_s0 would not fit into the time that is left"


def test_the_time_to_load_images_is_not_there_to_train(tmp_path, monkeypatch):
    plan = load_plan(write_plan(tmp_path, recipe={"epochs": 5000, "batch_size": 20}))
    slow, given = engine.splits, []

    def splits(*arguments, **options):
        time.sleep(0.5)
        return slow(*arguments, **options)

    def run_job(plan, job, folder, device, rate, max_seconds, measure):
        given.append(max_seconds)
        raise Interrupted("enough")

    monkeypatch.setattr(engine, "splits", splits)
    monkeypatch.setattr(engine, "run_job", run_job)
    with pytest.raises(Interrupted):
        run(plan, tmp_path / "records", budget_seconds=30)
    assert given[0] < 29.5


def test_the_end_of_the_budget_cuts_a_run_and_keeps_its_state(tmp_path):
    plan = load_plan(write_plan(tmp_path, recipe={"epochs": 5000, "batch_size": 20}))
    missing, told = run(plan, tmp_path / "records", budget_seconds=2.0)
    assert len(missing) == 4
    assert told == ["plain_s0: stopped"]
    assert list(tmp_path.glob("records/tiny/full/.unfinished/plain_s0/checkpoint-*.pt"))


def test_estimates_follow_the_epochs_and_the_share_of_images(tmp_path):
    plan = load_plan(write_plan(tmp_path, tuning=TUNING))
    folder = tmp_path / "records"
    assert engine.estimate_seconds(plan, Job("re", 0), folder) is None
    job = Job("re", 9, 0.01)
    engine.run_job(plan, job, folder, "cpu", 0.01)
    path = record_path(plan, job, folder)
    path.write_text(json.dumps({**load_record(path), "seconds": 3.0}))
    assert engine.estimate_seconds(plan, Job("re", 0), folder) == pytest.approx(3 * 2 / 0.5)  # two epochs, all images


def test_an_estimate_follows_the_number_of_images(tmp_path, monkeypatch):
    arms = {"plain": None, "tenth": {"data": {"train_images": 4}, "recipe": {"epochs": 20}}}
    plan = load_plan(write_plan(tmp_path, arms=arms, contrasts=[]))
    record = {"seconds": 6.0, "epochs": 2, "train_images": 40}
    monkeypatch.setattr(engine, "outcome", lambda plan, job, folder: record if job.arm == "plain" else None)
    assert engine.estimate_seconds(plan, Job("plain", 1), tmp_path) == pytest.approx(6)
    assert engine.estimate_seconds(plan, Job("tenth", 0), tmp_path) == pytest.approx(6)  # as many images in all


def test_a_run_that_diverges_is_noted_and_the_others_go_on(tmp_path, monkeypatch):
    plan = load_plan(write_plan(tmp_path, tuning={**TUNING, "learning_rates": [0.001, 1e30]}))
    missing, told = run(plan, tmp_path / "records")
    assert missing == []
    assert sum("failed: the loss became" in line for line in told) == 2
    assert tuned_rate(plan, "plain", tmp_path / "records") == 0.001
    assert run(plan, tmp_path / "records") == ([], [])
    path = record_path(plan, Job("plain", 9, 1e30), tmp_path / "records").with_suffix(".failed")
    failure = json.loads(path.read_text())
    path.write_text(json.dumps({**failure, "recipe": {**failure["recipe"], "warmup_epochs": 7.0}}))
    with pytest.raises(ValueError, match=r"\.failed was made with warmup_epochs 7.0"):
        run(plan, tmp_path / "records")


def test_shards_share_the_arms_between_them(tmp_path):
    arms = {**TINY_PLAN["arms"], "third": {"tuned_as": "plain"}}
    plan = load_plan(write_plan(tmp_path, arms=arms, tuning=TUNING))
    parts = [missing_jobs(plan, tmp_path, (index, 2)) for index in (1, 2)]
    assert {job.arm for job in parts[0]} == {"plain", "third"}
    assert {job.arm for job in parts[1]} == {"re"}


def test_borrowed_arms_are_read_where_they_were_made(tmp_path):
    first = load_plan(write_plan(tmp_path, "first"))
    run(first, tmp_path)
    second = load_plan(
        write_plan(
            tmp_path,
            "second",
            arms={"re": {"from": "first/re", "model": {"attention": ["re"]}}, "plain": {"from": "first/plain"}},
        )
    )
    assert run(second, tmp_path) == ([], [])
    assert outcome(second, Job("re", 1), tmp_path)["plan"]["name"] == "first"


def test_a_record_of_something_else_than_declared_is_refused(tmp_path):
    run(load_plan(write_plan(tmp_path)), tmp_path)
    changed = load_plan(write_plan(tmp_path, model={**TINY_PLAN["model"], "mlp_ratio": 3.0}))
    with pytest.raises(ValueError, match=r"plain_s0\.json was made with mlp_ratio 2.0 and the plan tiny declares 3.0"):
        missing_jobs(changed, tmp_path)
    fewer = load_plan(write_plan(tmp_path, data={**TINY_PLAN["data"], "train_images": 60}))
    with pytest.raises(ValueError, match="was made with train_images 40 and the plan tiny declares 60"):
        missing_jobs(fewer, tmp_path)


def test_what_waits_for_the_tuning_of_another_plan_is_said(tmp_path):
    first = load_plan(write_plan(tmp_path, "first", tuning=TUNING))
    arms = {"plain": {"from": "first/plain"}, "re": {"tuned_as": "plain", "model": {"attention": ["re"]}}}
    second = load_plan(write_plan(tmp_path, "second", arms=arms, tuning=TUNING))
    missing, told = run(second, tmp_path / "records")
    assert len(missing) == 2
    assert told == ["re_s0 and what comes after it wait for learning rates that other runs tune"]
    run(first, tmp_path / "records")
    assert run(second, tmp_path / "records")[0] == []


def test_a_process_that_dies_is_a_sentence(tmp_path, monkeypatch):
    def dies(*arguments):
        raise engine.BrokenExecutor("killed")

    monkeypatch.setattr(engine._Pool, "finished", dies)
    with pytest.raises(OSError, match="run again with fewer --workers"):
        run(load_plan(write_plan(tmp_path)), tmp_path / "records")


@pytest.mark.slow
def test_side_by_side_gives_the_same_numbers(tmp_path):
    plan = load_plan(write_plan(tmp_path))
    run(plan, tmp_path / "one")
    missing = run_plan(plan, tmp_path / "two", device="cpu", workers=2, progress=False, say=lambda line: None)
    assert missing == []
    for job in all_jobs(plan):
        one, two = (outcome(plan, job, tmp_path / name) for name in ("one", "two"))
        assert one["train_loss"] == pytest.approx(two["train_loss"], rel=1e-4)
        assert isinstance(engine.paired_model(plan, job.arm, 0, 10), VisionTransformer)


ANNOTATED = {
    "recipe": {"epochs": 1, "batch_size": 20, "smallest_crop": 0.5},
    "annotator": {"model": {"class_token": False}, "recipe": {"epochs": 2}},
    "arms": {
        "label": None,
        "everywhere": {"model": {"dense_head": True}, "recipe": {"token_weight": 0.5}},
        "maps": {"model": {"dense_head": True}, "recipe": {"token_weight": 0.5}, "annotated": True},
    },
    "contrasts": [{"name": "token labels", "treatment": "maps", "control": "label"}],
}


def test_the_annotator_is_trained_once_and_only_annotated_arms_learn_from_it(tmp_path):
    plan = load_plan(write_plan(tmp_path, seeds=[0], **ANNOTATED))
    assert run(plan, tmp_path / "records")[0] == []
    folder = tmp_path / "records/tiny/full"
    assert {path.name for path in folder.iterdir() if path.is_file()} == {
        "annotator.json", "label_maps.safetensors", "label_s0.json", "everywhere_s0.json", "maps_s0.json",
    }  # fmt: skip
    annotator, of_maps = (load_record(folder / name) for name in ("annotator.json", "maps_s0.json"))
    assert annotator["label_maps_hash"] == of_maps["label_maps_hash"]
    assert "label_maps_hash" not in load_record(folder / "everywhere_s0.json")
    assert (annotator["config"]["model"]["class_token"], annotator["epochs"]) == (False, 2)
    losses = {name: load_record(folder / f"{name}_s0.json")["train_loss"] for name in ("everywhere", "maps")}
    assert losses["everywhere"] != losses["maps"]
    written = (folder / "label_maps.safetensors").stat().st_mtime_ns
    (folder / "maps_s0.json").unlink()
    assert run(plan, tmp_path / "records")[0] == []
    assert (folder / "label_maps.safetensors").stat().st_mtime_ns == written
    assert load_record(folder / "maps_s0.json")["train_loss"] == losses["maps"]


def test_an_annotator_that_does_not_fit_the_budget_is_continued_by_the_next_call(tmp_path):
    plan = load_plan(write_plan(tmp_path, seeds=[0], **ANNOTATED))
    missing, _ = run(plan, tmp_path / "records", budget_seconds=0.0)
    assert len(missing) == 3
    assert not list((tmp_path / "records").rglob("*.json"))
    assert list(tmp_path.glob("records/tiny/full/.unfinished/annotator_s0/checkpoint-*.pt"))
    assert run(plan, tmp_path / "records")[0] == []


def test_an_annotator_declared_or_trained_otherwise_is_refused(tmp_path):
    folder = tmp_path / "records/tiny/full"
    plan = load_plan(write_plan(tmp_path, seeds=[0], **ANNOTATED))
    run(plan, tmp_path / "records")
    (folder / "maps_s0.json").unlink()
    longer = {**ANNOTATED, "annotator": {"recipe": {"epochs": 3}}}
    with pytest.raises(
        ValueError, match=r"annotator.json was made with class_token False and the plan tiny declares True"
    ):
        run(load_plan(write_plan(tmp_path, seeds=[0], **longer)), tmp_path / "records")
    (folder / "label_maps.safetensors").unlink()  # as in a clone: git ignores it
    assert run(plan, tmp_path / "records")[0] == []
    record = load_record(folder / "annotator.json")
    (folder / "annotator.json").write_text(json.dumps({**record, "label_maps_hash": "of another machine"}))
    (folder / "label_maps.safetensors").unlink()
    (folder / "maps_s0.json").unlink()
    with pytest.raises(ValueError, match="describes other label maps than those made here"):
        run(plan, tmp_path / "records")
    assert not (folder / "label_maps.safetensors").exists()


def test_records_of_other_images_are_refused(tmp_path):
    folder = tmp_path / "records"
    run(load_plan(write_plan(tmp_path)), folder)
    (folder / "tiny/full/re_s1.json").unlink()
    path = folder / "tiny/full/plain_s0.json"
    record = load_record(path)
    path.write_text(json.dumps({**record, "data_hash": "0" * 64, "dataset": "other pictures"}))
    with pytest.raises(
        ValueError, match=r"plain_s0\.json was made of other images \(other pictures\) than these \(sha"
    ):
        run(load_plan(write_plan(tmp_path)), folder)
    assert not (folder / "tiny/full/re_s1.json").exists()


def test_label_maps_of_other_images_are_refused(tmp_path):
    plan = load_plan(write_plan(tmp_path, seeds=[0], **ANNOTATED))
    run(plan, tmp_path / "records")
    other = load_plan(write_plan(tmp_path, seeds=[0], data={"name": "shapes", "train_images": 60}, **ANNOTATED))
    for path in (tmp_path / "records/tiny/full").glob("*.json"):
        path.unlink()
    maps, record = (tmp_path / "records/tiny/full" / name for name in ("label_maps.safetensors", "annotator.json"))
    kept = maps.read_bytes()
    run(other, tmp_path / "records", budget_seconds=0.0)
    run(other, tmp_path / "records")
    maps.write_bytes(kept)
    (tmp_path / "records/tiny/full/maps_s0.json").unlink()
    assert record.exists()
    with pytest.raises(ValueError, match=r"label_maps.safetensors was made for other images"):
        run(other, tmp_path / "records")


def test_rates_are_tuned_on_drawn_images_of_another_seed(tmp_path):
    plan = load_plan(
        write_plan(
            tmp_path,
            data={"name": "framed-quarter", "train_images": 80, "test_images": 20},
            model={**TINY_PLAN["model"], "img_size": 64},
            arms={"plain": None},
            contrasts=None,
            tuning={"learning_rates": [0.001, 0.002], "seeds": [9], "train_images": 40},
        )
    )
    train, held_out = engine.splits(plan, "plain", tuning=True)
    whole, test = engine.splits(plan, "plain")
    assert [len(images) for images in (train, held_out, whole, test)] == [40, 20, 80, 20]
    assert not torch.equal(train.images, whole.images[:40])
    assert not torch.equal(held_out.images, test.images)
    assert run_plan(plan, tmp_path, workers=1, progress=False) == []
    assert load_record(tmp_path / "tiny/full/plain_s0.json")["train_images"] == 80


# Images from files

FILES = {
    "model": {"name": "cifar_vit_4x64", "depth": 2, "embed_dim": 8, "num_heads": 2, "patch_size": 16},
    "recipe": {"epochs": 1, "batch_size": 8, "images_from": "files", "smallest_crop": 0.5, "flip": 0},
    "seeds": [0],
}


def plan_of_files(folder, **changes):
    root = make_imagenet(folder / "imagenet")
    return load_plan(write_plan(folder, **{**FILES, "data": {"name": str(root), "test_images": 6}, **changes}))


def test_an_arm_may_take_its_images_from_files(tmp_path):
    plan = plan_of_files(tmp_path, tuning={**TUNING, "learning_rates": [0.001], "recipe": {}})
    missing, _ = run(plan, tmp_path / "records", measure=count_blocks)
    assert missing == []
    record = load_record(tmp_path / "records/tiny/full/re_s0.json")
    assert (record["train_images"], record["test_images"], record["dataset"]) == (24, 6, "imagenet")
    assert record["diagnostics"] == {"blocks": 2, "images": 6}  # read into memory for it
    assert record["unreadable_images"] == []
    tuned = load_record(tmp_path / "records/tiny/full/tuning/plain_lr0.001_s9.json")
    assert (tuned["train_images"], tuned["test_images"]) == (12, 12)
    train, held_out = engine.splits(plan, "plain", tuning=True)
    assert set(train.names).isdisjoint(held_out.names)


def together_in(plan, folder):
    with started("cpu") as processes:
        assert engine.run_plan_together(plan, folder, processes, measure=count_blocks) == []


def test_several_processes_make_the_runs_that_one_makes(tmp_path):
    recipe = {**FILES["recipe"], "batch_size": 4, "total_batch": 8}
    plan = plan_of_files(tmp_path, recipe=recipe, arms={"plain": None}, contrasts=None)
    together(2, together_in, plan, tmp_path / "two")
    run(plan, tmp_path / "one")
    two, one = (load_record(tmp_path / folder / "tiny/full/plain_s0.json") for folder in ("two", "one"))
    assert (two["num_processes"], two["diagnostics"]) == (2, {"blocks": 2, "images": 6})
    assert two["train_loss"] == pytest.approx(one["train_loss"], rel=1e-4)
    assert not list((tmp_path / "two").rglob("checkpoint*"))


def test_a_failed_run_of_several_processes_is_noted_once(tmp_path):
    recipe = {**FILES["recipe"], "batch_size": 4, "total_batch": 8, "learning_rate": 1e12, "clip_grad": 0}
    plan = plan_of_files(tmp_path, recipe=recipe, arms={"plain": None}, contrasts=None)
    together(2, together_in, plan, tmp_path / "two")
    assert "became" in json.loads((tmp_path / "two/tiny/full/plain_s0.failed").read_text())["failed"]
