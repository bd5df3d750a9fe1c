import json
import os
import signal
from functools import partial

import pytest
import torch

from deepvit_edu.checkpoints import load_model
from deepvit_edu.imagenet import objective
from deepvit_edu.imagenet.data import Targets
from deepvit_edu.imagenet.processes import Processes
from deepvit_edu.imagenet.train import Run, main, train
from deepvit_edu.map_penalty import map_likeness
from deepvit_edu.records import load_record
from deepvit_edu.train import Interrupted
from tests.imagenet.helpers import SMALL, make_imagenet, make_label_maps, settings, small_recipe, together

CURVES = ("train_loss", "test_loss", "test_accuracy", "learning_rate")
ALONE = Processes(0, 1, torch.device("cpu"))
LABELED = "refiner_vit_s_token_labels"


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return make_imagenet(tmp_path_factory.mktemp("imagenet"))


@pytest.fixture(scope="module")
def label_maps(tmp_path_factory, root):
    return str(make_label_maps(tmp_path_factory.mktemp("maps"), root))


def run(root, out, *changes, name="deepvit_32b", **options):
    return train(small_recipe(*changes, name=name), settings(root, out, **options), device="cpu")


def curves(out):
    found = load_record(out / "record.json")["curves"]
    return {name: found[name] for name in CURVES}


def same_weights(one, other):
    first, second = (load_model(folder / "model.safetensors")[0].state_dict() for folder in (one, other))
    return all(torch.equal(first[name], second[name]) for name in first)


def at_step(monkeypatch, number, action):
    """Does something in the middle of a step of the optimizer."""
    original = Run.step

    def step(self, batches):
        original(self, batches)
        if self.progress.step == number:
            action()

    monkeypatch.setattr(Run, "step", step)


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
    assert record["config"]["recipe"]["model"] == record["model"]


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
    changes = ["batch_size=2", f"epochs={epochs}", "cooldown_epochs=0"]
    together(2, partial(run, name=name), root, tmp_path / "two", *changes)
    run(root, tmp_path / "one", *changes, name=name)
    two, one = (load_record(tmp_path / folder / "record.json") for folder in ("two", "one"))
    assert (two["num_processes"], two["epochs"]) == (2, epochs)
    assert two["curves"]["train_loss"] == pytest.approx(one["curves"]["train_loss"], rel=1e-5)


def test_two_processes_go_on_from_where_two_stopped(root, tmp_path):
    together(2, run, root, tmp_path / "whole", "batch_size=2")
    together(2, stopped, root, tmp_path / "cut")
    together(2, partial(run, resume=True), root, tmp_path / "cut", "batch_size=2")
    assert curves(tmp_path / "cut") == curves(tmp_path / "whole")
    assert same_weights(tmp_path / "cut", tmp_path / "whole")


def stopped(root, out):
    """One of two processes is told to end; both do, at one step."""
    with pytest.MonkeyPatch.context() as patch:
        if os.environ["RANK"] == "1":
            at_step(patch, 4, partial(os.kill, os.getpid(), signal.SIGTERM))
        with pytest.raises(Interrupted, match="stopped after step 4 "):
            run(root, out, "batch_size=2")


def stopped_after_four(root, out):
    with pytest.raises(Interrupted, match="stopped after step 4 of 9"):
        run(root, out, "batch_size=2", name="t2t_vit_14", stop_after=4)


@pytest.mark.parametrize(("before", "after"), [(2, 1), (1, 2)])
def test_a_run_goes_on_with_another_number_of_processes(root, tmp_path, before, after):
    together(before, stopped_after_four, root, tmp_path / "cut")
    together(after, partial(run, name="t2t_vit_14", resume=True), root, tmp_path / "cut", "batch_size=2")
    run(root, tmp_path / "whole", "batch_size=2", name="t2t_vit_14")
    cut, whole = (curves(tmp_path / folder) for folder in ("cut", "whole"))
    assert cut["train_loss"] == pytest.approx(whole["train_loss"], rel=1e-5)
    assert cut["test_loss"] == pytest.approx(whole["test_loss"], rel=1e-4)
    assert load_record(tmp_path / "cut" / "record.json")["num_processes"] == after


def test_sigterm_ends_cleanly_after_a_checkpoint(root, tmp_path, monkeypatch, capsys):
    at_step(monkeypatch, 2, partial(os.kill, os.getpid(), signal.SIGTERM))
    options = ["--recipe", "deepvit_32b", "--data", str(root), "--out", str(tmp_path), "--workers", "0"]
    assert main([*options, "--look-every", "1", "--device", "cpu", "--set", *SMALL]) == 130
    assert [path.name for path in tmp_path.glob("checkpoint-*")] == ["checkpoint-00000002.pt"]
    assert "stopped after step 2 of 9; the same command with --resume goes on" in capsys.readouterr().err


