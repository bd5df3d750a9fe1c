"""Runs what is missing of a plan: several at once, resumable, within a budget of time."""

import json
import math
import os
import signal
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, Future, ProcessPoolExecutor, wait
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, replace
from functools import cache
from multiprocessing import active_children, get_context
from pathlib import Path
from shutil import copyfile, rmtree

import torch
from torch import nn
from tqdm.auto import tqdm

from .. import data
from ..data import ImageSet
from ..data.image_set import balanced_choice
from ..devices import available_processors, pick_device
from ..files import atomic_path, only_process_in
from ..labels import load_label_maps
from ..nn.model import VisionTransformer
from ..nn.registry import ATTENTION_SOURCES
from ..records import Record, save_record
from ..training import Interrupted, NonFiniteLossError, train
from ..training.file_batches import read_all
from ..training.image_files import Files, find_files
from ..training.processes import Processes
from ..zoo import copy_shared_weights
from .annotator import ensure_label_maps, label_maps_path
from .plan import Job, Plan, all_jobs, arm_config, arm_data, arm_model, arm_recipe, reads_files
from .results import held_out, missing_jobs, outcome, record_path, tuned_rate, weights_path

Measure = Callable[[VisionTransformer, ImageSet], dict]
"""What to note of a trained model, given test images."""
STOPPED = "stopped"
MEASURED_IMAGES = 2000
"""Test images from files that are read for measures of maps."""

_loaded: dict[str, tuple[ImageSet | Files, ImageSet | Files]] = {}


def splits(plan: Plan, arm: str, tuning: bool = False) -> tuple[ImageSet | Files, ImageSet | Files]:
    """Training and test images; for tuning, both are parts of the training images, so the test is never looked at."""
    declared, files = arm_data(plan, arm), reads_files(plan, arm)
    img_size, fraction = arm_config(plan, arm, num_classes=2).img_size, held_out(plan)
    key = json.dumps([declared, files or img_size, plan.tuning if tuning else None], sort_keys=True)
    if key not in _loaded and tuning and data.is_drawn(declared["name"]):
        _loaded[key] = _drawn_for_tuning(plan, declared, img_size)
    if key not in _loaded:
        whole = _load(declared["name"], "train", declared.get("train_images"), None if files else img_size)
        whole, moved = _moved(whole, declared.get("moved_to_test", 0))
        if tuning:
            order = torch.randperm(len(whole), generator=torch.Generator().manual_seed(0))
            count = round(len(whole) * fraction)
            _loaded[key] = whole.subset(order[count:]), whole.subset(order[:count])
        else:
            test = _load(declared["name"], "test", declared.get("test_images"), None if files else img_size)
            _loaded[key] = whole, test if moved is None else test.joined(moved)
    return _loaded[key]


def _drawn_for_tuning(plan: Plan, declared: dict, img_size: int) -> tuple[ImageSet, ImageSet]:
    """Images to try learning rates on: drawn from other seeds than those that the plan trains and tests on."""
    train, held_out = (
        data.load(declared["name"], split, limit=limit, img_size=img_size, seed=seed)
        for split, limit, seed in (
            ("train", plan.tuning.get("train_images", declared.get("train_images")), 1),
            ("test", declared.get("test_images"), 1),
        )
    )
    return train, held_out


@cache
def _load(name: str, split: str, limit: int | None, img_size: int | None) -> ImageSet | Files:
    """A split in memory, or without an `img_size` as files; once, since it takes its time."""
    if img_size is None:
        return _find(name)[split == "test"].limited(limit)
    return data.load(name, split, limit=limit, img_size=img_size)


@cache
def _find(name: str) -> tuple[Files, Files]:
    return find_files(name, Processes(0, 1, torch.device("cpu")))


