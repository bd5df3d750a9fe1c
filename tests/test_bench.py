import functools
import math
import multiprocessing
import os
import pickle
import sys

import pytest
import torch
from torch import nn
from torch.func import functional_call

from deepvit_edu import bench
from deepvit_edu.bench import Shape, layers, loading, models, run_benchmark, whole_models
from deepvit_edu.bench.layers import FAST, LEGIBLE, OTHER, PLAIN, rows_of, saved_bytes, timed_layers
from deepvit_edu.cli import main
from deepvit_edu.data import draw_shapes
from deepvit_edu.nn.paths import fast_path_allowed
from deepvit_edu.records import load_measurement

TINY = Shape(2, 5, 16, 4)


def test_every_layer_is_timed_at_every_shape_in_both_modes():
    shapes = (TINY, Shape(1, 9, 8, 2))
    rows = run_benchmark(shapes, rounds=3, progress=False)
    found = [(row["tokens"], row["mode"], row["layer"], row["path"]) for row in rows]
    assert len(set(found)) == len(found)
    assert {path for *_, path in found} >= {FAST, LEGIBLE, PLAIN}
    for row in rows:
        assert row["milliseconds_q1"] <= row["milliseconds"] <= row["milliseconds_q3"]
        assert row["rounds"] == 3
        assert math.isfinite(row["speedup"])
        assert (row["saved_mib"] is None) == (row["mode"] == "eval")
        if row["path"] == LEGIBLE:
            assert row["speedup"] == 1


def test_a_speed_up_is_a_ratio_inside_a_round():
    arms = [arm for arm in timed_layers(TINY, training=False) if arm.layer.__class__.__name__ == "ReAttention"]
    seconds = {LEGIBLE: [2.0, 20.0, 6.0], FAST: [1.0, 5.0, 2.0]}
    rows = list(rows_of(TINY, "eval", arms, [seconds[arm.path] for arm in arms]))
    fast = next(row for row in rows if row["path"] == FAST)
    assert fast["speedup"] == 3  # the median of 2, 4 and 3, and not the ratio of the medians, 6 / 2
    assert fast["milliseconds"] == 2000


def test_memory_kept_counts_maps_but_no_weights():
    arms = {arm.path: arm for arm in timed_layers(Shape(1, 64, 16, 4), True) if arm.family == "re-attention"}
    one_map = 4 * 64 * 64 * 4
    assert saved_bytes(arms[PLAIN]) < one_map
    assert one_map < saved_bytes(arms[FAST]) < 2 * one_map
    assert saved_bytes(arms[LEGIBLE]) > 3 * one_map


def test_the_other_library_is_left_out_where_it_is_missing(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "vit_pytorch.deepvit", None)
    monkeypatch.setattr(layers, "SHAPES", (TINY,))
    assert main(["bench", "--quick"]) == 0
    printed = capsys.readouterr().out
    assert "vit-pytorch is not installed, so its layer is left out" in printed
    assert f"  {OTHER}  " not in printed


