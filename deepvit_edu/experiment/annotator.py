"""Label maps for a plan's annotated arms: its annotator is trained once, and all of them learn from its scores."""

from functools import partial
from pathlib import Path
from shutil import rmtree

import torch

from ..data import ImageSet
from ..labels import load_label_maps, make_label_maps, save_label_maps, token_scores
from ..nn.transformer import VisionTransformer
from ..records import save_record
from ..train import train
from .plan import ANNOTATOR, Job, Plan, arm_config, arm_recipe


def label_maps_path(plan: Plan, folder: Path) -> Path:
    """Where a plan's label maps are kept; they are large, and git ignores them."""
    return folder / plan.name / plan.section / "label_maps.safetensors"


def ensure_label_maps(
    plan: Plan,
    folder: Path,
    train_set: ImageSet,
    test_set: ImageSet,
    *,
    device: str,
    progress: bool = True,
    max_seconds: float | None = None,
) -> None:
    """Trains the plan's annotator and writes its label maps and its record, unless the maps are there.

    Args:
        plan: one with an annotator.
        folder: where records are kept; the annotator's is `PLAN/SECTION/annotator.json` below it.
        train_set: the images to learn from, and then to annotate.
        test_set: images to measure the annotator on.
        device, progress, max_seconds: as of `train`.

    Raises:
        Interrupted: when stopped; the same call continues.
        ValueError: when the label maps that are there belong to other images.
    """
    path = label_maps_path(plan, folder)
    if path.exists():
        load_label_maps(path, train_set)
        return
    job = Job(ANNOTATOR, plan.seeds[0])
    workspace = path.parent / ".unfinished" / job.name
    torch.manual_seed(job.seed)
    model = VisionTransformer(arm_config(plan, ANNOTATOR, train_set.num_classes))
    record = train(
        model, train_set, test_set, arm_recipe(plan, job, None), name=plan.model["name"], out=workspace, resume=True,
        device=device, progress=progress, max_seconds=max_seconds,
    )  # fmt: skip
    save_label_maps(make_label_maps(partial(token_scores, model), train_set.to(torch.device(device))), path, train_set)
    record["plan"] = {"name": plan.name, "section": plan.section, "arm": ANNOTATOR, "tuning": False}
    save_record(record, path.with_name(f"{ANNOTATOR}.json"))
    rmtree(workspace, ignore_errors=True)
