"""Train the models that the chapters dissect, as declared in book/experiments/specimens.yml: hours of one core.

python -m tools.measure.train_specimens [shapes|cifar10 …]   train what has no record yet; continue interrupted runs
"""

from __future__ import annotations

import argparse
import sys
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from deepvit_edu.checkpoints import load_model, save_model
from deepvit_edu.diagnostics import similarity_matrices
from deepvit_edu.experiment import load_plan
from deepvit_edu.experiment.engine import paired_model, run_job, splits
from deepvit_edu.experiment.measure import measure_model
from deepvit_edu.experiment.plan import Job, arm_recipe
from deepvit_edu.experiment.results import record_path, weights_path
from deepvit_edu.files import atomic_path
from deepvit_edu.specimens import DATA, REMEDIES
from tools.contents import ROOT

PLAN = ROOT / "book" / "experiments" / "specimens.yml"
PROBE_IMAGES = 64
SEED = 0


class SimilarityTrace:
    """Records the similarity of a model's maps at each call; kept in a file, so that an interrupted run keeps it."""

    def __init__(self, images: torch.Tensor, path: Path) -> None:
        self.images, self.path = images, path
        self.matrices = load_file(path) if path.exists() else {}

    def __call__(self, model: torch.nn.Module) -> None:
        """Measures the model, and writes all measures so far."""
        was_training = model.training
        model.eval()
        for key, centre in (("raw", None), ("row", "row")):
            layers, others = similarity_matrices(model, self.images, centre=centre, which="used")
            self._append(key, layers)
            self._append(f"images_{key}", others)
        with atomic_path(self.path) as temporary:
            save_file(self.matrices, temporary)
        model.train(was_training)

    def _append(self, key: str, matrix: torch.Tensor) -> None:
        earlier = self.matrices.get(key, torch.empty(0, *matrix.shape, dtype=torch.half))
        self.matrices[key] = torch.cat([earlier, matrix[None].half()])


def train_specimen(data_name: str, remedy: str) -> str:
    """Trains one specimen; writes its weights (half precision), its similarities by epoch and its record."""
    torch.set_num_threads(1)
    plan, job = load_plan(PLAN, data_name), Job(remedy, SEED)
    records = ROOT / "book" / "records"
    path = record_path(plan, job, records)
    if path.exists():
        return f"{data_name} {remedy}: has a record"
    train_set, test_set = splits(plan, remedy)
    order = torch.randperm(len(test_set), generator=torch.Generator().manual_seed(0))
    probe = test_set.subset(order[:PROBE_IMAGES])
    trace = SimilarityTrace(
        probe.normalise(probe.images), ROOT / "runs" / "specimens" / f"{remedy}_{data_name}_similarity.safetensors"
    )
    if not trace.matrices:
        trace(paired_model(plan, remedy, SEED, train_set.num_classes))
    rate = arm_recipe(plan, job, None).learning_rate
    record = run_job(plan, job, records, "cpu", rate, measure=measure_model, after_evaluation=trace)
    model, about = load_model(weights_path(path))
    weights = ROOT / "book" / "weights" / f"{remedy}_{data_name}.safetensors"
    save_model(in_half_precision(model), weights, **about)
    save_file(trace.matrices, weights.with_name(f"{weights.stem}_similarity.safetensors"))
    return f"{data_name} {remedy}: accuracy {record['test_accuracy']:.2%}, {record['seconds']:.0f} s"


def in_half_precision(model: torch.nn.Module) -> torch.nn.Module:
    """The model with its matrices in half precision; small numbers (norms, LayerScale) keep their format."""
    for parameter in model.parameters():
        if parameter.dim() > 1:
            parameter.data = parameter.data.half()
    return model


def main() -> None:
    """Train what is missing, two models at once."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="*", help=f"of {', '.join(DATA)}; all unless given")
    chosen = parser.parse_args().data or DATA
    if unknown := set(chosen) - set(DATA):
        sys.exit(f"there are no specimens of {', '.join(sorted(unknown))}; choose of {', '.join(DATA)}")
    jobs = [(data_name, remedy) for data_name in chosen for remedy in REMEDIES]
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        for told in pool.map(train_specimen, *zip(*jobs, strict=True)):
            print(told, flush=True)


if __name__ == "__main__":
    main()
