"""The commands of the page and of the Slurm script: each is understood, and runs on small data."""

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from torch.distributed.run import get_args_parser

from deepvit_edu import cli
from deepvit_edu.checkpoints import save_model, to_official
from deepvit_edu.records import load_record
from deepvit_edu.training.commands import setup_of
from deepvit_edu.zoo import create_model
from tests.training.helpers import (
    CLASSES,
    SMALL,
    flags,
    make_imagenet,
    make_label_maps,
    run_files,
    small_setup,
    together,
)  # fmt: skip
from tools.contents import ROOT

PAGE = ROOT / "book" / "appendix" / "imagenet.md"
SCRIPT = ROOT / "tools" / "measure" / "slurm_imagenet.sh"
LONG = pytest.mark.skipif(not os.environ.get("DEEPVIT_EDU_SMOKE"), reason="part of `make imagenet-smoke`")
# As the tests' conftest takes the variable away, it is read when the tests are collected.
PHOTOS = os.environ.get("DEEPVIT_EDU_DATA", "")


def page_commands() -> list[str]:
    """The page's commands for the shell, one a line, lines that go on joined."""
    blocks = re.findall(r"^```bash\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    lines = "".join(blocks).replace("\\\n", " ").splitlines()
    return [" ".join(line.split()) for line in lines if line.strip() and not line.startswith("#")]


def arguments_of(command: str) -> list[str]:
    """The arguments of `python -m deepvit_edu …` or `torchrun … -m deepvit_edu …`."""
    words = shlex.split(command)
    if words[0] == "torchrun":
        options = get_args_parser().parse_args(words[1:])
        assert options.module
        assert options.training_script == "deepvit_edu"
        return options.training_script_args
    assert words[:3] == ["python", "-m", "deepvit_edu"]
    return words[3:]


def test_page_has_commands_for_training_and_evaluation():
    named = " ".join(page_commands())
    for word in ("torchrun", "deepvit_edu train", "deepvit_edu evaluate", "sbatch", "--resume"):
        assert word in named


def test_an_error_that_nobody_expected_ends_the_process(tmp_path):
    root = make_imagenet(tmp_path / "imagenet")
    script = f"""
from deepvit_edu.training import Run
from tests.training.helpers import run_files, small_setup
from pathlib import Path
def fail(self):
    self._next_batch()
    raise RuntimeError("as the network might")
Run.train_step = fail
run_files(Path({str(root)!r}), Path({str(tmp_path / "out")!r}), small_setup(), settings=dict(workers=1))
"""
    ended = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert ended.returncode == 1
    assert "as the network might" in ended.stderr


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["--look-every", "-1"], "look_every is -1"),
        (["--stop-after", "-1"], "stop_after is -1; it must be at least 0"),
        (["--precision", "bf16"], "precision is 'bf16'; choose auto"),
        (["--model-options", "num_classes"], "'num_classes' sets nothing; write it as option=value"),
        (["--out", __file__, *flags(**SMALL)], "is a file; name a folder"),
        (["--model-options", "num_classes=3", "--device", "meta"], "device 'meta' cannot be used here"),
    ],
)
def test_options_out_of_range_are_told(tmp_path, capsys, changes, message):
    root = make_imagenet(tmp_path / "imagenet")
    command = ["--recipe", "t2t_vit_14", "--data", str(root), "--out", str(tmp_path / "out"), *changes]
    assert cli.main(["train", *command]) == 1
    assert message in capsys.readouterr().err


@pytest.fixture
def small_world(tmp_path, monkeypatch):
    """The folders that the page names, small, below the folder in which its commands then run."""
    root = make_imagenet(tmp_path / "imagenet")
    make_imagenet(tmp_path / "four_classes")
    make_label_maps(tmp_path / "label_maps", root)
    torch.manual_seed(0)
    for name, options in (("t2t_vit_14", {}), ("deepvit_l", {})):
        model = create_model(name, num_classes=3, img_size=32, depth=2, **options)
        weights = to_official(model.state_dict(), name, num_classes=3, img_size=32, depth=2)
        file = {"t2t_vit_14": "81.5_T2T_ViT_14.pth.tar", "deepvit_l": "DViT_83_32b.pth.tar"}[name]
        torch.save({"state_dict_ema": weights}, tmp_path / file)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def small(arguments: list[str]) -> list[str]:
    """The arguments with the page's paths made relative, and what makes a run small."""
    return [re.sub(r"^/data/", "", argument) for argument in arguments] + ["--workers", "0", "--device", "cpu"]


