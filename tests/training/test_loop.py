import errno
import json
import os
import signal
import threading
from dataclasses import replace

import numpy as np
import pytest
import torch

from deepvit_edu.checkpoints import load_model
from deepvit_edu.diagnostics import record_attention
from deepvit_edu.labels import tensor_hash
from deepvit_edu.map_penalty import map_likeness
from deepvit_edu.nn.attention import legible_attention
from deepvit_edu.records import load_record
from deepvit_edu.tiers import tier
from deepvit_edu.training import Interrupted, NonFiniteLossError, Recipe, Run, evaluate, loop, make_batches, train
from deepvit_edu.training.objective import Objective
from deepvit_edu.training.processes import Processes
from deepvit_edu.training.processes import started as started_processes
from deepvit_edu.training.schedule import ConstantThenFalling
from tests.helpers import tiny_model, tiny_set
from tests.training.helpers import together

# Everything that draws random numbers is on, so that a resumed run has to draw the same ones.
RECIPE = Recipe(epochs=4, batch_size=8, rand_augment=1, mixup=0.2, cutmix=1.0, erase=0.5, ema_decay=0.9, crop_padding=1)
TOKEN_LABELS = Recipe(epochs=20, batch_size=8, learning_rate=3e-3, smallest_crop=0.5, token_weight=0.5)
NEVER_THE_SAME = ("seconds", "images_per_second", "started", "curves")


def run(recipe=RECIPE, model=None, **options):
    model = model or tiny_model(drop_rate=0.1, drop_path_rate=0.2)
    return model, train(model, tiny_set(), tiny_set(12, "test", seed=1), recipe, name="tiny", device="cpu", **options)


def started(model, train_set, test_set, recipe, label_maps=None):
    return Run(model, make_batches(train_set, test_set, recipe, model, label_maps=label_maps), recipe)


def first_batch(run):
    """What the model sees first: images, and targets of the class and of the tokens."""
    return run.objective.prepare(run.batches.batch(0, 0))


def newest(folder):
    return max(folder.glob("checkpoint-*.pt"))


def same_results(a, b):
    for curve in ("train_loss", "test_loss", "test_accuracy", "learning_rate"):
        assert a["curves"][curve] == b["curves"][curve], curve
    assert {k: v for k, v in a.items() if k not in NEVER_THE_SAME} == {
        k: v for k, v in b.items() if k not in NEVER_THE_SAME
    }


def interrupt_at(monkeypatch, step, number=signal.SIGINT):
    original = Run.train_step

    def train_step(self):
        if self.progress.step == step:
            os.kill(os.getpid(), number)
        return original(self)

    monkeypatch.setattr(Run, "train_step", train_step)


def test_learns_what_is_easy():
    model, record = run(Recipe(epochs=30, batch_size=12, learning_rate=3e-3, crop_padding=0))
    assert record["test_accuracy"] > 0.9
    assert record["curves"]["train_loss"][0] > record["curves"]["train_loss"][-1]
    measured = evaluate(model, tiny_set(12, "test", seed=1))
    assert measured["accuracy"] == record["test_accuracy"]
    assert not model.training


def test_same_seed_same_run_other_seed_other_run():
    _, first = run()
    torch.rand(1)  # the caller's own randomness must not matter
    _, second = run()
    same_results(first, second)
    _, third = run(Recipe(**{**RECIPE.__dict__, "seed": 1}))
    assert third["curves"]["train_loss"] != first["curves"]["train_loss"]


def test_leaves_the_callers_randomness_alone():
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    model = tiny_model()
    torch.manual_seed(5)
    run(model=model)
    assert torch.equal(torch.rand(1), expected)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("step", [0, 4, 5])  # at the start, within an epoch, at the end of one (3 steps an epoch)
