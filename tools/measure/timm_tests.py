"""Run timm's own tests of models on ours: python -m tools.measure.timm_tests [MODEL …]

They come with timm's source distribution, of the version that is installed, which pip fetches (a few MB). What does not
apply is named below with its reason, and is not counted.
"""

import argparse
import importlib.util
import subprocess
import sys
import tarfile
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from fnmatch import fnmatch
from importlib.metadata import version
from pathlib import Path
from types import ModuleType

import torch

import deepvit_edu  # noqa: F401  timm knows the names from here on

MODELS = (
    *("vit_12b", "deepvit_s", "t2t_vit_7", "refiner_vit_s", "lvvit_t", "cifar_vit_4x64"),
    *("dynamicvit_deit_ti", "evo_deit_ti"),
)
"""One of each family."""
TESTS: dict[str, dict] = {
    "test_model_forward": {"batch_size": 1},
    "test_model_backward": {"batch_size": 2},
    "test_model_default_cfgs_non_std": {"batch_size": 1},
    "test_model_forward_intermediates": {"batch_size": 1},
    "test_model_forward_intermediates_features": {"batch_size": 1},
    "test_prune_intermediate_layers_contract": {},
    "test_model_forward_fx": {"batch_size": 1},
    "test_model_backward_fx": {"batch_size": 2},
}
LEFT_OUT = {
    "test_model_forward_torchscript": "scripting would cost the models their legibility; tracing and export work",
    "test_model_load_pretrained": "timm has no weights of ours to download",
}
HOLES = "tokens that were dropped leave holes in the grids of features"
NOT_FOR = (
    ("t2t_vit_*", "test_model_backward*", "positions are a parameter without a gradient, as in the authors' files"),
    ("evo_*", "test_model_backward*", "the second head is for training by `class_logits`, which timm does not call"),
    ("dynamicvit_*", "*intermediate*", HOLES),
    ("evo_*", "*intermediate*", HOLES),
)
"""Families, tests of `TESTS` that do not apply to them, and why."""


def fetch_tests(folder: Path) -> ModuleType:
    """timm's `tests/test_models.py`, of the version that is installed.

    Raises:
        OSError: when pip cannot fetch the source distribution.
    """
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", "timm"]
    done = subprocess.run([*command, "-d", folder, f"timm=={version('timm')}"], capture_output=True, text=True)
    archives = list(folder.glob("timm-*.tar.gz"))
    if not archives:
        raise OSError(f"pip cannot fetch timm's source distribution: {done.stderr.strip()[-300:]}")
    return load_tests(archives[0], folder)


def load_tests(archive: Path, folder: Path) -> ModuleType:
    """The tests of models in a source distribution, unpacked into a folder and imported."""
    with tarfile.open(archive) as file:
        file.extractall(folder, filter="data")
    path = next(folder.glob("timm-*/tests/test_models.py"))
    spec = importlib.util.spec_from_file_location("timm_test_models", path)
    module = importlib.util.module_from_spec(spec)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        spec.loader.exec_module(module)
    return module


def run_tests(module: ModuleType, models: Sequence[str]) -> Iterator[tuple[str, str, str]]:
    """Model, test, and "passed", "left out: why" or how it failed."""
    for model in models:
        for name, options in TESTS.items():
            if why := reason(model, name):
                yield model, name, f"left out: {why}"
                continue
            devices = ("cpu", "meta") if "default_cfgs" in name else (None,)
            for device in devices:
                how = options if device is None else {**options, "cfg_device": device}
                yield model, name, outcome(getattr(module, name), model, how)


def reason(model: str, test: str) -> str:
    """Why a test does not apply to a model; empty where it does."""
    return next((why for family, tests, why in NOT_FOR if fnmatch(model, family) and fnmatch(test, tests)), "")


def outcome(test: Callable, model: str, options: dict) -> str:
    """Whether one test passes on one model."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            test(model, **options)
    except Exception as error:
        return f"{type(error).__name__}: {' '.join(str(error).split())[:120]}"
    return "passed"


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints a line a test; 1 where one fails."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", default=list(MODELS), metavar="MODEL")
    parser.add_argument("--archive", type=Path, metavar="FILE", help="timm's source distribution; fetched unless given")
    options = parser.parse_args(arguments)
    torch.manual_seed(0)
    results = []
    with tempfile.TemporaryDirectory() as folder:
        module = load_tests(options.archive, Path(folder)) if options.archive else fetch_tests(Path(folder))
        for model, name, told in run_tests(module, options.models):
            print(f"{model:16} {name:45} {told}", flush=True)
            results.append(told)
    passed, left_out = (sum(told.startswith(how) for told in results) for how in ("passed", "left out"))
    print(f"timm {version('timm')}: {passed} passed, {len(results) - passed - left_out} failed, {left_out} left out")
    print("\n".join(f"{name} does not apply: {why}" for name, why in LEFT_OUT.items()))
    return int(passed + left_out < len(results))


if __name__ == "__main__":
    raise SystemExit(main())