def _moved(whole: ImageSet, fraction: float) -> tuple[ImageSet, ImageSet | None]:
    """The images that remain for training, and the fixed fraction of each class that becomes test images."""
    if not fraction:
        return whole, None
    moved = torch.zeros(len(whole), dtype=torch.bool)
    moved[torch.from_numpy(balanced_choice(whole.labels.numpy(), round(len(whole) * fraction), seed=0))] = True
    return whole.subset(~moved), whole.subset(moved)


def paired_model(plan: Plan, arm: str, seed: int, num_classes: int) -> VisionTransformer:
    """An arm's model; all weights that a plain model also has start as in the plain model of the same seed."""
    config = arm_config(plan, arm, num_classes)
    torch.manual_seed(seed)
    no_remedy = {"attention": ("plain",), "attention_options": {}, "attention_start": 0}
    no_selection = {"selection": "none", "selection_before": (), "selection_options": {}}
    plain = VisionTransformer(replace(config, **no_remedy, **no_selection))
    torch.manual_seed(seed)
    return copy_shared_weights(plain, VisionTransformer(config))


def run_job(
    plan: Plan,
    job: Job,
    folder: Path,
    device: str,
    learning_rate: float,
    max_seconds: float | None = None,
    measure: Measure | None = None,
    after_evaluation: Callable[[nn.Module], object] | None = None,
    processes: Processes | None = None,
) -> Record:
    """Trains one arm with one seed and writes its record; continues where it was cut.

    Where the plan keeps weights, those of a run that counts stand at `weights_path`. `after_evaluation` is called with
    the model after each evaluation, to measure it. Among several `processes` the first one measures and writes.

    Raises:
        Interrupted: when stopped; the same call continues.
        ValueError: when records of the plan were made of other images.
    """
    train_set, test_set = splits(plan, job.arm, tuning=job.learning_rate is not None)
    _check_images(plan, job, folder, train_set)
    model = paired_model(plan, job.arm, job.seed, train_set.num_classes)
    path = record_path(plan, job, folder)
    workspace = workspace_of(plan, job, folder)
    recipe = arm_recipe(plan, job, learning_rate)
    is_first = processes is None or processes.is_first
    with only_process_in(workspace) if is_first else nullcontext():
        try:
            record = train(
                model,
                train_set,
                test_set,
                recipe,
                name=arm_model(plan, job.arm)["name"],
                out=workspace,
                resume=True,
                device=device,
                progress=False,
                max_seconds=max_seconds,
                after_epoch=after_evaluation,
                label_maps=_label_maps(plan, job.arm, folder, train_set),
                processes=processes,
            )
        except NonFiniteLossError as error:
            if not is_first:
                raise
            with atomic_path(path.with_suffix(".failed")) as temporary:
                temporary.write_text(json.dumps({"failed": str(error), "recipe": asdict(recipe)}, indent=1) + "\n")
            rmtree(workspace, ignore_errors=True)
            raise
        if not is_first:
            return record
        if sources := {name: ATTENTION_SOURCES[name] for name in model.config.attention if name in ATTENTION_SOURCES}:
            record["attention_source"] = sources
        record["plan"] = {"name": plan.name, "section": plan.section, "arm": job.arm, "tuning": bool(job.learning_rate)}
        if measure and not job.learning_rate:
            record["diagnostics"] = measure(model, _in_memory(test_set, model))
        if plan.keep_weights and not job.learning_rate:
            kept = weights_path(path)
            kept.parent.mkdir(parents=True, exist_ok=True)
            copyfile(workspace / "model.safetensors", kept)  # the workspace stays whole until there is a record
        save_record(record, path)
        rmtree(workspace, ignore_errors=True)
        return record


def _label_maps(plan: Plan, arm: str, folder: Path, train_set: ImageSet | Files) -> torch.Tensor | str | None:
    if plan.arms[arm].annotated:
        return load_label_maps(label_maps_path(plan, folder), train_set)
    return arm_data(plan, arm).get("label_maps")


