"""`deepvit-edu train` and `deepvit-edu evaluate`, alone or under `torchrun`."""

import argparse
from contextlib import nullcontext
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

import torch

from .. import data, records
from ..checkpoints import load_model, load_official, load_pretrained, normalisation_of
from ..data import ImageSet
from ..devices import check_precision
from ..files import check_output, only_process_in
from ..labels import load_label_maps
from ..nn.model import VisionTransformer
from ..options import LARGEST_COUNT, check_number
from ..tensors import is_safetensors
from ..words import say
from ..yaml_files import yaml_value
from ..zoo import create_model, list_models, model_config
from .evaluation import TOLERANCE, evaluate, expected_top1, real_labels_of
from .file_batches import MOST_WORKERS, WORKERS
from .image_files import Files, find_files, find_validation
from .loop import Settings, train
from .processes import Processes, started
from .recipe import Recipe
from .recipe_files import Setup, list_recipes, load_recipe

MODEL = "cifar_vit_4x64"
"""What is trained unless something else is named."""
OF_THE_RUN = ("num_classes", "drop_path_rate", "dense_head")
"""Options of a model that the data and the recipe decide, not the weights that it starts from."""


def add_train(parser: argparse.ArgumentParser) -> None:
    """The options of `deepvit-edu train`; those of the recipe and of the machine follow from their fields."""
    recipes = f"{', '.join(list_recipes())}, or a .yml file; the options below change it"
    parser.add_argument("--recipe", metavar="NAME", help=f"a model and how it is trained: {recipes}")
    parser.add_argument(
        "--model", metavar="NAME", help=f"see `deepvit-edu models`; the recipe's, or {MODEL}, unless given"
    )
    text = "start from trained weights, a file of ours or the authors' (with --model), for any classes and size"
    parser.add_argument("--from", dest="start", metavar="FILE", help=text)
    _add_model_options(parser)
    _add_data_options(parser)
    parser.add_argument("--img-size", type=int, metavar="PIXELS", help="side of the images; the model's unless given")
    parser.add_argument("--out", metavar="FOLDER", help="folder of the run; runs/MODEL_DATA_sSEED unless given")
    parser.add_argument("--resume", action="store_true", help="continue the run in that folder, where there is one")
    parser.add_argument("--quiet", action="store_true", help="show no progress")
    parser.add_argument(
        "--label-maps",
        metavar="PATH",
        help="the tokens' labels, for --token-weight: the file that labels.save_label_maps wrote, or with images from "
        "files a folder with CLASS/NAME.pt",
    )
    _add_process_options(parser)
    _add_fields(parser.add_argument_group("machine"), Settings)
    _add_fields(parser.add_argument_group("recipe"), Recipe)


def train_command(options: argparse.Namespace) -> None:
    """`deepvit-edu train`."""
    start = _start_of(options)
    setup, settings = setup_of(options, start), Settings(**_given(options, Settings))
    name = f"{setup.model}_{Path(options.data).name}_s{setup.recipe.seed}"
    out = check_output(Path("runs", name) if options.out is None else options.out, folder=True)
    with torch.device("meta"):  # a size that the model cannot have is reported before images are read
        setup.build()
    with started(options.device, options.timeout_minutes) as processes:
        train_set, test_set = _training_sets(options, setup, processes)
        setup = replace(setup, model_options={**setup.model_options, "num_classes": train_set.num_classes})
        torch.manual_seed(setup.recipe.seed)
        model = setup.build()
        if isinstance(train_set, Files):
            train_set, test_set = (files.prepared_for(model) for files in (train_set, test_set))
        if start:
            new = load_pretrained(model, start.file)
            how = normalisation_of(model, start.file)
            train_set, test_set = (_normalised(images, model, how) for images in (train_set, test_set))
        if processes.is_first:
            say(f"{train_set.describe()}\n{setup.recipe.describe(processes.count)}")
            if start:
                say(f"weights from {start.file}; new: {', '.join(new) or 'none'}")
        with only_process_in(out) if processes.is_first else nullcontext():
            record = train(
                model,
                train_set,
                test_set,
                setup.recipe,
                name=setup.model,
                out=out,
                resume=options.resume,
                progress=not options.quiet,
                label_maps=_label_maps(options.label_maps, train_set),
                processes=processes,
                settings=settings,
            )
    if processes.is_first:
        say(
            f"test accuracy {record['test_accuracy']:.2%} after {record['epochs']} epochs, "
            f"{record['seconds'] / 60:.1f} minutes, {record['images_per_second']:.0f} images/s\n"
            f"record, weights and checkpoint are in {out}"
        )