def test_interrupted_run_resumes_to_the_same_numbers(tmp_path, monkeypatch, step, number):
    whole_model, whole = run()
    with monkeypatch.context() as patch:
        interrupt_at(patch, step, number)
        with pytest.raises(Interrupted, match=f"stopped after step {step + 1} of 12; resume from"):
            run(out=tmp_path)
    assert not (tmp_path / "record.json").exists()
    resumed_model, resumed = run(out=tmp_path, resume=True)
    same_results(whole, resumed)
    for name, parameter in whole_model.state_dict().items():
        assert torch.equal(parameter, resumed_model.state_dict()[name]), name
    assert load_record(tmp_path / "record.json") == json.loads(json.dumps(resumed))


def test_saved_weights_are_the_evaluated_ones(tmp_path):
    _, record = run(out=tmp_path)
    model, about = load_model(tmp_path / "model.safetensors")
    assert evaluate(model, tiny_set(12, "test", seed=1))["accuracy"] == record["test_accuracy"]
    assert evaluate(model, tiny_set(12, "test", seed=1))["loss"] == pytest.approx(record["test_loss"], rel=1e-6)
    assert about["classes"] == ["dark", "grey", "bright"]


def test_after_each_epoch_the_measured_model_can_be_looked_at():
    seen = []
    _, record = run(after_epoch=lambda model: seen.append(evaluate(model, tiny_set(12, "test", seed=1))["accuracy"]))
    assert seen == record["curves"]["test_accuracy"]


def test_finished_run_is_not_overwritten(tmp_path):
    run(out=tmp_path)
    before = newest(tmp_path).read_bytes()
    with pytest.raises(FileExistsError, match="already holds a run; resume it"):
        run(out=tmp_path)
    assert newest(tmp_path).read_bytes() == before


