import json
import os
import signal
import subprocess
import sys
import time

import pytest
import torch

from deepvit_edu import cli, data
from deepvit_edu.checkpoints import save_model
from deepvit_edu.cli import main
from deepvit_edu.files import only_process_in
from deepvit_edu.labels import save_label_maps
from deepvit_edu.records import load_record
from deepvit_edu.zoo import create_model

FAST = ["--limit", "64", "--batch-size", "16", "--epochs", "1", "--quiet", "--device", "cpu"]


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def failure(capsys, *arguments):
    """What a failing command says; exactly one sentence, and no traceback."""
    assert main(arguments) == 1
    said = capsys.readouterr().err
    assert said.startswith("deepvit-edu: ")
    assert said.count("\n") == 1
    return said


def test_train_evaluate_records(here, capsys):
    assert main(["train", *FAST, "--out", "run"]) == 0
    printed = capsys.readouterr().out
    record = load_record(here / "run" / "record.json")
    assert f"test accuracy {record['test_accuracy']:.2%}" in printed
    assert record["config"]["recipe"]["batch_size"] == 16
    assert main(["evaluate", "run", "--limit", "64", "--device", "cpu"]) == 0
    assert f"accuracy {record['test_accuracy']:.2%}" in capsys.readouterr().out
    assert main(["records", "run/record.json"]) == 0
    assert "cifar_vit_4x64" in capsys.readouterr().out
    assert main(["records", "run/record.json", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == [record]


def test_token_labels_from_a_file(here, capsys):
    images = data.load("shapes", "train", limit=64, img_size=32)
    save_label_maps(torch.zeros(64, 2, 1, 4, 4).half(), "maps.safetensors", images)
    options = ("--token-weight", "0.5", "--smallest-crop", "0.5", "--label-maps", "maps.safetensors", "--out", "run")
    assert main(["train", *FAST, *options]) == 0
    assert load_record("run/record.json")["config"]["model"]["dense_head"] is True
    assert "made for other images" in failure(capsys, "train", *FAST, *options, "--limit", "32", "--batch-size", "8")


def test_a_model_that_does_not_say_where_it_comes_from(here, capsys):
    save_model(create_model("cifar_vit_4x64", num_classes=10), here / "model.safetensors")
    said = failure(capsys, "evaluate", str(here / "model.safetensors"))
    assert "model.safetensors does not say its name and dataset and classes and mean and std" in said


def test_an_error_of_a_file_names_it(here, capsys):
    assert "nowhere.yml" in failure(capsys, "run", "nowhere.yml")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("train", *FAST, "--out", "file"), "file is a file; name a folder"),
        (("train", *FAST, "--out", ""), "no name of a file"),
        (("similarity", "cifar_vit_4x64", "--plot", "noext"), "noext does not end in .png"),
        (("similarity", "cifar_vit_4x64", "--plot", "folder.png"), "folder.png is a folder; name a file"),
        (("similarity", "cifar_vit_4x64", "--out", "file/x.json"), "nothing can be written below it"),
        (("bench", "--out", "x.csv"), "x.csv does not end in .json"),
    ],
)
def test_outputs_that_cannot_be_written_are_told_before_the_work(here, capsys, monkeypatch, arguments, message):
    def work(*_, **__):
        raise AssertionError("the work was begun")

    monkeypatch.setattr(cli.data, "load", work)
    monkeypatch.setattr(cli.bench, "run_benchmark", work)
    (here / "file").write_text("")
    (here / "folder.png").mkdir()
    assert message in failure(capsys, *arguments)
    assert {path.name for path in here.iterdir()} == {"file", "folder.png"}


def test_evaluate_normalises_as_the_model_was_trained(here, capsys):
    images = data.load("shapes", "train", limit=64, img_size=32)
    about = {"name": "a", "dataset": "shapes", "classes": images.classes}
    model = create_model("cifar_vit_4x64", num_classes=10)
    told = []
    for name, mean in (("a", images.mean), ("b", (0.9, 0.9, 0.9))):
        save_model(model, here / f"{name}.safetensors", **about, mean=mean, std=images.std)
        assert main(["evaluate", f"{name}.safetensors", "--limit", "50", "--device", "cpu"]) == 0
        told.append(capsys.readouterr().out.splitlines()[-1])
    assert told[0] != told[1]


def test_the_second_run_in_a_folder_is_told(here, capsys):
    with only_process_in("run"):
        assert "another process works in run" in failure(capsys, "train", *FAST, "--out", "run")


def test_messages_are_one_printable_line(here, capsys):
    said = failure(capsys, "records", "no\n\x1b[31mwhere" * 200)
    assert said.count("\n") == 1
    assert "\x1b" not in said
    assert len(said) < 1000