@dataclass(frozen=True)
class Start:
    """Trained weights that a run starts from: their file, its model and options of it."""

    file: Path
    model: str
    model_options: dict


def _normalised(images: ImageSet | Files, model: VisionTransformer, how: dict) -> ImageSet | Files:
    """The images, normalised as those that weights were trained on."""
    return images.prepared_for(model, **how) if isinstance(images, Files) else replace(images, **how)


def _start_of(options: argparse.Namespace) -> Start | None:
    """What `--from` names; the model of a file of ours is known from the file."""
    if options.start is None:
        return None
    path = Path(options.start)
    file = path / "model.safetensors" if path.is_dir() else path
    if not is_safetensors(file):
        if options.model is None:
            raise ValueError(f"say which model {file} belongs to: --model t2t_vit_14, say")
        return Start(file, options.model, {})
    model, about = load_trained(file, "name", "mean", "std")
    name, options_of = about["name"], asdict(model.config)
    if options.model not in (None, name):
        raise ValueError(f"{file} is a {name} and no {options.model}; leave out --model")
    usual = asdict(model_config(name))
    options_of = {key: value for key, value in options_of.items() if usual[key] != value and key not in OF_THE_RUN}
    return Start(file, name, options_of)


def setup_of(options: argparse.Namespace, start: Start | None = None) -> Setup:
    """The model and the recipe that the options of `deepvit-edu train` ask for."""
    changes, model_options = _given(options, Recipe), _model_options(options)
    if start:
        model_options = {**start.model_options, **model_options}
    if options.img_size is not None:
        model_options["img_size"] = options.img_size
    model = start.model if start else options.model
    if options.recipe is None:
        return Setup(MODEL if model is None else model, model_options, Recipe(**changes))
    named = {} if model is None else {"model": model}
    return load_recipe(options.recipe, model_options=model_options, **named, **changes)


def _training_sets(
    options: argparse.Namespace, setup: Setup, processes: Processes
) -> tuple[ImageSet | Files, ImageSet | Files]:
    if setup.recipe.images_from == "files":
        files = find_files(_place(options), processes, setup.model_options.get("num_classes"))
        return tuple(each.limited(options.limit) for each in files)
    load = {"root": options.data_root, "img_size": setup.config().img_size, "limit": options.limit}
    with processes.first_alone():  # it may download
        return tuple(data.load(options.data, split, progress=not options.quiet, **load) for split in ("train", "test"))


def _label_maps(path: str | None, train_set: ImageSet | Files) -> torch.Tensor | str | None:
    return load_label_maps(path, train_set) if path and isinstance(train_set, ImageSet) else path


def add_evaluate(parser: argparse.ArgumentParser) -> None:
    """The options of `deepvit-edu evaluate`."""
    parser.add_argument(
        "path", metavar="PATH", help="a model.safetensors, the folder of a run, or an authors' file with --model"
    )
    parser.add_argument("--model", choices=list_models(), metavar="NAME", help="of an authors' file")
    _add_model_options(parser)
    _add_data_options(parser)
    parser.add_argument(
        "--images-from", choices=("memory", "files"), help="as in training; as the model was trained unless given"
    )
    parser.add_argument("--batch-size", type=int, default=500, metavar="N", help="images at a time in each process")
    parser.add_argument("--precision", default="float32", metavar="WORD", help="float32, bfloat16, float16 or auto")
    parser.add_argument(
        "--workers", type=int, default=WORKERS, metavar="N", help="processes that read images from files"
    )
    parser.add_argument(
        "--real-labels", nargs="?", const="timm", metavar="FILE", help="ImageNet-ReaL too; timm's copy unless named"
    )
    parser.add_argument("--out", metavar="FILE", help="write the numbers to this .json file")
    _add_process_options(parser)