def test_resume_refuses_another_recipe_other_images_and_damage(tmp_path):
    run(out=tmp_path)
    with pytest.raises(ValueError, match=r"made with learning_rate 0.001, not 0.01"):
        run(Recipe(**{**RECIPE.__dict__, "learning_rate": 0.01}), out=tmp_path, resume=True)
    with pytest.raises(ValueError, match="made with other images"):
        train(
            tiny_model(drop_rate=0.1, drop_path_rate=0.2),
            tiny_set(seed=9),
            tiny_set(12, "test"),
            RECIPE,
            out=tmp_path,
            resume=True,
        )
    for path in tmp_path.glob("checkpoint-*.pt"):
        content = path.read_bytes()
        path.write_bytes(content[: len(content) // 2])
    with pytest.warns(UserWarning, match="damaged"), pytest.raises(ValueError, match="delete them to start again"):
        run(out=tmp_path, resume=True)


def test_a_checkpoint_older_than_an_option_is_continued(tmp_path):
    _, whole = run()
    with pytest.raises(Interrupted):
        run(out=tmp_path, max_seconds=0)
    state = torch.load(newest(tmp_path), weights_only=True)
    del state["identity"]["recipe"]["token_weight"], state["progress"]["curves"]["test_top5"]
    newest(tmp_path).unlink()
    torch.save(state, tmp_path / "checkpoint.pt")  # their name of old
    _, resumed = run(out=tmp_path, resume=True)
    del whole["test_top5"]
    same_results(whole, resumed)


def test_a_checkpoint_with_old_names_of_options_is_continued(tmp_path):
    _, whole = run(replace(RECIPE, flip=0.0))
    with pytest.raises(Interrupted):
        run(replace(RECIPE, flip=0.0), out=tmp_path, max_seconds=0)
    state = torch.load(newest(tmp_path), weights_only=True)
    recipe = state["identity"]["recipe"]
    recipe["smallest_view"], recipe["flip"] = recipe.pop("smallest_crop"), False
    torch.save(state, newest(tmp_path))
    _, resumed = run(replace(RECIPE, flip=0.0), out=tmp_path, resume=True)
    same_results(whole, resumed)


def test_a_run_goes_on_where_auto_means_another_precision(tmp_path, monkeypatch):
    with pytest.raises(Interrupted):
        run(out=tmp_path, max_seconds=0)
    monkeypatch.setattr(loop, "pick_precision", lambda *_: torch.float16)  # which scales, where float32 did not
    _, record = run(out=tmp_path, resume=True)
    assert record["precision"] == "float32, then float16"


def test_no_test_images_are_refused():
    with pytest.raises(ValueError, match="there are no test images"):
        train(tiny_model(), tiny_set(), tiny_set(12, "test").subset(torch.tensor([], dtype=torch.long)), RECIPE)


def test_a_penalty_reads_the_maps_of_dense_blocks_too():
    recipe = Recipe(epochs=1, batch_size=12, map_penalty=0.1)
    _, record = run(recipe, tiny_model(dense_stages=(1, 1), growth=8, depth=2))
    assert np.isfinite(record["train_loss"])


def test_non_finite_loss_stops_with_the_step_and_keeps_the_last_good_state(tmp_path, monkeypatch):
    original, calls = Objective.__call__, []

    def loss(self, batch):
        calls.append(batch)
        return original(self, batch) * (float("nan") if len(calls) == 8 else 1)

    with monkeypatch.context() as patch:
        patch.setattr(Objective, "__call__", loss)
        with pytest.raises(NonFiniteLossError, match=r"became nan at step 7 \(epoch 3\); lower the learning rate"):
            run(out=tmp_path)
    same_results(run()[1], run(out=tmp_path, resume=True)[1])


def test_full_disk_leaves_the_checkpoint_before(tmp_path, monkeypatch):
    original, calls = torch.save, []

    def save(state, path):
        calls.append(path)
        if len(calls) == 2:
            path.write_bytes(b"half")
            raise OSError(errno.ENOSPC, "No space left on device")
        original(state, path)

    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", save)
        with pytest.raises(OSError, match="the disk is full"):
            run(out=tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-00000003.pt"]
    same_results(run()[1], run(out=tmp_path, resume=True)[1])


def test_trains_outside_the_main_thread():
    results = []
    thread = threading.Thread(target=lambda: results.append(run()[1]))
    thread.start()
    thread.join()
    assert results[0]["epochs"] == 4


def test_no_decay_on_biases_norms_positions_and_class_token():
    model = tiny_model()
    optimizer = started(model, tiny_set(), tiny_set(12), RECIPE).optimizer
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    decay = {names[id(p)]: group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    assert len(decay) == len(names)
    for name, value in decay.items():
        free = name in ("pos_embed", "cls_token") or name.endswith("bias") or "norm" in name
        assert value == (0.0 if free else RECIPE.weight_decay), name


def test_learning_rate_warms_up_and_falls():
    recipe = Recipe(epochs=10, batch_size=8, warmup_epochs=2, learning_rate=1e-3, min_learning_rate=1e-5)
    run = started(tiny_model(), tiny_set(), tiny_set(12), recipe)
    rates = []
    for step in range(run.num_steps):
        run.set_learning_rate(step)
        rates.append(run.optimizer.param_groups[0]["lr"])
    peak = rates.index(max(rates))
    assert 5 <= peak <= 6  # two epochs of three steps
    assert max(rates) == pytest.approx(1e-3, rel=0.05)
    assert rates[:peak] == sorted(rates[:peak])
    assert rates[peak:] == sorted(rates[peak:], reverse=True)
    assert 1e-5 <= rates[-1] < 5e-5


def test_a_short_run_is_not_all_warm_up():
    recipe = Recipe(epochs=1, batch_size=4, warmup_epochs=5, learning_rate=1e-3)
    run = started(tiny_model(), tiny_set(), tiny_set(12), recipe)
    run.set_learning_rate(3)  # of six steps
    assert run.optimizer.param_groups[0]["lr"] == pytest.approx(1e-3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"recipe": Recipe(batch_size=100)}, "more than the 24 training images"),
        ({"model": {"num_classes": 5}}, "has 3 classes and the model's head has 5"),
        ({"model": {"img_size": 16}}, "8 pixels wide and the model takes 16"),
        ({"recipe": Recipe(images_from="files", smallest_crop=0.1)}, "takes images from files, which these are not"),
        ({"recipe": TOKEN_LABELS}, "create the model with dense_head=True"),
        ({"label_maps": torch.zeros(24, 2, 1, 2, 2)}, "would not be used; set the recipe's token_weight"),
        (
            {"label_maps": torch.zeros(24, 2, 1, 2, 2), "recipe": replace(RECIPE, class_from_maps=True, mixup=0.5)},
            "do not go with Mixup and CutMix",
        ),
        (
            {"recipe": TOKEN_LABELS, "model": {"dense_head": True}, "label_maps": torch.zeros(23, 2, 1, 2, 2)},
            "23 label maps for 24 images",
        ),
    ],
)
def test_what_does_not_fit_is_said(change, message):
    model = tiny_model(**change.get("model", {}))
    with pytest.raises(ValueError, match=message):
        run(change.get("recipe", RECIPE), model, label_maps=change.get("label_maps"))


def maps_that_say(classes):
    """Label maps (24, 2, 1, 2, 2) that give the left column of the first class a high score, the right the second."""
    wanted = torch.tensor(classes).view(1, 1, 1, 1, 2).expand(24, 1, 1, 2, 2)
    return torch.cat([torch.full((24, 1, 1, 2, 2), 9.0), wanted.float()], dim=1).half()


def test_tokens_learn_what_the_label_maps_say_of_their_place_and_mirrored_with_the_image():
    model, record = run(TOKEN_LABELS, tiny_model(dense_head=True), label_maps=maps_that_say([2, 2]))
    images = tiny_set(12, "test", seed=1)
    _, token_logits = model.forward_dense(images.normalise(images.images))
    assert (token_logits.argmax(dim=-1) == 2).all()  # whatever the image shows
    assert np.isfinite(record["train_loss"])
    assert record["label_maps_hash"] == tensor_hash(maps_that_say([2, 2]))
    half_dark = tiny_set()
    half_dark.images[..., :4], half_dark.images[..., 4:] = 0, 255
    model = tiny_model(dense_head=True)
    images, _, token_targets = first_batch(started(model, half_dark, half_dark, TOKEN_LABELS, maps_that_say([0, 1])))
    rows = token_targets.view(8, 2, 2, 3).argmax(dim=-1)[:, 0].tolist()
    mirrored = (images[..., :4].mean(dim=(1, 2, 3)) > images[..., 4:].mean(dim=(1, 2, 3))).tolist()
    assert rows == [[1, 0] if seen else [0, 1] for seen in mirrored]
    assert set(mirrored) == {True, False}
    unflipped = replace(TOKEN_LABELS, flip=0)
    images, _, token_targets = first_batch(started(model, half_dark, half_dark, unflipped, maps_that_say([0, 1])))
    assert (images[..., :4].mean(dim=(1, 2, 3)) < images[..., 4:].mean(dim=(1, 2, 3))).all()
    assert token_targets.view(8, 2, 2, 3).argmax(dim=-1)[:, 0].tolist() == [[0, 1]] * 8


def test_the_class_alone_may_learn_from_the_label_maps():
    recipe = replace(RECIPE, class_from_maps=True, label_smoothing=0.0, mixup=0.0, cutmix=0.0)
    model, record = run(recipe, label_maps=maps_that_say([2, 2]))
    images = tiny_set(12, "test", seed=1)
    assert (model(images.normalise(images.images)).argmax(dim=-1) == 2).all()  # whatever the image shows
    assert record["label_maps_hash"] == tensor_hash(maps_that_say([2, 2]))
    batch = first_batch(started(tiny_model(), tiny_set(), tiny_set(), recipe, maps_that_say([0, 2])))
    torch.testing.assert_close(batch[1], torch.tensor([0.5, 0.0, 0.5]).expand(8, 3), atol=1e-2, rtol=0)
    assert batch[2] is None


def test_targets_of_tokens_are_mixed_with_the_images():
    recipe = replace(TOKEN_LABELS, mixup=1.0, flip=0, label_smoothing=0.0, smallest_crop=1.0)
    flat = tiny_set()
    flat.images[:] = 80 * flat.labels.to(torch.uint8)[:, None, None, None]
    images, targets, token_targets = first_batch(started(tiny_model(dense_head=True), flat, flat, recipe))
    levels = flat.normalise(torch.tensor([0, 80, 160], dtype=torch.uint8).view(3, 1, 1, 1).expand(3, 3, 8, 8))
    assert ((targets > 0).sum(dim=1) == 2).any()  # two classes where the partner is of another one
    assert torch.allclose(images.mean(dim=(2, 3)), targets @ levels.mean(dim=(2, 3)), atol=1e-4)
    assert torch.allclose(token_targets, targets[:, None].expand_as(token_targets))


def test_stochastic_depth_of_the_recipe_is_the_models():
    with pytest.raises(ValueError, match=r"create the model with drop_path_rate=0\.3"):
        run(replace(RECIPE, drop_path=0.3))
    _, record = run(replace(RECIPE, epochs=1, drop_path=0.3), tiny_model(drop_path_rate=0.3))
    assert np.isfinite(record["train_loss"])


def test_without_label_maps_every_token_is_told_the_images_class():
    model, _ = run(TOKEN_LABELS, tiny_model(dense_head=True))
    images = tiny_set(12, "test", seed=1)
    _, token_logits = model.forward_dense(images.normalise(images.images))
    assert (token_logits.mean(dim=1).argmax(dim=-1) == images.labels).float().mean() > 0.9


def test_token_labels_resume_with_the_same_maps_only(tmp_path):
    options = {"recipe": TOKEN_LABELS, "label_maps": maps_that_say([0, 1])}
    _, whole = run(model=tiny_model(dense_head=True), **options)
    with pytest.raises(Interrupted):
        run(model=tiny_model(dense_head=True), out=tmp_path, max_seconds=0, **options)
    other = {**options, "label_maps": maps_that_say([1, 1])}
    with pytest.raises(ValueError, match="other images or label maps"):
        run(model=tiny_model(dense_head=True), out=tmp_path, resume=True, **other)
    _, resumed = run(model=tiny_model(dense_head=True), out=tmp_path, resume=True, **options)
    same_results(whole, resumed)


def test_settings_are_checked(monkeypatch):
    with pytest.raises(ValueError, match="epochs"):
        Recipe(epochs=0)
    with pytest.raises(ValueError, match="precision is 'half'"):
        Recipe(precision="half")
    with pytest.raises(ValueError, match="clip_grad is -1"):
        Recipe(clip_grad=-1.0)
    with pytest.raises(ValueError, match="rand_magnitude is 31; it must be at least 0 and at most 30"):
        Recipe(rand_magnitude=31)
    with pytest.raises(ValueError, match="set compile to false"):
        Recipe(compile=True, map_penalty=0.1)
    with pytest.raises(ValueError, match="batch_size is -1"):
        evaluate(tiny_model(), tiny_set(), batch_size=-1)
    with pytest.raises(ValueError, match="batch_size 7 must be even"):
        Recipe(batch_size=7, mixup=0.1)
    with pytest.raises(ValueError, match="set smallest_crop, too"):
        Recipe(token_weight=0.5)
    monkeypatch.setenv("DEEPVIT_EDU_TIER", "huge")
    with pytest.raises(ValueError, match="set it to one of cpu, t4, full"):
        tier()


@pytest.mark.parametrize("change", [{"precision": "bfloat16"}, {"clip_grad": 0.0}, {"mixup": 0.0, "cutmix": 0.0}])
def test_other_recipes_run(change):
    _, record = run(Recipe(**{**RECIPE.__dict__, **change, "epochs": 1}))
    assert record["precision"] == change.get("precision", "float32")


def test_a_penalty_takes_the_first_pairs_of_blocks():
    recipe = replace(RECIPE, epochs=1, map_penalty=5.0)
    losses = [
        run(replace(recipe, map_penalty_pairs=pairs), tiny_model(depth=3))[1]["train_loss"] for pairs in (0, 1, 2, 9)
    ]
    assert losses[0] == losses[2] == losses[3] != losses[1]


def test_a_penalty_makes_maps_less_alike():
    recipe = Recipe(epochs=10, batch_size=12, learning_rate=1e-2, crop_padding=0)
    likeness = []
    for penalty in (0.0, 10.0):
        model, record = run(Recipe(**{**recipe.__dict__, "map_penalty": penalty}), tiny_model(depth=3))
        maps = record_attention(model, tiny_set().normalise(tiny_set().images))
        likeness.append(map_likeness(maps).item())
        assert np.isfinite(record["train_loss"])
    assert likeness[1] < likeness[0] - 0.05


def test_time_that_is_over_interrupts_and_the_run_resumes(tmp_path):
    _, whole = run()
    with pytest.raises(Interrupted, match="stopped after step 1 of 12"):
        run(out=tmp_path, max_seconds=0)
    _, resumed = run(out=tmp_path, resume=True)
    same_results(whole, resumed)


def test_averaged_weights_have_statistics_of_their_own():
    recipe = Recipe(epochs=2, batch_size=8, ema_decay=0.5, crop_padding=0, flip=0)
    model, _ = run(recipe, tiny_model(attention=("re",)))
    images = tiny_set().normalise(tiny_set().images)
    seen = []
    norm = model.blocks[0].attn.norm.batch
    hook = norm.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    with torch.no_grad(), legible_attention():
        model(images)
    hook.remove()
    assert torch.allclose(norm.running_mean, seen[0].mean(dim=(0, 2, 3)), atol=1e-5)


# Constant rates, and evaluations by images.

BY_IMAGES = Recipe(
    epochs=3,
    batch_size=8,
    crop_padding=1,
    schedule="constant",
    evaluate_every=16,
    warmup_epochs=0.5,
    learning_rate=1e-2,
)


def test_a_constant_rate_rises_stays_and_falls_over_the_last_fifth():
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
    scheduler = ConstantThenFalling(optimizer, num_steps=100, warmup=9, lowest=0.001)
    rates = []
    for step in range(100):
        scheduler.step_update(step)
        rates.append(optimizer.param_groups[0]["lr"])
    assert rates[:3] == pytest.approx([0.01, 0.02, 0.03])
    assert rates[9:81] == pytest.approx([0.1] * 72)
    assert rates[90] == pytest.approx(0.05)
    assert rates[99] == pytest.approx(0.005)


def test_evaluations_come_after_so_many_images_and_at_the_end():
    seen = []
    _, record = run(BY_IMAGES, after_epoch=lambda model: seen.append(1))
    assert record["curves"]["images"] == [16, 32, 48, 64, 72]  # 24 images, three times
    assert record["curves"]["epoch"] == pytest.approx([2 / 3, 4 / 3, 2, 8 / 3, 3])
    assert len(seen) == len(record["curves"]["test_accuracy"]) == 5


@pytest.mark.parametrize("step", [1, 3, 7])
def test_a_run_that_is_evaluated_by_images_resumes_to_the_same_numbers(tmp_path, monkeypatch, step):
    _, whole = run(BY_IMAGES)
    with monkeypatch.context() as patched:
        interrupt_at(patched, step)
        with pytest.raises(Interrupted):
            run(BY_IMAGES, out=tmp_path)
    _, resumed = run(BY_IMAGES, out=tmp_path, resume=True)
    same_results(resumed, whole)
    assert resumed["curves"]["images"] == whole["curves"]["images"]


def test_a_run_on_drawn_images_resumes_to_the_same_numbers(tmp_path, monkeypatch):
    from deepvit_edu import data
    from deepvit_edu.zoo import create_model

    def on_drawn_images(**options):
        torch.manual_seed(0)
        model = create_model("cifar_vit_4x64", num_classes=10, img_size=64, patch_size=32, embed_dim=8, num_heads=2)
        sets = (data.load("framed-quarter", split, limit=limit) for split, limit in (("train", 1040), ("test", 20)))
        recipe = Recipe(epochs=1, batch_size=40, evaluate_every=400, crop_padding=0, flip=0)
        return train(model, *sets, recipe, device="cpu", **options)

    whole = on_drawn_images()
    with monkeypatch.context() as patched:
        interrupt_at(patched, 13)
        with pytest.raises(Interrupted):
            on_drawn_images(out=tmp_path)
    same_results(on_drawn_images(out=tmp_path, resume=True), whole)
    assert whole["train_images"] == 1040
    assert whole["curves"]["images"] == [400, 800, 1040]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"schedule": "linear"}, "schedule is 'linear'; choose one of cosine, constant"),
        ({"evaluate_every": 100, "batch_size": 64}, "not a multiple|choose a multiple of batch_size"),
        ({"evaluate_every": -64, "batch_size": 64}, "evaluate_every is -64; it must be at least 0"),
    ],
)
def test_schedules_and_evaluations_that_cannot_be_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Recipe(**options)