def _in_memory(test_set: ImageSet | Files, model: VisionTransformer) -> ImageSet:
    """Test images to measure maps on: some of them where they are in files, which may be too many for memory."""
    if isinstance(test_set, ImageSet):
        return test_set
    return read_all(test_set.limited(MEASURED_IMAGES), model.config.img_size)


def _check_images(plan: Plan, job: Job, folder: Path, train_set: ImageSet) -> None:
    """ValueError where a record that this run will be compared with was made of other images than these."""
    tuning = job.learning_rate is not None
    others = [Job(arm, seed) for arm in plan.arms for seed in plan.seeds] if not tuning else all_jobs(plan)
    for other in others:
        comparable = (
            arm_data(plan, other.arm) == arm_data(plan, job.arm) and (other.learning_rate is not None) == tuning
        )
        record = outcome(plan, other, folder) if comparable else None
        if record and "failed" not in record and record["data_hash"] != train_set.hash():
            raise ValueError(
                f"{record_path(plan, other, folder)} was made of other images ({record['dataset']}) than these "
                f"({train_set.name}, {train_set.rung}); keep the records of these in another folder (--folder)"
            )


@dataclass
class _Worker:
    """What a process needs for any run of a plan; small, because it is sent once per run."""

    plan: Plan
    folder: Path
    device: str
    measure: Measure | None

    def __call__(self, job: Job, learning_rate: float, deadline: float) -> tuple[Job, str]:
        started = time.monotonic()
        splits(self.plan, job.arm, tuning=job.learning_rate is not None)  # time for loading is not left for training
        max_seconds = None if math.isinf(deadline) else deadline - time.monotonic()
        try:
            record = run_job(self.plan, job, self.folder, self.device, learning_rate, max_seconds, self.measure)
        except NonFiniteLossError as error:
            return job, f"failed: {error}"
        except Interrupted:
            return job, STOPPED
        text = f"accuracy {record['test_accuracy']:.2%}, train loss {record['train_loss']:.3f}"
        return job, f"{text}, {time.monotonic() - started:.0f} s"


def run_plan(
    plan: Plan,
    folder: str | Path,
    *,
    budget_seconds: float | None = None,
    device: str | None = None,
    workers: int | None = None,
    shard: tuple[int, int] = (1, 1),
    measure: Measure | None = None,
    progress: bool = True,
    say: Callable[[str], None] = tqdm.write,
) -> list[Job]:
    """Runs what is missing of a plan, side by side, and returns what is still missing.

    Args:
        plan: what to run.
        folder: where records are kept; a run's record is `PLAN/SECTION/ARM_sSEED.json` below it.
        budget_seconds: stop after so long; a run that would not fit is not begun, unless it is longer than the whole
            budget: it takes several calls, each of which continues it.
        device: where to train; the best there is unless given.
        workers: runs at once, each in its own process with one CPU thread; the cores of a CPU, 4 on a GPU, unless
            given.
        shard: (i, n): only every n-th arm, from the i-th, for n machines that share the work.
        measure: what to note of each trained model, as "diagnostics" of its record.
        progress: show a progress bar.
        say: called with a line of text for every run that ends.

    Raises:
        Interrupted: after Ctrl-C or SIGTERM; the same call continues.
        OSError: when a run's process was ended from outside.
        ValueError: when records of the plan were made of other images, or of another declaration; for fewer
            than one worker or a negative budget.
    """
    if workers is not None and workers < 1:
        raise ValueError(f"workers is {workers}; at least 1 run is made at once")
    if budget_seconds is not None and not budget_seconds >= 0:
        raise ValueError(f"the budget is {budget_seconds} seconds; it must be 0 or more")
    folder, chosen = Path(folder), pick_device(device)
    deadline = math.inf if budget_seconds is None else time.monotonic() + budget_seconds
    waiting = missing_jobs(plan, folder, shard)
    workers = min(workers or _default_workers(chosen), max(len(waiting), 1))
    if not _annotate(plan, waiting, folder, str(chosen), deadline, progress):
        say("the annotator was not finished in the time that there was; the same call continues it")
        return waiting
    worker = _Worker(plan, folder, str(chosen), measure)
    total, interrupted = len(waiting), False
    with (
        _clear_errors(plan),
        _sigterm_interrupts(),
        _Pool(workers) as pool,
        tqdm(total=total, unit="run", disable=not progress, desc=plan.name) as bar,
    ):
        while waiting or pool.running:
            while waiting and pool.free:
                job = _next_job(plan, folder, waiting)
                if job is None:
                    if not pool.running:
                        say(f"{waiting[0].name} and what comes after it wait for learning rates that other runs tune")
                    break
                left = deadline - time.monotonic()
                if left <= 0 or not _fits(plan, job, folder, left, budget_seconds):
                    say(f"{job.name} would not fit into the time that is left")
                    waiting = []
                    break
                waiting.remove(job)
                pool.start(worker, job, known_rate(plan, job, folder), deadline)
            if not pool.running:
                break
            for job, result in pool.finished():
                bar.update(result != STOPPED)
                say(f"{job.name}: {result}")
                if result == STOPPED:
                    waiting = []
                    interrupted = interrupted or time.monotonic() < deadline
    if interrupted:
        raise _stopped(plan)
    return missing_jobs(plan, folder, shard)