def evaluate_command(options: argparse.Namespace) -> None:
    """`deepvit-edu evaluate`; ValueError where an authors' file does not have the accuracy that they publish."""
    if options.out is not None:
        check_output(options.out, (".json",))
    check_number("--batch-size", options.batch_size, whole=True, at_least=1, at_most=LARGEST_COUNT)
    check_number("--workers", options.workers, whole=True, at_least=0, at_most=MOST_WORKERS)
    check_precision(options.precision)
    with started(options.device, options.timeout_minutes) as processes:
        model, about = _load(options)
        dataset = _test_set(options, model, about, processes)
        how = {"precision": options.precision, "workers": options.workers}
        if options.real_labels:
            how["real_labels"] = real_labels_of(dataset, options.real_labels)
        measured = evaluate(model, dataset, options.batch_size, processes=processes, **how)
    if not processes.is_first:
        return
    expected = expected_top1(options.path, model.config.img_size) if options.model else {}
    _print(about["name"], dataset, measured, expected)
    if options.out:
        row = {**measured, **expected, "unreadable": len(measured["unreadable"]), "data_hash": dataset.hash()}
        row |= {"model": about["name"], "weights": Path(options.path).name, "img_size": model.config.img_size}
        hardware = records.describe_hardware(processes.device)
        more = {"num_processes": processes.count, "precision": options.precision, "hardware": hardware}
        records.save_measurement(options.out, "evaluation", _command(options), [row], **more)
    published = expected.get("published_top1")
    if published is not None and abs(100 * measured["accuracy"] - published) > TOLERANCE:
        raise ValueError(f"top-1 differs from the published number by more than {TOLERANCE} points")


def _load(options: argparse.Namespace) -> tuple[VisionTransformer, dict]:
    """The model, and what its file tells about it."""
    path = Path(options.path)
    is_ours = path.is_dir() or path.suffix in ("", ".safetensors")
    if not is_ours and options.model is None:
        raise ValueError(f"say which model {path} belongs to: --model t2t_vit_14, say")
    if not is_ours:
        model = create_model(options.model, **_model_options(options))
        return load_official(model, path).eval(), {"name": options.model, "images_from": "files"}
    if options.model or options.model_options:
        raise ValueError(f"{path} knows its model; leave out --model and --model-options")
    return load_trained(path, "name", "dataset", "classes", "mean", "std")


def load_trained(path: Path, *needed: str) -> tuple[VisionTransformer, dict]:
    """A model from its file, or from the folder of its run, and what its file says of the training.

    Raises:
        ValueError: when it does not say something that is needed.
    """
    file = path / "model.safetensors" if path.is_dir() else path
    model, about = load_model(file)
    if missing := [word for word in needed if word not in about]:
        raise ValueError(f"{file} does not say its {' and '.join(missing)}; take one that `deepvit-edu train` wrote")
    return model, about


def _test_set(
    options: argparse.Namespace, model: VisionTransformer, about: dict, processes: Processes
) -> ImageSet | Files:
    if (options.images_from or about.get("images_from")) == "files":
        dataset = find_validation(_place(options), processes, model.config.num_classes)
        dataset = dataset.prepared_for(model)  # as its file says
        dataset = dataset.limited(options.limit)
    else:
        size = {"img_size": model.config.img_size, "limit": options.limit}
        with processes.first_alone():
            dataset = data.load(options.data, "test", root=options.data_root, **size)
        dataset = replace(dataset, mean=tuple(about["mean"]), std=tuple(about["std"]))  # as it was trained
    if about.get("classes") not in (None, list(dataset.classes)):
        raise ValueError(
            f"this model learned the {len(about['classes'])} classes of {about['dataset']}, not these "
            f"{dataset.num_classes} of {dataset.name}; name the data set that it was trained on with --data"
        )
    return dataset