def test_images_until_an_accuracy_is_reached():
    from deepvit_edu.records import images_until

    curves = {"images": [100, 200, 300], "epoch": [1, 2, 3], "test_accuracy": [0.2, 0.5, 0.4]}
    record = {"curves": curves, "train_images": 100}
    assert [images_until(record, accuracy) for accuracy in (0.2, 0.3, 0.5, 0.6)] == [100, 200, 200, None]
    del curves["images"]  # as in older records
    assert images_until(record, 0.3) == 200


# Several processes, and images in memory

SHARED = replace(RECIPE, batch_size=4, total_batch=8, epochs=2)


def among_processes(out, **options):
    with started_processes("cpu") as processes:
        sets = tiny_set(), tiny_set(12, "test", seed=1)
        train(tiny_model(), *sets, SHARED, name="tiny", out=out, processes=processes, progress=False, **options)


def test_two_processes_learn_what_one_learns(tmp_path):
    together(2, among_processes, tmp_path / "two")
    among_processes(tmp_path / "one")
    two, one = (load_record(tmp_path / folder / "record.json") for folder in ("two", "one"))
    assert (two["num_processes"], one["num_processes"]) == (2, 1)
    for curve in ("train_loss", "test_loss", "test_accuracy"):
        assert two["curves"][curve] == pytest.approx(one["curves"][curve], rel=1e-5), curve