def run_plan_together(
    plan: Plan,
    folder: str | Path,
    processes: Processes,
    *,
    shard: tuple[int, int] = (1, 1),
    measure: Measure | None = None,
    say: Callable[[str], None] = print,
) -> list[Job]:
    """Runs what is missing of a plan, one run after the other, each by all processes; returns what is still missing.

    Args:
        processes: those that `torchrun` started; all of them see the folder.
        plan, folder, shard, measure, say: as for `run_plan`.

    Raises:
        Interrupted: after Ctrl-C or SIGTERM; the same call continues.
        ValueError: for a plan with an annotator, and as for `run_plan`.
    """
    if plan.annotator is not None:
        raise ValueError(f"the label maps of {plan.name} are made by one process; run it without torchrun")
    folder = Path(folder)
    while True:
        waiting = processes.share(missing_jobs(plan, folder, shard))
        job = processes.share(_next_job(plan, folder, waiting))
        if job is None:
            return waiting
        with processes.first_alone():  # it may write an index of the images
            splits(plan, job.arm, tuning=job.learning_rate is not None)
        try:
            rate = known_rate(plan, job, folder)
            record = run_job(plan, job, folder, str(processes.device), rate, measure=measure, processes=processes)
            text = f"accuracy {record['test_accuracy']:.2%}, train loss {record['train_loss']:.3f}"
        except NonFiniteLossError as error:
            text = f"failed: {error}"
        except Interrupted as error:
            raise _stopped(plan) from error
        processes.meet()  # the record is there for all
        if processes.is_first:
            say(f"{job.name}: {text}")


def _annotate(plan: Plan, jobs: list[Job], folder: Path, device: str, deadline: float, progress: bool) -> bool:
    """Makes the label maps that the runs need; False if there was no time for it."""
    arm = next((job.arm for job in jobs if plan.arms[job.arm].annotated), None)
    if arm is None:
        return True
    left = None if math.isinf(deadline) else deadline - time.monotonic()
    try:
        ensure_label_maps(plan, folder, *splits(plan, arm), device=device, progress=progress, max_seconds=left)
    except Interrupted:
        if time.monotonic() < deadline:
            raise
        return False
    return True


def _stopped(plan: Plan) -> Interrupted:
    return Interrupted(f"stopped; what is missing of {plan.name} can be run by the same call")


