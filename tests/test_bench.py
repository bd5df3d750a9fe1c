import functools
import math
import multiprocessing
import sys

import pytest
import torch
from torch.func import functional_call

from deepvit_edu import bench
from deepvit_edu.bench import Shape, layers, loading, models, run_benchmark
from deepvit_edu.bench.layers import FAST, LEGIBLE, OTHER, PLAIN, rows_of, saved_bytes, timed_layers
from deepvit_edu.cli import main
from deepvit_edu.data import draw_shapes
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
    assert "give at least 1" in capsys.readouterr().err
