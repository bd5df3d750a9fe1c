"""Training on images from files: stopped, killed, shared among processes, and told what does not fit."""

import json
import os
import signal
from functools import partial

import pytest
import torch

from deepvit_edu.augment import whole_views
from deepvit_edu.checkpoints import load_model
from deepvit_edu.cli import main
from deepvit_edu.map_penalty import collected_maps, map_likeness
from deepvit_edu.records import load_record
from deepvit_edu.training import Interrupted, Run
from deepvit_edu.training.batches import Batch
from deepvit_edu.training.objective import Objective, TrainingModel
from tests.training.helpers import (
    SMALL,
    flags,
    make_imagenet,
    make_label_maps,
    run_files,
    small_setup,
    together,
)  # fmt: skip

CPU = torch.device("cpu")
CURVES = ("train_loss", "test_loss", "test_accuracy", "learning_rate")
LABELED = "refiner_vit_s_token_labels"


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return make_imagenet(tmp_path_factory.mktemp("imagenet"))


@pytest.fixture(scope="module")
def label_maps(tmp_path_factory, root):
    return str(make_label_maps(tmp_path_factory.mktemp("maps"), root))


def run(root, out, changes=None, *, name="deepvit_32b", label_maps=None, resume=False, **settings):
    how = {"label_maps": label_maps, "resume": resume, "settings": settings}
    return run_files(root, out, small_setup(name, **(changes or {})), **how)


def curves(out):
    found = load_record(out / "record.json")["curves"]
    return {name: found[name] for name in CURVES}


def same_weights(one, other):
    first, second = (load_model(folder / "model.safetensors")[0].state_dict() for folder in (one, other))
    return all(torch.equal(first[name], second[name]) for name in first)


def at_step(monkeypatch, number, action):
    """Does something at the end of a step of the optimizer, before it is looked at."""
    original = Run.train_step

    def train_step(self):
        loss = original(self)
        if self.progress.step + 1 == number:
            action()
        return loss

    monkeypatch.setattr(Run, "train_step", train_step)


@pytest.mark.parametrize("name", ["deepvit_32b", "t2t_vit_14", LABELED])
def test_stopped_and_resumed_is_as_never_stopped(root, label_maps, tmp_path, name):
    options = {"name": name, "label_maps": label_maps if name.endswith("token_labels") else None}
    record = run(root, tmp_path / "whole", **options)
    with pytest.raises(Interrupted, match="stopped after step 4 of 9"):
        run(root, tmp_path / "cut", stop_after=4, **options)
    run(root, tmp_path / "cut", resume=True, **options)
    assert curves(tmp_path / "cut") == curves(tmp_path / "whole")
    assert same_weights(tmp_path / "cut", tmp_path / "whole")
    assert record["epochs"] == 3
    assert record["config"]["recipe"]["images_from"] == "files"


def killed(root, out):
    """A run that saves at every step and is killed in its sixth."""
    with pytest.MonkeyPatch.context() as patch:
        at_step(patch, 6, partial(os.kill, os.getpid(), signal.SIGKILL))
        run(root, out, save_minutes=0.0, keep=2)


def test_killed_with_a_damaged_checkpoint_is_as_never_killed(root, tmp_path):
    with pytest.raises(Exception, match="SIGKILL"):
        together(1, killed, root, tmp_path / "cut")
    newest = max((tmp_path / "cut").glob("checkpoint-*.pt"))
    assert newest.name == "checkpoint-00000005.pt"
    newest.write_bytes(newest.read_bytes()[:-100])
    with pytest.warns(UserWarning, match="damaged"):
        run(root, tmp_path / "cut", resume=True)
    run(root, tmp_path / "whole")
    assert curves(tmp_path / "cut") == curves(tmp_path / "whole")
    assert same_weights(tmp_path / "cut", tmp_path / "whole")


# The sums are taken in another order, so losses agree to rounding. With Re-attention that holds for few steps: its
# BatchNorm divides by the small differences between maps and so magnifies every rounding error.
@pytest.mark.parametrize(("name", "epochs"), [("t2t_vit_14", 3), ("deepvit_32b", 1)])
def test_two_processes_with_accumulation_learn_what_one_learns(root, tmp_path, name, epochs):
    changes = {"batch_size": 2, "epochs": epochs, "cooldown_epochs": 0}
    together(2, partial(run, name=name), root, tmp_path / "two", changes)
    run(root, tmp_path / "one", changes, name=name)
    two, one = (load_record(tmp_path / folder / "record.json") for folder in ("two", "one"))
    assert (two["num_processes"], two["epochs"]) == (2, epochs)
    assert two["curves"]["train_loss"] == pytest.approx(one["curves"]["train_loss"], rel=1e-5)