@contextmanager
def _clear_errors(plan: Plan) -> Iterator[None]:
    """Context manager: a stop and the death of a process become errors that say what to do."""
    try:
        yield
    except KeyboardInterrupt as error:
        raise _stopped(plan) from error
    except BrokenExecutor as error:
        raise OSError(
            "a run's process was ended from outside, perhaps for lack of memory; run again with fewer --workers"
        ) from error


@contextmanager
def _sigterm_interrupts() -> Iterator[None]:
    """Context manager: SIGTERM does what Ctrl-C does, so that the runs under way save their state."""
    try:
        before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    except ValueError:  # only the main thread may handle signals
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _default_workers(device: torch.device) -> int:
    if device.type != "cpu":
        return 4
    return available_processors()


def _next_job(plan: Plan, folder: Path, waiting: Iterable[Job]) -> Job | None:
    """The first job that can start: a tuning run at once, another when its learning rate is known."""
    return next((job for job in waiting if known_rate(plan, job, folder) is not None), None)


def known_rate(plan: Plan, job: Job, folder: Path) -> float | None:
    """The learning rate of a run; None while the tuning that decides it is not done."""
    return tuned_rate(plan, job.arm, folder) if job.learning_rate is None else job.learning_rate


class _Pool:
    """Processes that make one run after another; with one worker, runs are made in this process."""

    def __init__(self, workers: int) -> None:
        self.workers = workers
        self.running: set[Future] = set()
        self.executor: ProcessPoolExecutor | None = None

    def __enter__(self) -> "_Pool":
        if self.workers > 1:
            os.environ.setdefault("OMP_NUM_THREADS", "1")  # before the processes import torch
            self.executor = ProcessPoolExecutor(
                self.workers, mp_context=get_context("spawn"), initializer=torch.set_num_threads, initargs=(1,)
            )
        return self

    def __exit__(self, kind: type | None, *rest: object) -> None:
        if self.executor is None:
            return
        if kind is not None:  # each run keeps its checkpoint
            for process in active_children():
                process.terminate()
        self.executor.shutdown(cancel_futures=True)

    @property
    def free(self) -> int:
        return self.workers - len(self.running)

    def start(self, worker: _Worker, *arguments: object) -> None:
        if self.executor is not None:
            self.running.add(self.executor.submit(worker, *arguments))
            return
        future: Future = Future()
        future.set_result(worker(*arguments))
        self.running.add(future)

    def finished(self) -> list[tuple[Job, str]]:
        """Waits until a run ends; returns those that have ended."""
        done, self.running = wait(self.running, return_when=FIRST_COMPLETED)
        return [future.result() for future in done]


def workspace_of(plan: Plan, job: Job, folder: Path) -> Path:
    """Where a run that is not finished keeps its state."""
    return folder / plan.name / plan.section / ".unfinished" / job.name


def _fits(plan: Plan, job: Job, folder: Path, left: float, budget: float | None) -> bool:
    """Whether to start a run now; one that is under way, or longer than any call's budget, would never fit."""
    estimate = estimate_seconds(plan, job, folder)
    if estimate is None or estimate <= left:
        return True
    return workspace_of(plan, job, folder).exists() or (budget is not None and estimate > budget)


def estimate_seconds(plan: Plan, job: Job, folder: Path) -> float | None:
    """How long a run will take: from the runs of its arm, else from the plan's slowest; None before the first."""
    pace: dict[str, list[float]] = {}  # seconds an image
    sizes = []
    for other in all_jobs(plan):
        result = outcome(plan, other, folder)
        if result and "failed" not in result:
            pace.setdefault(other.arm, []).append(result["seconds"] / result["epochs"] / result["train_images"])
            fraction = 1 - held_out(plan) if other.learning_rate else 1  # tuning leaves images out
            sizes.append(result["train_images"] / fraction)
    if not pace:
        return None
    slowest = max(pace.get(job.arm) or [max(values) for values in pace.values()])
    images = min(arm_data(plan, job.arm).get("train_images", math.inf), max(sizes))
    return slowest * images * arm_recipe(plan, job, None).epochs