def test_the_command_prints_a_table_and_writes_a_measurement(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("MALLOC_TOP_PAD_", "1000")
    monkeypatch.setattr(layers, "SHAPES", (TINY,))
    path, before = tmp_path / "speed.json", torch.get_num_threads()
    assert main(["bench", "--quick", "--threads", "1", "--out", str(path)]) == 0
    assert torch.get_num_threads() == before
    printed = capsys.readouterr().out
    assert "2×5×16, 4 heads" in printed
    assert "allocator MALLOC_TOP_PAD_=1000" in printed
    measurement = load_measurement(path)
    assert measurement["kind"] == "speed"
    assert measurement["allocator"] == "MALLOC_TOP_PAD_=1000"
    assert measurement["threads"] == 1
    assert {row["layer"] for row in measurement["rows"]} == {"re-attention", "refiner, released code", "refiner, paper"}


@pytest.mark.parametrize("threads", ["0", "-1"])
def test_too_few_threads_are_refused(threads, capsys):
    assert main(["bench", "--quick", "--threads", threads]) == 1
    assert f"threads is {threads}; it must be at least 1" in capsys.readouterr().err


def test_layers_are_not_timed_elsewhere_than_asked_for(capsys):
    assert main(["bench", "--quick", "--device", "cuda"]) == 1
    assert "layers are timed on the CPU" in capsys.readouterr().err


def test_both_ways_to_batches_give_the_same_normalised_images():
    images = draw_shapes("train", count=8, img_size=32)
    ours = torch.cat(list(loading.our_batches(images, batch_size=3, padding=0)))
    theirs = torch.stack([image for image, _ in loading._AsTorchvision(images, padding=0)])
    both = torch.cat([theirs, theirs.flip(-1)])  # each image may be mirrored
    assert len(ours) == 8
    for image in ours:
        assert (both - image).abs().amax(dim=(1, 2, 3)).min() < 1e-5


def test_loading_is_timed_in_turns_and_recorded(tmp_path, capsys, monkeypatch):
    small = functools.partial(bench.time_loading, count=64, batch_size=16, workers=0)
    monkeypatch.setattr(bench, "time_loading", small)
    path = tmp_path / "loading.json"
    assert main(["bench", "data", "--quick", "--out", str(path)]) == 0
    slow, quick = load_measurement(path)["rows"]
    assert slow["speedup"] == 1
    assert quick["speedup"] > 1
    assert "torchvision DataLoader, 0 workers" in capsys.readouterr().out


TINY_LOAD = models.Load(depth=2, embed_dim=16, patch_size=8, batch_size=4, steps=2)


def test_stacked_models_learn_what_each_would_alone():
    torch.manual_seed(0)
    singles = [models.Single(TINY_LOAD.model("cpu")) for _ in range(3)]
    stack = models.Stack([single.model for single in singles])
    batch = TINY_LOAD.batch("cpu")
    for trained in (*singles, stack):
        for _ in range(2):
            trained.step(*batch)
    # Their outputs and not their weights: a key's bias has no gradient but rounding, which AdamW blows up.
    for index, single in enumerate(singles):
        weights = {name: weight[index] for name, weight in stack.weights.items()}
        outputs = functional_call(single.model, weights, batch[0])
        torch.testing.assert_close(outputs, single.model(batch[0]), rtol=1e-4, atol=1e-5)


def test_ways_to_train_several_models_are_timed_in_turns_and_recorded(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(models, "ON_CPU", TINY_LOAD)
    path = tmp_path / "models.json"
    assert main(["bench", "models", "--quick", "--models", "1", "--out", str(path)]) == 0
    assert [row["way"] for row in load_measurement(path)["rows"]] == [models.IN_TURN, models.STACKED, models.BESIDE]
    assert all(row["images_per_second_q1"] > 0 for row in load_measurement(path)["rows"])
    assert "processes side by side" in capsys.readouterr().out


def test_a_process_that_died_is_told():
    ours, theirs = multiprocessing.Pipe()
    theirs.close()
    with pytest.raises(OSError, match="a process ended before its steps did"):
        models._tell_all([ours])


def test_no_models_are_refused(capsys):
    assert main(["bench", "models", "--models", "0"]) == 1
    assert "--models is 0; it must be at least 1" in capsys.readouterr().err


SMALL = {"img_size": 224, "patch_size": 56, "depth": 1, "num_classes": 10}


def small_group(**cases):
    return whole_models.Group("small", "code", cases)


def small(**overrides):
    return whole_models.ours("cifar_vit_4x64", **{**SMALL, **overrides})


def test_whole_models_are_timed_in_both_modes_and_compared_with_the_first():
    group = small_group(plain=small(), dense=small(dense_head=True))
    rows = bench.time_whole_models(2, rounds=2, groups=(group,), quiet=True)
    assert [(row["case"], row["mode"]) for row in rows] == [
        ("plain", "eval"),
        ("dense", "eval"),
        ("plain", "train"),
        ("dense", "train"),
    ]
    for row in rows:
        assert row["images_per_second_q1"] <= row["images_per_second"] <= row["images_per_second_q3"]
        assert (row["speedup"] == 1) == (row["case"] == "plain")
        assert row["peak_mib"] > row["image_mib"]
    assert rows[1]["num_parameters"] - rows[0]["num_parameters"] == 64 * 10 + 10


def test_memory_of_an_image_is_measured_without_weights_and_libraries():
    heavy = small(depth=4, patch_size=7, attention=("re",))  # 1,024 tokens: every map takes 16 MiB
    memory = whole_models._in_own_process(heavy, training=True, batch_size=3, device="cpu")
    assert 4 * 16 < memory["image_mib"] < 30 * 16
    assert memory["peak_mib"] > 100  # the libraries alone take more


def test_a_process_that_ends_while_its_memory_is_measured_is_told():
    deadly = whole_models.Case(functools.partial(os._exit, 1))
    with pytest.raises(OSError, match="a process ended before its step did, perhaps for lack of memory"):
        whole_models._in_own_process(deadly, training=False, batch_size=2, device="cpu")


def test_plain_arithmetic_takes_no_fast_path():
    seen = []

    class Spy(nn.Module):
        def forward(self, images):
            seen.append(fast_path_allowed())
            return images.flatten(1)[:, :2]

    for legible in (True, False):
        whole_models.Case(Spy, legible).run(Spy().eval(), torch.zeros(2, 3, 4, 4))
    assert seen == [False, True]


def test_a_step_of_training_has_gradients_of_both_heads():
    case = small(dense_head=True)
    model = case.new(True, torch.device("cpu"))
    case.run(model, torch.randn(2, 3, 224, 224))
    assert min(head.weight.grad.norm() for head in (model.head, model.dense_head)) > 0


def test_every_case_can_be_sent_to_another_process_and_the_names_are_as_promised():
    for group in whole_models.GROUPS:
        assert pickle.loads(pickle.dumps(group)).cases.keys() == group.cases.keys()
        first = next(iter(group.cases))
        assert (first == LEGIBLE) == (group.about == "code")


def test_models_that_are_compared_by_code_have_as_many_parameters():
    with torch.device("meta"):
        for group in whole_models.GROUPS:
            if group.about == "code":
                ours = sum(p.numel() for p in group.cases[whole_models.OURS].build().parameters())
                theirs = group.cases.get(whole_models.TIMM)
                assert theirs is None or ours == sum(p.numel() for p in theirs.build().parameters())


def test_whole_models_are_recorded_and_a_missing_library_is_named(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "vit_pytorch", None)
    group = small_group(plain=small(), **whole_models.other("vit", "ViT"))
    monkeypatch.setattr(whole_models, "GROUPS", (group,))
    path = tmp_path / "whole.json"
    assert main(["bench", "whole-models", "--quick", "--batch-size", "2", "--out", str(path)]) == 0
    assert "not installed, so left out: vit-pytorch; pip install vit-pytorch" in capsys.readouterr().out
    measurement = load_measurement(path)
    assert {row["case"] for row in measurement["rows"]} == {"plain"}
    assert measurement["command"].endswith("bench whole-models --quick --threads 1 --device cpu --batch-size 2")
    assert measurement["load"] >= 0


def test_a_single_image_is_refused(capsys):
    assert main(["bench", "whole-models", "--batch-size", "1"]) == 1
    assert "--batch-size" in capsys.readouterr().err
