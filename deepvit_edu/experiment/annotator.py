"""Label maps for a plan's annotated arms: its annotator is trained once, and all of them learn from its scores."""

from functools import partial
from pathlib import Path
from shutil import rmtree

import torch

from ..data import ImageSet
from ..labels import load_label_maps, make_label_maps, save_label_maps, tensor_hash, token_scores
from ..nn.model import VisionTransformer
from ..records import load_record, save_record
from ..training import train
from .plan import ANNOTATOR, Job, Plan, arm_config, arm_model, arm_recipe
from .results import check_declared


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
        device, progress, max_seconds: as for `train`.

    Raises:
        Interrupted: when stopped; the same call continues.
        ValueError: when the label maps or the record that are there belong to other images, another declaration, or
            an annotator that was trained elsewhere.
    """
    path, job = label_maps_path(plan, folder), Job(ANNOTATOR, plan.seeds[0])
    record_path = path.with_name(f"{ANNOTATOR}.json")
    earlier = load_record(record_path) if record_path.exists() else None
    if earlier:
        check_declared(plan, job, earlier, record_path, folder)
    if earlier and path.exists():
        load_label_maps(path, train_set)
        return
    workspace = path.parent / ".unfinished" / job.name
    name = arm_model(plan, ANNOTATOR)["name"]
    torch.manual_seed(job.seed)
    model = VisionTransformer(arm_config(plan, ANNOTATOR, train_set.num_classes))
    record = train(
        model, train_set, test_set, arm_recipe(plan, job, None), name=name, out=workspace, resume=True,
        device=device, progress=progress, max_seconds=max_seconds,
    )  # fmt: skip
    label_maps = make_label_maps(partial(token_scores, model), train_set.to(torch.device(device)))
    record["plan"] = {"name": plan.name, "section": plan.section, "arm": ANNOTATOR, "tuning": False}
    record["label_maps_hash"] = tensor_hash(label_maps)
    if earlier and earlier["label_maps_hash"] != record["label_maps_hash"]:
        raise ValueError(
            f"{record_path} describes other label maps than those made here; keep these runs in another --folder"
        )
    if not earlier:
        save_record(record, record_path)
    save_label_maps(label_maps, path, train_set)  # last: where they are, the record is
    rmtree(workspace, ignore_errors=True)