def _print(name: str, dataset: ImageSet | Files, measured: dict, expected: dict) -> None:
    say(dataset.describe())
    real = f", ReaL {measured['real']:.2%}" if measured["real"] is not None else ""
    say(
        f"{name}: accuracy {measured['accuracy']:.2%}, among five guesses {measured['top5']:.2%}{real}, "
        f"loss {measured['loss']:.4f}"
    )
    say(f"{measured['images_per_second']:.0f} images/s")
    for file in measured["unreadable"]:
        say(f"could not be read and was left out: {file}")
    for key, text in (("file_top1", "the file itself says"), ("published_top1", "its authors publish")):
        if key in expected:
            say(f"{text} top-1 {expected[key]:.2f} %")


def _command(options: argparse.Namespace) -> str:
    """The command that measures this again."""
    words = ["deepvit-edu evaluate", Path(options.path).name, "--data", Path(options.data).name]
    words += ["--precision", options.precision]
    words += ["--model", options.model] if options.model else []
    words += ["--model-options", *options.model_options] if options.model_options else []
    words += ["--images-from", options.images_from] if options.images_from else []
    words += ["--limit", str(options.limit)] if options.limit else []
    return " ".join([*words, *(["--real-labels"] if options.real_labels else [])])


# Options that both share


def _add_model_options(parser: argparse.ArgumentParser) -> None:
    text = "options of the model's configuration, such as depth=8; see `deepvit-edu models NAME`"
    parser.add_argument("--model-options", nargs="+", action="extend", default=[], metavar="OPTION=VALUE", help=text)


def _model_options(options: argparse.Namespace) -> dict:
    chosen = {}
    for text in options.model_options:
        name, sign, value = (part.strip() for part in text.partition("="))
        if not sign:
            raise ValueError(f"'{text}' sets nothing; write it as option=value")
        read = yaml_value(value)
        chosen[name] = tuple(read) if isinstance(read, list) else read
    return chosen


def _add_data_options(parser: argparse.ArgumentParser) -> None:
    names = f"{', '.join(data.list_datasets())}, or a folder of images"
    parser.add_argument("--data", default="shapes", metavar="NAME", help=names)
    parser.add_argument(
        "--data-root", metavar="FOLDER", help="folder of the data sets (else DEEPVIT_EDU_DATA, else a download)"
    )
    parser.add_argument("--limit", type=int, metavar="N", help="use only so many images of a split")


def _place(options: argparse.Namespace) -> Path:
    """The folder of images that stay in their files."""
    return Path(options.data_root, options.data) if options.data_root else Path(options.data)


def _add_process_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--device", help="cpu, cuda, cuda:1, mps; the best there is unless given")
    text = "under torchrun, how long processes wait for one that hangs"
    parser.add_argument("--timeout-minutes", type=float, default=10.0, metavar="M", help=text)


def _add_fields(group: argparse._ArgumentGroup, kind: type) -> None:
    """An option for each field of a dataclass, with its help and default; one that is not given stays out."""
    for option in fields(kind):
        flag, default = f"--{option.name.replace('_', '-')}", option.default
        text = f"{option.metadata['help']} (default: {'none' if default == '' else default})"
        how: dict = {"default": argparse.SUPPRESS, "help": text}
        if option.type is bool:
            how["action"] = argparse.BooleanOptionalAction
        else:
            how |= {"type": option.type, "metavar": {int: "N", float: "X", str: "WORD"}[option.type]}
        group.add_argument(flag, **how)


def _given(options: argparse.Namespace, kind: type) -> dict:
    """What of a dataclass's fields was given."""
    names = [option.name for option in fields(kind)]
    return {name: getattr(options, name) for name in names if hasattr(options, name)}