def test_two_processes_go_on_from_where_two_stopped(root, tmp_path):
    together(2, run, root, tmp_path / "whole", {"batch_size": 2})
    together(2, stopped, root, tmp_path / "cut")
    together(2, partial(run, resume=True), root, tmp_path / "cut", {"batch_size": 2})
    assert curves(tmp_path / "cut") == curves(tmp_path / "whole")
    assert same_weights(tmp_path / "cut", tmp_path / "whole")


def stopped(root, out):
    """One of two processes is told to end; both do, at one step."""
    with pytest.MonkeyPatch.context() as patch:
        if os.environ["RANK"] == "1":
            at_step(patch, 4, partial(os.kill, os.getpid(), signal.SIGTERM))
        with pytest.raises(Interrupted, match="stopped after step 4 "):
            run(root, out, {"batch_size": 2})


def stopped_after_four(root, out):
    with pytest.raises(Interrupted, match="stopped after step 4 of 9"):
        run(root, out, {"batch_size": 2}, name="t2t_vit_14", stop_after=4)


@pytest.mark.parametrize(("before", "after"), [(2, 1), (1, 2)])
def test_a_run_goes_on_with_another_number_of_processes(root, tmp_path, before, after):
    together(before, stopped_after_four, root, tmp_path / "cut")
    together(after, partial(run, name="t2t_vit_14", resume=True), root, tmp_path / "cut", {"batch_size": 2})
    run(root, tmp_path / "whole", {"batch_size": 2}, name="t2t_vit_14")
    cut, whole = (curves(tmp_path / folder) for folder in ("cut", "whole"))
    assert cut["train_loss"] == pytest.approx(whole["train_loss"], rel=1e-5)
    assert cut["test_loss"] == pytest.approx(whole["test_loss"], rel=1e-4)
    assert load_record(tmp_path / "cut" / "record.json")["num_processes"] == after


def test_sigterm_ends_cleanly_after_a_checkpoint(root, tmp_path, monkeypatch, capsys):
    at_step(monkeypatch, 2, partial(os.kill, os.getpid(), signal.SIGTERM))
    assert command(root, tmp_path) == 130
    assert [path.name for path in tmp_path.glob("checkpoint-*")] == ["checkpoint-00000002.pt"]
    assert "stopped after step 2 of 9; resume from" in capsys.readouterr().err


def test_unreadable_images_are_named_counted_and_limited(tmp_path, capsys):
    root = make_imagenet(tmp_path / "imagenet")
    for path in sorted((root / "train").rglob("*.JPEG"))[:2]:
        path.write_bytes(path.read_bytes()[:300])
    record = run(root, tmp_path / "out")
    assert sorted(record["unreadable_images"]) == [f"n01440764/n01440764_{number}.JPEG" for number in (0, 1)]
    assert capsys.readouterr().out.count("cannot be read and is skipped") == 2
    with pytest.raises(RuntimeError, match="2 training images cannot be read, more than the 1 allowed"):
        run(root, tmp_path / "strict", max_unreadable=1)


def command(root, out, **changes):
    options = ["--recipe", "deepvit_32b", "--data", str(root), "--out", str(out), "--workers", "0", "--device", "cpu"]
    return main(["train", *options, *flags(**SMALL), *flags(**changes)])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"learning_rate": 1e12}, "the loss became"),
        ({"num_classes": 4}, "train has 3 classes and the model 4"),
        ({"total_batch": 32}, "total_batch 32 is more than the 24 training images"),
        ({"sync_batchnorm": True}, "works on GPUs only"),
        ({"model": "lvvit_s", "map_penalty": 0, "token_weight": 0.5}, "name their folder with --label-maps"),
        ({"auto_augment": "foo"}, "auto_augment is 'foo', which timm does not know"),
        ({"map_penalty_pairs": -1}, "map_penalty_pairs is -1; it must be at least 0"),
        ({"smallest_crop": 0}, "smallest_crop is 0; it must be more"),
        ({"flip": 2}, "flip is 2.0; it must be at least 0 and at most 1"),
        ({"seed": -1}, "seed is -1; it must be at least 0"),
        ({"model_options": {"depth": "abc"}}, "depth is 'abc'; it must be a whole number"),
        ({"images_from": "memory"}, "set rand_augment for images from memory, or images_from to files"),
        ({"rand_augment": 2}, "set auto_augment for those from files"),
        ({"ema_warmup": True}, "set it to false with files"),
        ({"label_maps": "maps"}, "or leave the label maps out"),
    ],
)
def test_what_goes_wrong_is_one_sentence(root, tmp_path, capsys, changes, message):
    assert command(root, tmp_path / "out", **changes) == 1
    told = capsys.readouterr().err
    assert message in told
    assert told.count("\n") == 1


