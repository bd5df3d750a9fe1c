"""The command line: `deepvit-edu train`, `evaluate`, `similarity`, `models`, `data`, `run`, `records` and `bench`."""

import argparse
import json
import os
import re
import sys
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

import torch

from . import __version__, bench, data, records, similarity
from .allocator import restart_with_memory_kept
from .devices import pick_device
from .experiment import (
    campaign,
    load_plan,
    measure_model,
    missing_jobs,
    power_table,
    run_plan,
    run_plan_together,
    summary,
    waiting_text,
)
from .files import check_output
from .options import LARGEST_SEED, check_number
from .signals import Interrupted
from .training import TrialEnded
from .training.commands import add_evaluate, add_train, evaluate_command, train_command
from .training.processes import are_several, started
from .words import align, nearest, one_line, say
from .zoo import CONFIGS, config_diff, create_model, list_models


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command. Returns 0, 1 after an error (printed as one sentence), or 130 when interrupted."""
    is_program = arguments is None  # and not called by a program
    if is_program:
        _open_streams()
        warnings.formatwarning = lambda message, *_: f"deepvit-edu: {one_line(message)}\n"  # a sentence, as errors are
    options = build_parser().parse_args(arguments)
    if is_program and options.command in (train_command, run_command):
        restart_with_memory_kept(sys.argv[1:])
    try:
        options.command(options)
        sys.stdout.flush()  # a full disk or a closed pipe raises its error here
    except TrialEnded as end:
        print(f"deepvit-edu: {end}")
    except Interrupted as stop:
        hint = " (the same command with --resume)" if hasattr(options, "resume") else ""
        print(f"deepvit-edu: {stop}{hint}", file=sys.stderr)
        return 130
    except KeyboardInterrupt:
        print("deepvit-edu: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # `deepvit-edu models | head`
        _silence_output(is_program)
        return 0
    except Exception as error:
        if not isinstance(error, EXPECTED_ERRORS) and not _is_short_of_memory(error):
            raise
        print(f"deepvit-edu: {_sentence(error)}", file=sys.stderr)
        if isinstance(error, OSError):
            _silence_output(is_program)
        return 1
    return 0


EXPECTED_ERRORS = (ValueError, OSError, data.DataError, FloatingPointError, torch.OutOfMemoryError, MemoryError)
"""Errors that are printed as one sentence; others are faults of this package and show a traceback."""


def _is_short_of_memory(error: BaseException) -> bool:
    """Whether memory was too little: on a CPU PyTorch has no class of its own for that error."""
    said = str(error) if isinstance(error, RuntimeError) else ""
    known = ("can't allocate memory", "Storage size calculation overflowed")
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or any(words in said for words in known)


def _open_streams() -> None:
    """Sees to streams that take every sign, and to ones that go nowhere where the caller has closed them (`>&-`)."""
    for number, name in ((1, "stdout"), (2, "stderr")):
        if getattr(sys, name) is None:
            descriptor = os.open(os.devnull, os.O_WRONLY)
            if descriptor != number:
                os.dup2(descriptor, number)
            setattr(sys, name, open(number, "w", encoding="utf-8", closefd=False))  # noqa: SIM115
        getattr(sys, name).reconfigure(errors="replace")  # a terminal that has no × still gets its numbers


def _silence_output(is_program: bool) -> None:
    """Sends what is still to be printed nowhere: Python would complain at its end that it cannot print."""
    if is_program:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _sentence(error: BaseException) -> str:
    if _is_short_of_memory(error):
        return "there is too little memory for this; choose a smaller --batch-size, model or limit"
    if isinstance(error, OSError) and error.strerror:
        return one_line(f"{error.filename}: {error.strerror}" if error.filename else error.strerror)
    text = str(error)
    if text.startswith("Caught "):  # a process that reads images wraps an error in its own report
        text = re.sub(r"^[\w.]+(?:Error|Exception): ", "", text.strip().splitlines()[-1])
    return one_line(text)


class _Parser(argparse.ArgumentParser):
    """Suggests the nearest command or option where one is misspelt."""

    def error(self, message: str) -> None:
        prefix, _, rest = message.partition("invalid choice: ")
        if rest:
            wrong, _, known = rest.partition(" (choose from ")
            choices = [choice.strip(" '") for choice in known.rstrip(")").split(",")]
            message = f"{prefix}there is no {wrong}{nearest(wrong.strip(chr(39)), choices)}"
        super().error(message)


def build_parser() -> argparse.ArgumentParser:
    """The parser of the whole command line."""
    formatter = argparse.ArgumentDefaultsHelpFormatter
    parser = _Parser(prog="deepvit-edu", description="Train, measure and look into deep Vision Transformers.")
    parser.add_argument("--version", action="version", version=f"deepvit-edu {__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    def add(name: str, command: Callable[[argparse.Namespace], None], text: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(
            name, help=text, description=f"{text[0].upper()}{text[1:]}.", formatter_class=formatter
        )
        sub.set_defaults(command=command)
        return sub

    add_train(add("train", train_command, "train a model and write its record, weights and checkpoint"))
    add_evaluate(add("evaluate", evaluate_command, "measure a trained model on the test images of a data set"))
    _add_similarity(
        add("similarity", similarity_command, "measure how similar a model's attention maps are, block by block")
    )
    _add_models(add("models", models_command, "list the models, or show one"))
    _add_data(add("data", data_command, "list the data sets, or fetch and describe one"))
    _add_run(add("run", run_command, "run what is missing of an experiment's plan, and write a record for each run"))
    _add_campaign(
        add("campaign", campaign_command, "run what is missing of many plans beside other work, or say how far it is")
    )
    _add_records(add("records", records_command, "list recorded runs, show one, or show the results of a plan"))
    text = "measure speed and memory, of attention layers unless something else is named: whole models, say"
    _add_bench(add("bench", bench_command, text))
    return parser


def _add_data_root(parser: argparse.ArgumentParser) -> None:
    text = "folder of the data sets (DEEPVIT_EDU_DATA unless given); missing ones are downloaded"
    parser.add_argument("--data-root", metavar="FOLDER", help=text)


def _check_outputs(*paths: str | None) -> None:
    """Makes sure that the .json files that are asked for can be written, before any work."""
    for path in paths:
        if path is not None:
            check_output(path, (".json",))


def _add_similarity(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "model", nargs="?", metavar="MODEL", help="a model.safetensors, the folder of a run, or a name of this package"
    )
    parser.add_argument("--timm", metavar="NAME", help="a Vision Transformer of timm, with its trained weights")
    parser.add_argument(
        "--checkpoint", metavar="FILE", help="the weights: a file of this package, of timm, or the authors'"
    )
    parser.add_argument(
        "--images",
        metavar="NAME",
        help="a data set, or a folder of images; what the model was trained on, or else shapes, unless given",
    )
    _add_data_root(parser)
    parser.add_argument("--count", type=int, default=128, metavar="N", help="how many images, 2 or more")
    parser.add_argument("--which", choices=("softmax", "used"), default="softmax", help="the map that is measured")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the choice of images")
    parser.add_argument("--device", help="cpu, cuda, cuda:1, mps; the best there is unless given")
    parser.add_argument("--plot", metavar="FILE", help="draw the measures by block into this picture (.png, .svg)")
    parser.add_argument("--out", metavar="FILE", help="write the numbers to this .json file")


def similarity_command(options: argparse.Namespace) -> None:
    """`deepvit-edu similarity`."""
    _check_outputs(options.out)
    if options.plot is not None:
        check_output(options.plot, similarity.PICTURES)
    check_number("--seed", options.seed, whole=True, at_least=0, at_most=LARGEST_SEED)
    device = pick_device(options.device)
    subject = similarity.find_subject(options.model, options.timm, options.checkpoint, options.seed)
    images = similarity.find_images(subject, options.images, options.count, options.data_root, options.seed)
    say(f"{images.describe()} Measuring takes minutes on a CPU.")
    report = similarity.measure_similarity(subject, images, options.which, device)
    say(similarity.report_text(report))
    if options.plot:
        similarity.save_picture(report, options.plot)
        say(f"drawn into {options.plot}")
    if options.out:
        similarity.save_report(report, options.out, device)
        say(f"written to {options.out}")


def _add_models(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("pattern", nargs="?", default="*", help="a name, or a pattern such as 'vit_*'")
    parser.add_argument("--diff", nargs=2, metavar="NAME", help="print the options in which two models differ")


def models_command(options: argparse.Namespace) -> None:
    """`deepvit-edu models`."""
    if options.diff:
        say(config_diff(*options.diff))
        return
    names = list_models(options.pattern)
    if not names:
        raise ValueError(f"no model matches '{options.pattern}'{nearest(options.pattern, list(CONFIGS))}")
    if names == [options.pattern]:
        for option, value in asdict(CONFIGS[names[0]]).items():
            say(f"{option:16} {value}")
        return
    rows = [("model", "parameters", "blocks", "channels", "heads", "image", "tokens")]
    for name in names:
        c = CONFIGS[name]
        with torch.device("meta"):
            count = sum(parameter.numel() for parameter in create_model(name).parameters())
        rows.append((name, f"{count:12,}", *map(str, (c.depth, c.embed_dim, c.num_heads, c.img_size)), c.tokens))
    say(align(rows))
    say("parameters with a head for 1000 classes")


def _add_data(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", nargs="?", help="a data set, or a folder of images")
    parser.add_argument(
        "--data-root", metavar="FOLDER", help="folder of the data sets (else DEEPVIT_EDU_DATA, else a download)"
    )
    parser.add_argument("--img-size", type=int, metavar="PIXELS", help="resize to this side")


def data_command(options: argparse.Namespace) -> None:
    """`deepvit-edu data`."""
    if options.name is None:
        data.find_root(options.data_root)  # a wrong one is an error, even where it would not be used
        for name in data.list_datasets():
            state = (
                "at hand" if data.available(name, root=options.data_root) else f"fetched by: deepvit-edu data {name}"
            )
            say(f"{name:12} {state}")
        say("or any folder with train/CLASS/*.jpg and test/CLASS/*.jpg (val/ will do)")
        return
    for split in ("train", "test"):
        images = data.load(options.name, split, root=options.data_root, img_size=options.img_size)
        say(images.describe())
        say(f"  hash {images.hash()}")
    say(f"  classes: {', '.join(images.classes)}")


def _add_run(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("plan", metavar="PLAN", help="a .yml file, as in book/experiments")
    parser.add_argument(
        "--section", metavar="NAME", help="the part of the plan to run, such as cpu-study; all of it unless given"
    )
    parser.add_argument("--folder", default="book/records", metavar="FOLDER", help="where the records go")
    parser.add_argument("--budget-seconds", type=float, metavar="N", help="stop before; a run that would not fit waits")
    parser.add_argument("--device", help="cpu, cuda, cuda:1, mps; the best there is unless given")
    parser.add_argument("--workers", type=int, metavar="N", help="runs at once; a CPU's cores, 4 on a GPU unless given")
    parser.add_argument("--shard", default="1/1", metavar="I/N", help="only every N-th arm, from the I-th")
    parser.add_argument("--dry-run", action="store_true", help="only list what is missing")
    parser.add_argument("--quiet", action="store_true", help="show no progress bar")


def run_command(options: argparse.Namespace) -> None:
    """`deepvit-edu run`."""
    if options.budget_seconds is not None:
        check_number("--budget-seconds", options.budget_seconds, at_least=0)
    if options.workers is not None:
        check_number("--workers", options.workers, whole=True, at_least=1)
    plan, folder, shard = load_plan(options.plan, options.section), Path(options.folder), _shard(options.shard)
    if options.dry_run:
        missing = missing_jobs(plan, folder, shard)
        say("\n".join(job.name for job in missing) or waiting_text(plan, folder, missing))
        return
    check_output(options.folder, folder=True)
    if are_several():
        if options.workers or options.budget_seconds:
            raise ValueError("--workers and --budget-seconds are for runs without torchrun; leave them out")
        with started(options.device, timeout_minutes=60.0) as processes:  # others wait while the first measures
            missing = run_plan_together(plan, folder, processes, shard=shard, measure=measure_model)
        if processes.is_first:
            say(waiting_text(plan, folder, missing))
        return
    missing = run_plan(
        plan,
        folder,
        budget_seconds=options.budget_seconds,
        device=options.device,
        workers=options.workers,
        shard=shard,
        measure=measure_model,
        progress=not options.quiet,
    )
    say(waiting_text(plan, folder, missing))


def _shard(text: str) -> tuple[int, int]:
    index, _, count = text.partition("/")
    if not (index.isdecimal() and count.isdecimal() and 1 <= int(index) <= int(count)):
        raise ValueError(f"the shard '{text}' is not I/N with I from 1 to N, such as 2/4")
    return int(index), int(count)


def _add_campaign(parser: argparse.ArgumentParser) -> None:
    what = "go on with it, say what is left, or free the processor for a while; work is what its processes do"
    parser.add_argument("what", choices=("run", "status", "pause", "resume", "work"), help=what)
    parser.add_argument("--file", default="book/experiments/campaign.yml", metavar="FILE", help="the plans, in order")
    parser.add_argument("--folder", default="book/records", metavar="FOLDER", help="where the records go")
    parser.add_argument("--workers", type=int, default=2, metavar="N", help="runs at once, of one thread each")
    parser.add_argument("--minutes", type=float, default=30.0, metavar="N", help="how long a pause lasts")
    parser.add_argument("--code", metavar="COMMIT", help="of `work`: only the plans that this commit runs")


def campaign_command(options: argparse.Namespace) -> None:
    """`deepvit-edu campaign`."""
    path, folder = Path(options.file), Path(options.folder)
    check_number("--workers", options.workers, whole=True, at_least=1)
    check_number("--minutes", options.minutes, above=0, at_most=60 * 24 * 365)
    if options.what == "run":
        campaign.run_campaign(path, folder, options.workers)
    elif options.what == "status":
        say(align(campaign.status(path, folder, options.workers)))
        if campaign.paused(folder):
            say("paused; `deepvit-edu campaign resume` goes on")
    elif options.what == "pause":
        campaign.pause(folder, options.minutes)
        say(f"paused for {options.minutes:g} minutes; `deepvit-edu campaign resume` goes on at once")
    elif options.what == "resume":
        campaign.resume(folder)
    else:
        campaign.work(path, options.code, folder)


def _add_records(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("path", nargs="?", default="book/records", help="a record, or a folder of records")
    parser.add_argument("--json", action="store_true", help="print the record whole")
    parser.add_argument("--plan", metavar="PLAN", help="show the results of this plan, and what is missing")
    parser.add_argument("--section", metavar="NAME", help="the part of the plan")
    parser.add_argument("--power", action="store_true", help="with --plan: how many seeds its contrasts need")


def records_command(options: argparse.Namespace) -> None:
    """`deepvit-edu records`."""
    path = Path(options.path)
    if options.plan:
        if not path.is_dir():
            raise ValueError(
                f"there is no folder of records at {path}; `deepvit-edu run PLAN --folder {path}` makes it"
            )
        plan = load_plan(options.plan, options.section)
        say(summary(plan, path))
        if options.power:
            say(f"\n{align(power_table(plan, path))}")
        return
    if not path.exists():
        raise ValueError(f"there is no record or folder of records at {path}; `deepvit-edu train` writes record.json")
    found = records.list_records(path) if path.is_dir() else [(path, records.load_record(path))]
    if not found:
        raise ValueError(f"the folder {path} holds no record (a .json file that a run wrote)")
    if options.json:
        say(json.dumps([record for _, record in found], indent=1))
    else:
        say(records.table(found))


BENCHES = {
    "layers": "time attention layers on this processor: plain and Re-attention, on their fast and their legible path",
    "whole-models": "time whole models and measure their peak memory: ours on its fast path and by the authors' plain "
    "arithmetic, timm's and vit-pytorch's where they are installed, in turns; and what each optional part costs. About "
    "40 minutes on one core",
    "data": "time the loading of images, from files and from memory",
    "models": "time ways to train several small models at once: in processes side by side, or stacked in one",
}
"""What `deepvit-edu bench` measures, in words."""


def _add_bench(parser: argparse.ArgumentParser) -> None:
    """Options of `bench` alone, which times layers, and of each kind by name, with those that it has a use for."""
    rounds = "3 rounds instead of 15: a look, not a measurement"
    flags = {
        "--quick": {"action": "store_true", "default": False, "help": rounds},
        "--threads": {"type": int, "default": 1, "metavar": "N", "help": "threads of the processor"},
        "--device": {"default": "cpu", "help": "cpu, cuda, cuda:1 or mps"},
        "--models": {"type": int, "default": 2, "metavar": "N", "help": "how many at once, a thread each"},
        "--batch-size": {"type": int, "default": 8, "metavar": "N", "help": "images a step"},
        "--out": {"default": None, "metavar": "PATH", "help": "write the numbers to this .json file"},
    }
    of_kind = {
        "layers": ("--quick", "--threads", "--out"),
        "whole-models": ("--quick", "--batch-size", "--device", "--threads", "--out"),
        "data": ("--quick", "--device", "--threads", "--out"),
        "models": ("--quick", "--models", "--device", "--out"),
    }
    for flag in ("--quick", "--threads", "--device", "--out"):
        alone = "; layers are timed on the CPU alone" if flag == "--device" else ""
        parser.add_argument(flag, **{**flags[flag], "help": flags[flag]["help"] + alone})
    parser.set_defaults(what="layers", models=flags["--models"]["default"], batch_size=flags["--batch-size"]["default"])
    kinds = parser.add_subparsers(title="what to measure", metavar="WHAT")
    for kind, text in BENCHES.items():
        sub = kinds.add_parser(kind, help=text, description=f"{text[0].upper()}{text[1:]}.")
        sub.set_defaults(what=kind)
        for flag in of_kind[kind]:
            how = flags[flag]
            shown = f"{how['help']} (default: {how['default']})" if flag != "--out" else how["help"]
            # What stands before the kind's name is kept: a default here would overwrite it.
            sub.add_argument(flag, **{**how, "default": argparse.SUPPRESS, "help": shown})


def _bench_data(options: argparse.Namespace, rounds: int) -> None:
    device = pick_device(options.device)
    rows = bench.time_loading(rounds=rounds, device=str(device))
    say(bench.loading_table(rows))
    say(f"medians (and quartiles) of {rounds} rounds of an epoch each; threads {options.threads}")
    more = {"device": options.device, "hardware": records.describe_hardware(device), "threads": options.threads}
    _save_bench(options, "loading", f"--threads {options.threads} --device {options.device}", rows, **more)


def _bench_models(options: argparse.Namespace, rounds: int) -> None:
    device = pick_device(options.device)
    rows = bench.time_models(options.models, str(device), rounds)
    say(bench.models_table(rows))
    more = {"device": options.device, "hardware": records.describe_hardware(device)}
    say(f"medians (and quartiles) of {rounds} rounds; {more['hardware']}")
    _save_bench(options, "models", f"--models {options.models} --device {options.device}", rows, **more)


def _bench_whole_models(options: argparse.Namespace, rounds: int) -> None:
    device, size, busy = pick_device(options.device), options.batch_size, os.getloadavg()[0]
    rows = bench.time_whole_models(size, rounds, str(device))
    more = {"hardware": records.describe_hardware(device), "threads": options.threads, "allocator": bench.allocator()}
    say(bench.whole_models_table(rows))
    say(f"medians (and quartiles) of {rounds} rounds; batches of {size}; {more['hardware']}; threads {options.threads}")
    if missing := bench.missing_packages():
        say(f"not installed, so left out: {', '.join(missing)}; pip install {' '.join(missing)}")
    arguments = f"--threads {options.threads} --device {options.device} --batch-size {size}"
    _save_bench(options, "whole models", arguments, rows, device=options.device, load=busy, **more)


def _save_bench(options: argparse.Namespace, kind: str, arguments: str, rows: list[dict], **more: object) -> None:
    if options.out:
        what = "" if options.what == "layers" else f" {options.what}"
        command = f"deepvit-edu bench{what}{' --quick' if options.quick else ''} {arguments}"
        records.save_measurement(options.out, kind, command, rows, **more)
        say(f"written to {options.out}")


def bench_command(options: argparse.Namespace) -> None:
    """`deepvit-edu bench`."""
    _check_outputs(options.out)
    rounds = 3 if options.quick else 15
    if options.what == "models":
        _bench_models(options, rounds)
        return
    if options.what == "layers" and options.device != "cpu":
        raise ValueError("layers are timed on the CPU; --device is for the other kinds of bench")
    with bench.threads(options.threads):
        if options.what == "whole-models":
            _bench_whole_models(options, rounds)
            return
        if options.what == "data":
            _bench_data(options, rounds)
            return
        rows = bench.run_benchmark(rounds=rounds)
        say(bench.benchmark_table(rows))
        threads, allocator = options.threads, bench.allocator()
        say(f"medians (and quartiles) of {rows[0]['rounds']} rounds; threads {threads}; allocator {allocator}")
        if not any(row["path"] == bench.layers.OTHER for row in rows):
            say("vit-pytorch is not installed, so its layer is left out: pip install vit-pytorch")
        _save_bench(options, "speed", f"--threads {threads}", rows, threads=threads, allocator=allocator)