def test_a_second_run_into_the_folder_is_refused_and_resume_is_named(here, capsys):
    assert main(["train", *FAST, "--out", "run"]) == 0
    capsys.readouterr()
    assert "already holds a run; resume it" in failure(capsys, "train", *FAST, "--out", "run")
    assert main(["train", *FAST, "--out", "run", "--resume"]) == 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["train", "--model", "vit_16"], "did you mean 'vit_16b'"),
        (["train", "--data", "shaps"], "shapes"),
        (["train", "--img-size", "30"], "30"),
        (["train", *FAST, "--batch-size", "65"], "more than the 64 training images"),
        (["train", *FAST, "--epochs", "0"], "epochs is 0"),
        (["train", *FAST, "--label-maps", "nowhere.safetensors"], "nowhere.safetensors"),
        (["train", *FAST, "--token-weight", "0.5"], "set smallest_crop"),
        (["train", *FAST, "--device", "warp"], "device 'warp' cannot be used here"),
        (["train", *FAST, "--precision", "int3"], "precision is 'int3'"),
        (["evaluate", "nothing"], "there is no model file"),
        (["models", "vit_16"], "did you mean 'vit_16b'"),
        (["records", "nowhere"], "no record or folder of records at nowhere"),
        (["data", "no-such-set"], "no-such-set"),
    ],
)
def test_bad_input_gets_one_sentence(here, capsys, arguments, said):
    assert said in failure(capsys, *arguments)


def test_a_size_that_does_not_fit_says_which_do(here, capsys):
    assert "44 and 48 are" in failure(capsys, "train", *FAST, "--img-size", "46")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [(["trian"], "did you mean 'train'"), (["train", "--epochs", "many"], "invalid int value"), ([], "COMMAND")],
)
def test_usage_errors(capsys, arguments, said):
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "told", "untold"),
    [
        ([], ("whole models", "whole-models time whole models", "layers time attention layers"), "--batch-size"),
        (
            ["whole-models"],
            ("peak memory", "images a step (default: 8)", "(default: 1)", "[--device DEVICE]"),
            "--models",
        ),
        (["models"], ("how many at once, a thread each (default: 2)",), "--batch-size"),
        (["layers"], ("--threads N", "3 rounds instead of 15: a look, not a measurement (default: False)"), "--device"),
        (["data"], ("loading of images", "(default: cpu)"), "--models"),
    ],
)
def test_help_of_bench_tells_what_is_measured_and_only_options_that_count(capsys, words, told, untold):
    with pytest.raises(SystemExit):
        main(["bench", *words, "--help"])
    printed = " ".join(capsys.readouterr().out.split())
    for text in told:
        assert text in printed
    assert untold not in printed


def test_options_of_bench_count_before_and_after_its_kind():
    for words in (["--quick", "--threads", "3", "data"], ["data", "--quick", "--threads", "3"]):
        options = cli.build_parser().parse_args(["bench", *words])
        assert (options.what, options.quick, options.threads, options.device) == ("data", True, 3, "cpu")
    options = cli.build_parser().parse_args(["bench"])
    assert (options.what, options.quick, options.models, options.batch_size) == ("layers", False, 2, 8)


@pytest.mark.parametrize("command", ["train", "evaluate", "models", "data", "records"])
def test_help_shows_defaults(capsys, command):
    with pytest.raises(SystemExit):
        main([command, "--help"])
    printed = " ".join(capsys.readouterr().out.split())
    if command == "train":
        assert "(default: 0.001)" in printed
        assert "(default: shapes)" in printed
    assert "usage: deepvit-edu" in printed


def test_models_are_listed_and_shown(capsys):
    assert main(["models"]) == 0
    assert "24,423,784" in capsys.readouterr().out
    assert main(["models", "cifar_vit_4x64"]) == 0
    assert "embed_dim        64" in capsys.readouterr().out


def test_data_sets_are_listed_and_described(capsys):
    assert main(["data"]) == 0
    listed = capsys.readouterr().out
    assert "shapes       at hand" in listed
    assert "cifar10" in listed
    assert main(["data", "shapes"]) == 0
    assert "10 classes" in capsys.readouterr().out


@pytest.mark.slow
def test_ctrl_c_leaves_a_run_that_resumes_to_the_same_numbers(here):
    command = [sys.executable, "-m", "deepvit_edu", "train", *FAST, "--limit", "512", "--epochs", "4"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run([*command, "--out", "whole"], env=environment, check=True)
    process = subprocess.Popen([*command, "--out", "cut"], env=environment, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while not any((here / "cut").glob("checkpoint-*.pt")):  # written after the first epoch
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    said = process.communicate(timeout=60)[1]
    assert process.returncode == 130, said
    assert "stopped after step" in said
    assert "Traceback" not in said
    subprocess.run([*command, "--out", "cut", "--resume"], env=environment, check=True)
    whole, cut = (load_record(here / name / "record.json") for name in ("whole", "cut"))
    assert cut["curves"]["train_loss"] == whole["curves"]["train_loss"]
    assert cut["test_loss"] == whole["test_loss"]


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:127] . DefaultCPUAllocator: can't allocate memory: you tried to"),
        RuntimeError("Storage size calculation overflowed with sizes=[99999999999999, 3, 224, 224]"),
    ],
)
def test_too_little_memory_is_one_sentence(error, monkeypatch, capsys):
    def fail(*arguments):
        raise error

    monkeypatch.setattr(cli, "list_models", fail)
    assert main(["models"]) == 1
    assert "there is too little memory for this; choose a smaller" in capsys.readouterr().err


def test_a_fault_of_the_package_is_not_hidden(monkeypatch):
    def fail(*arguments):
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    monkeypatch.setattr(cli, "list_models", fail)
    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        main(["models"])