def test_unreadable_images_are_named_counted_and_limited(tmp_path, capsys):
    root = make_imagenet(tmp_path / "imagenet")
    for path in sorted((root / "train").rglob("*.JPEG"))[:2]:
        path.write_bytes(path.read_bytes()[:300])
    record = run(root, tmp_path / "out")
    assert sorted(record["unreadable_images"]) == [f"n01440764/n01440764_{number}.JPEG" for number in (0, 1)]
    assert capsys.readouterr().out.count("cannot be read and is skipped") == 2
    with pytest.raises(RuntimeError, match="2 training images cannot be read, more than the 1 allowed"):
        run(root, tmp_path / "strict", max_unreadable=1)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["learning_rate=1e12"], "the loss became"),
        (["num_classes=4"], "train has 3 classes and the model 4"),
        (["total_batch=32"], "total_batch 32 is more than the 24 training images"),
        (["sync_batchnorm=true"], "works on GPUs only"),
        (["model=lvvit_s", "map_penalty=0", "token_weight=0.5"], "name their folder with --label-maps"),
        (["auto_augment=foo"], "auto_augment is 'foo', which timm does not know"),
        (["map_penalty_pairs=-1"], "map_penalty_pairs is -1; it must be at least 0"),
        (["smallest_crop=0"], "smallest_crop is 0; it must be more"),
        (["flip=2"], "flip is 2.0; it must be at least 0 and at most 1"),
        (["seed=-1"], "seed is -1; it must be at least 0"),
        (["model_options.depth=abc"], "depth is 'abc'; it must be a whole number"),
    ],
)
def test_what_goes_wrong_is_one_sentence(root, tmp_path, capsys, changes, message):
    options = ["--recipe", "deepvit_32b", "--data", str(root), "--out", str(tmp_path / "out"), "--workers", "0"]
    assert main([*options, "--look-every", "1", "--device", "cpu", "--set", *SMALL, *changes]) == 1
    told = capsys.readouterr().err
    assert message in told
    assert told.count("\n") == 1


def test_folder_with_a_run_is_respected(root, tmp_path):
    with pytest.raises(Interrupted):
        run(root, tmp_path, stop_after=1)
    with pytest.raises(FileExistsError, match="add --resume"):
        run(root, tmp_path)
    with pytest.raises(ValueError, match=r"a run with erase 0.25, not 0.0"):
        run(root, tmp_path, "erase=0", resume=True)
    with pytest.raises(Interrupted, match="stopped after step 2"):
        run(root, tmp_path, "channels_last=true", resume=True, stop_after=1)


def test_rate_warms_up_and_falls_by_epochs(root, tmp_path):
    changes = ["epochs=4", "warmup_epochs=2", "cooldown_epochs=1", "total_batch=24"]
    rates = run(root, tmp_path, *changes)["curves"]["learning_rate"]
    assert rates[:2] == pytest.approx([1e-6, (5e-4 + 1e-6) / 2])
    assert rates[2] == pytest.approx((5e-4 + 1e-5) / 2)  # half-way down the cosine
    assert rates[-1] == pytest.approx(1e-5)


def small_run(root, out, *changes, name="deepvit_32b"):
    torch.manual_seed(0)
    run = Run(small_recipe(*changes, name=name), settings(root, out), ALONE)
    run.model.train()
    return run


def batch():
    images, labels = torch.rand(4, 3, 32, 32), torch.tensor([0, 1, 2, 0])
    nothing = torch.zeros(4, 0)
    return images, Targets(labels, torch.full((4,), -1), nothing, nothing, nothing)


def test_penalty_is_the_likeness_of_the_first_pairs(root, tmp_path):
    plain = ["mixup=0", "erase=0", "drop_path=0", "model_options.depth=4", "map_penalty_pairs=2"]
    weighed, free = (small_run(root, tmp_path / weight, *plain, f"map_penalty={weight}") for weight in ("0.5", "0"))
    images, targets = batch()
    with objective.collected_maps(free.model) as maps:
        loss = free.objective(images, targets)
    expected = loss + 0.5 * map_likeness(maps[:3])
    assert torch.isclose(weighed.objective(images, targets), expected, atol=1e-5)
    assert len(maps) == 4


@pytest.mark.parametrize(
    ("change", "tolerance"),
    [("grad_checkpointing=true", 1e-6), ("channels_last=true", 1e-4), ("precision=bfloat16", 2e-2)],
)
def test_faster_ways_compute_the_same(root, tmp_path, change, tolerance):
    plain = ["epochs=1", "cooldown_epochs=0"]
    losses = [
        run(root, tmp_path / str(number), *plain, *changes, name="deepvit_s")["train_loss"]
        for number, changes in enumerate(([], [change]))
    ]
    assert losses[1] == pytest.approx(losses[0], rel=tolerance)


def test_record_says_what_ran(root, tmp_path):
    run(root, tmp_path, "cooldown_epochs=0", "epochs=1")
    record = json.loads((tmp_path / "record.json").read_text())
    assert (record["train_images"], record["test_images"], record["precision"]) == (24, 9, "float32")
    assert record["config"]["recipe"]["total_batch"] == 8
    assert record["data_hash"] != record["test_data_hash"]