@pytest.mark.parametrize("command", [c for c in page_commands() if "deepvit_edu train" in c])
def test_training_commands_of_the_page_run(small_world, command):
    arguments = arguments_of(command)
    setup_of(cli.build_parser().parse_args(arguments))  # as it stands
    changes = {**SMALL, "epochs": 1, "cooldown_epochs": 0, "compile": False, "sync_batchnorm": False}
    if "--teacher" in arguments:  # a released file, whose sizes are those of its name
        changes |= {"model_options": {}, "frozen_epochs": 0}
        teacher = create_model("dynamicvit_deit_s", selection="none", num_classes=3, img_size=32)
        weights = to_official(teacher.state_dict(), "dynamicvit_deit_s", selection="none", num_classes=3, img_size=32)
        torch.save({"model": weights}, small_world / arguments[arguments.index("--teacher") + 1])
    assert cli.main([*small(arguments), *flags(**changes)]) == 0


@pytest.mark.parametrize("command", [c for c in page_commands() if "deepvit_edu evaluate" in c])
def test_evaluation_commands_of_the_page_run(small_world, command):
    arguments = arguments_of(command)
    options = cli.build_parser().parse_args(arguments)
    sizes = ["--model-options", "num_classes=3", "img_size=32", "depth=2"] if options.model else []
    if not options.model:
        about = {"name": "t2t_vit_7", "dataset": "imagenet", "classes": list(CLASSES), "images_from": "files"}
        about |= {"mean": [0.5] * 3, "std": [0.5] * 3}
        (small_world / options.path).mkdir(parents=True)
        model = create_model("t2t_vit_7", num_classes=3, img_size=32)
        save_model(model, small_world / options.path / "model.safetensors", **about)
    assert cli.main([*small(arguments), *sizes]) == 0


def run_script(tmp_path: Path, srun: str) -> tuple[subprocess.Popen, Path]:
    """The Slurm script started with stand-ins for Slurm's programs, which write down how they are called."""
    programs, log = tmp_path / "bin", tmp_path / "log"
    programs.mkdir()
    log.touch()
    record = f'echo "$(basename "$0") $*" >> {log}\n'
    for name, rest in (("srun", srun), ("scancel", ""), ("scontrol", "echo machine1; echo machine2")):
        (programs / name).write_text(f"#!/bin/bash\n{record}{rest}\n")
        (programs / name).chmod(0o755)
    slurm = {"SLURM_JOB_ID": "7", "SLURM_JOB_NODELIST": "machine[1-2]", "SLURM_NNODES": "2", "SLURM_GPUS_ON_NODE": "8"}
    slurm["SLURM_CPUS_PER_TASK"] = "64"
    environment = {**os.environ, **slurm, "PATH": f"{programs}:{os.environ['PATH']}"}
    command = ["bash", str(SCRIPT), "deepvit_32b", "/data/imagenet", str(tmp_path / "out"), "--keep", "5"]
    return subprocess.Popen(command, env=environment, start_new_session=True), log


def test_slurm_script_calls_what_there_is(tmp_path):
    process, log = run_script(tmp_path, "exit 3")
    assert process.wait(60) == 3  # a failure is no reason to queue again
    called = log.read_text()
    assert "requeue" not in called
    words = shlex.split(next(line for line in called.splitlines() if line.startswith("srun")))
    launched = get_args_parser().parse_args(words[words.index("torch.distributed.run") + 1 :])
    assert (launched.nnodes, launched.nproc_per_node, launched.rdzv_endpoint) == ("2", "8", "machine1:20007")
    assert launched.training_script == "deepvit_edu"
    options = cli.build_parser().parse_args(launched.training_script_args)
    assert (options.recipe, options.data, options.resume, options.keep) == ("deepvit_32b", "/data/imagenet", True, 5)


def test_slurm_command_of_the_page_shares_out_its_batch():
    (command,) = (command for command in page_commands() if command.startswith("sbatch"))
    words = shlex.split(command)
    nodes, script = int(words[1].removeprefix("--nodes=")), words.index("tools/measure/slurm_imagenet.sh")
    recipe, data, out, *more = words[script + 1 :]
    options = cli.build_parser().parse_args(["train", "--recipe", recipe, "--data", data, "--out", out, *more])
    gpus = int(re.search(r"--gpus-per-node=(\d+)", SCRIPT.read_text())[1])
    assert setup_of(options).recipe.accumulation(nodes * gpus) >= 1