def test_one_process_goes_on_where_two_stopped(tmp_path):
    among_processes(tmp_path / "whole")
    together(2, stopped_at_once, tmp_path / "cut")
    among_processes(tmp_path / "cut", resume=True)
    whole, cut = (load_record(tmp_path / folder / "record.json") for folder in ("whole", "cut"))
    assert cut["curves"]["train_loss"] == pytest.approx(whole["curves"]["train_loss"], rel=1e-5)


def stopped_at_once(out):
    with pytest.raises(Interrupted, match="stopped after step 1 of 6"):
        among_processes(out, max_seconds=0)


def test_a_batch_that_two_processes_cannot_share_is_refused():
    two = Processes(0, 2, torch.device("cpu"))
    with pytest.raises(ValueError, match="no multiple of 2 processes times batch_size 8"):
        make_batches(tiny_set(), tiny_set(12), RECIPE, tiny_model(), two)


def test_accumulated_batches_are_those_of_one_step():
    whole = replace(RECIPE, batch_size=8, mixup=0, cutmix=0, erase=0, rand_augment=0, crop_padding=0, flip=0)
    shares = [
        make_batches(tiny_set(), tiny_set(12), recipe, tiny_model()).sampler
        for recipe in (whole, replace(whole, batch_size=4, total_batch=8))
    ]
    assert shares[0].images(1, 0).tolist() == [*shares[1].images(1, 0).tolist(), *shares[1].images(1, 1).tolist()]