def test_folder_with_a_run_is_respected(root, tmp_path):
    with pytest.raises(Interrupted):
        run(root, tmp_path, stop_after=1)
    with pytest.raises(FileExistsError, match="already holds a run; resume it"):
        run(root, tmp_path)
    with pytest.raises(ValueError, match=r"made with erase 0.25, not 0"):
        run(root, tmp_path, {"erase": 0}, resume=True)
    with pytest.raises(Interrupted, match="stopped after step 2"):
        run(root, tmp_path, {"channels_last": True}, resume=True, stop_after=1)


def test_rate_warms_up_and_falls_by_epochs(root, tmp_path):
    changes = {"epochs": 4, "warmup_epochs": 2, "cooldown_epochs": 1, "total_batch": 24}
    rates = run(root, tmp_path, changes)["curves"]["learning_rate"]
    assert rates[:2] == pytest.approx([1e-6, (5e-4 + 1e-6) / 2])
    assert rates[2] == pytest.approx((5e-4 + 1e-5) / 2)  # half-way down the cosine
    assert rates[-1] == pytest.approx(1e-5)


def objective(**changes):
    """A model in training and its objective, on this processor."""
    torch.manual_seed(0)
    setup = small_setup(**changes)
    model = setup.build().train()
    return Objective(setup.recipe, model, TrainingModel(model, setup.recipe), CPU)


def test_penalty_is_the_likeness_of_the_first_pairs():
    plain = {"mixup": 0, "erase": 0, "drop_path": 0, "model_options": {"depth": 4}, "map_penalty_pairs": 2}
    weighed, free = (objective(**plain, map_penalty=weight) for weight in (0.5, 0))
    batch = Batch(torch.rand(4, 3, 32, 32), torch.tensor([0, 1, 2, 0]), torch.arange(4), whole_views(4))
    with collected_maps(free.model) as maps:
        loss = free(batch)
    assert torch.isclose(weighed(batch), loss + 0.5 * map_likeness(maps[:3]), atol=1e-5)
    assert len(maps) == 4


@pytest.mark.parametrize(
    ("change", "tolerance"),
    [({"grad_checkpointing": True}, 1e-6), ({"channels_last": True}, 1e-4), ({"precision": "bfloat16"}, 2e-2)],
)
def test_faster_ways_compute_the_same(root, tmp_path, change, tolerance):
    plain = {"epochs": 1, "cooldown_epochs": 0}
    losses = [
        run(root, tmp_path / str(number), {**plain, **changes}, name="deepvit_s")["train_loss"]
        for number, changes in enumerate(({}, change))
    ]
    assert losses[1] == pytest.approx(losses[0], rel=tolerance)


def test_record_says_what_ran(root, tmp_path):
    run(root, tmp_path, {"cooldown_epochs": 0, "epochs": 1})
    record = json.loads((tmp_path / "record.json").read_text())
    assert (record["train_images"], record["test_images"], record["precision"]) == (24, 9, "float32")
    assert record["config"]["recipe"]["total_batch"] == 8
    assert record["data_hash"] != record["test_data_hash"]


def test_a_checkpoint_of_the_former_trainer_is_continued(root, tmp_path):
    with pytest.raises(Interrupted):
        run(root, tmp_path, stop_after=4, name="t2t_vit_14")
    path = tmp_path / "checkpoint-00000004.pt"
    state = torch.load(path, weights_only=True)
    identity = state["identity"]
    recipe = {**identity["recipe"], "model": "t2t_vit_14", "model_options": {}, "num_classes": 3, "img_size": 32}
    for option in ("images_from", "schedule", "ema_warmup", "class_from_maps", "evaluate_every", "crop_padding"):
        del recipe[option]
    state["identity"] = {"recipe": recipe, "train": identity["data_hash"], "val": identity["test_hash"]}
    for name in ("images", "seconds"):
        del state["progress"]["curves"][name]
    del state["progress"]["total_seconds"]
    torch.save(state, path)
    record = run(root, tmp_path, resume=True, name="t2t_vit_14")
    whole = run(root, tmp_path / "whole", name="t2t_vit_14")
    assert record["curves"]["train_loss"] == whole["curves"]["train_loss"]
    assert record["curves"]["images"] == whole["curves"]["images"]