def test_slurm_script_queues_again_when_its_time_is_up(tmp_path):
    process, log = run_script(tmp_path, f"touch {tmp_path / 'ready'}; sleep 2; exit 1")
    wait_for(lambda: (tmp_path / "ready").exists())
    process.send_signal(signal.SIGTERM)
    process.wait(60)
    called = [line for line in log.read_text().splitlines() if line.startswith(("scancel", "scontrol requeue"))]
    assert called == ["scancel --signal=TERM 7", "scontrol requeue 7"]


def wait_for(condition, seconds=600.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.1)


def torchrun(out: Path, root: Path, *more: str) -> list[str]:
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    options = ["--recipe", "t2t_vit_14", "--data", str(root), "--out", str(out), "--workers", "1", "--device", "cpu"]
    return [*launch, "-m", "deepvit_edu", "train", *options, "--look-every", "1", *more, *flags(**SMALL)]


def whole_run(root: Path, out: Path) -> None:
    run_files(root, out, small_setup("t2t_vit_14"))


@LONG
@pytest.mark.timeout(1500)
def test_torchrun_told_to_stop_and_started_again_is_as_never_stopped(tmp_path):
    root = make_imagenet(tmp_path / "imagenet", train=80)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    cut = tmp_path / "cut"
    with subprocess.Popen(torchrun(cut, root, "--save-minutes", "0"), env=environment) as process:
        try:
            wait_for(lambda: any(cut.glob("checkpoint-*.pt")))
            process.terminate()  # torchrun tells all of its processes, those that read images too
            assert process.wait(120) != 0
        finally:
            process.kill()
    assert not (cut / "record.json").exists()
    subprocess.run(torchrun(cut, root, "--resume"), env=environment, check=True)
    together(2, whole_run, root, tmp_path / "whole")
    one, other = (load_record(folder / "record.json")["curves"] for folder in (tmp_path / "whole", cut))
    assert {**one, "seconds": None} == {**other, "seconds": None}


@LONG
@pytest.mark.timeout(500)
def test_torchrun_starts_again_when_a_process_is_killed(tmp_path):
    root, out = make_imagenet(tmp_path / "imagenet", train=80), tmp_path / "out"
    settings_of_script = dict(re.findall(r"^export (\w+)=(\w+)", SCRIPT.read_text(), re.MULTILINE))
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), **settings_of_script}
    command = torchrun(out, root, "--save-minutes", "0", "--resume")
    command.insert(command.index("--nproc-per-node=2"), "--max-restarts=3")
    with subprocess.Popen(command, env=environment) as process:
        try:
            wait_for(lambda: any(out.glob("checkpoint-*.pt")))
            children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
            os.kill(int(children[-1]), signal.SIGKILL)
            assert process.wait(240) == 0
        finally:
            process.kill()
    assert load_record(out / "record.json")["num_processes"] == 2


@LONG
@pytest.mark.timeout(500)
@pytest.mark.skipif(not (shutil.which("g++") or shutil.which("clang++")), reason="torch.compile needs a C++ compiler")
def test_a_compiled_run_learns_what_an_eager_one_does(tmp_path):
    root = make_imagenet(tmp_path / "imagenet")
    losses = []
    for compiles in (True, False):
        setup = small_setup("refiner_vit_s", compile=compiles, epochs=1, cooldown_epochs=0)
        losses.append(run_files(root, tmp_path / str(compiles), setup)["train_loss"])
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


@LONG
@pytest.mark.timeout(500)
@pytest.mark.parametrize("name", ["deepvit_32b", "t2t_vit_14", "refiner_vit_s"])
@pytest.mark.parametrize("data", ["tiny-imagenet-50", "imagenet-sample-100"])
def test_recipes_run_on_real_photographs(tmp_path, name, data):
    folder = Path(PHOTOS or "nowhere") / data
    if not folder.is_dir():
        pytest.skip(f"DEEPVIT_EDU_DATA names no folder with {data} in it")
    root = tmp_path / "root"
    root.mkdir()
    for split in ("train", "val"):  # the sample has one photograph a class, and only validation ones
        (root / split).symlink_to(folder / split if (folder / split).is_dir() else folder / "val")
    classes = len(list((root / "train").iterdir()))
    changes = {"img_size": 64, "total_batch": 32, "batch_size": 16}
    changes["model_options"] = {"num_classes": classes, "depth": 2}
    options = ["--recipe", name, "--data", str(root), "--out", str(tmp_path / "out"), "--workers", "1"]
    assert cli.main(["train", *options, "--device", "cpu", "--stop-after", "3", *flags(**changes)]) == 0
    assert len(list((tmp_path / "out").glob("checkpoint-*"))) == 1
