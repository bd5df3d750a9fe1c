"""Bad command lines, in a table: wrong type, range, name, file, folder, encoding, rights, disk and variables."""

import json
import os
import pickle
from collections.abc import Iterator
from dataclasses import Field, asdict, dataclass, field, fields
from pathlib import Path

import torch
from PIL import Image

from deepvit_edu.checkpoints import save_model
from deepvit_edu.tensors import write_tensors
from deepvit_edu.training import Recipe, Settings
from deepvit_edu.zoo import create_model

CPU = ("--device", "cpu")
LONG = "x" * 300
HUGE = "9" * 400
"""A whole number that is larger than any float."""
PLAN = """
title: t
question: q
decision: d
data: {name: shapes, train_images: 64, test_images: 50}
model: {name: cifar_vit_4x64, depth: 2}
recipe: {epochs: 1, batch_size: 32}
seeds: [0]
arms:
  plain: {}
  deep: {model: {depth: 3}}
"""
CHANGES = {  # of the plan: a name, what stands there, and what is put in its place
    "no_seeds": ("seeds: [0]", ""),
    "seeds_word": ("seeds: [0]", "seeds: many"),
    "seeds_negative": ("seeds: [0]", "seeds: [-1]"),
    "seeds_huge": ("seeds: [0]", "seeds: [99999999999999999999999]"),
    "seeds_clock": ("seeds: [0]", "seeds: [1:30]"),
    "seeds_twice": ("seeds: [0]", "seeds: [0, 0]"),
    "seeds_none": ("seeds: [0]", "seeds: []"),
    "key_twice": ("seeds: [0]", "seeds: [0]\nseeds: [1]"),
    "arm_twice": ("  plain: {}", "  plain: {}\n  plain: {}"),
    "arm_empty_name": ("  plain: {}", '  "": {}'),
    "arm_up": ("  plain: {}", '  "..": {}'),
    "arm_slash": ("  plain: {}", '  "a/b": {}'),
    "arm_control": ("  plain: {}", '  "a\\e[31m": {}'),
    "arm_long": ("  plain: {}", f'  "{LONG}": {{}}'),
    "arm_option": ("depth: 3", "depht: 3"),
    "arm_list": ("  plain: {}", "  plain: [1, 2]"),
    "depth_huge": ("depth: 3", "depth: 1000000000000"),
    "depth_zero": ("depth: 3", "depth: 0"),
    "depth_word": ("depth: 3", "depth: deep"),
    "width_huge": ("depth: 3", "embed_dim: 4000000000"),
    "heads_unfit": ("depth: 3", "num_heads: 7"),
    "init_nan": ("depth: 3", "init_std: .nan"),
    "rate_inf": ("epochs: 1", "learning_rate: .inf"),
    "epochs_zero": ("epochs: 1", "epochs: 0"),
    "recipe_option": ("epochs: 1", "epoch: 1"),
    "recipe_seed": ("epochs: 1", "seed: 1"),
    "images_word": ("train_images: 64", "train_images: many"),
    "images_part": ("train_images: 64", "train_images: 25.6"),
    "images_negative": ("train_images: 64", "train_images: -5"),
    "data_unnamed": ("name: shapes, ", ""),
    "data_number": ("name: shapes", "name: 3"),
    "data_option": ("train_images", "train_image"),
    "title_list": ("title: t", "title: [t]"),
    "model_unknown": ("cifar_vit_4x64", "cifar_vit_4x65"),
    "margin_nan": ("seeds: [0]", "seeds: [0]\nmargin: .nan"),
    "contrast_name": ("seeds: [0]", "seeds: [0]\ncontrasts: [{name: [a], treatment: deep, control: plain}]"),
    "contrast_arm": ("seeds: [0]", "seeds: [0]\ncontrasts: [{name: a, treatment: deeper, control: plain}]"),
    "contrast_words": ("seeds: [0]", "seeds: [0]\ncontrasts: words"),
    "blocks_no_list": ("depth: 3", "selection: random, selection_before: 1"),
    "attention_no_list": ("depth: 3", "attention: re"),
    "options_no_table": ("depth: 3", "attention_options: [1]"),
    "switch_word": ("depth: 3", "dense_head: words"),
    "switch_number": ("depth: 3", "qkv_bias: 3"),
    "selection_idle": ("depth: 3", "selection: random"),
    "selection_attention": ("depth: 3", "selection: predicted, selection_before: [1], attention: [re]"),
    "selection_twice": ("depth: 3", "selection: random, selection_before: [1, 1]"),
    "tradeoff_nan": ("depth: 3", "selection: waiting, selection_before: [1], selection_options: {tradeoff: .nan}"),
    "unknown_part": ("seeds: [0]", "seeds: [0]\nmore: 1"),
}
OTHER_PLANS = {
    "empty": b"",
    "list": b"[1, 2]",
    "word": b"plan",
    "unclosed": b"a: [",
    "tab": b"a:\n\t- b",
    "binary": bytes(range(256)),
    "utf16": PLAN.encode("utf-16"),
    "latin": PLAN.replace("title: t", "title: Übung").encode("latin-1"),
    "nested": b"[" * 3000,
    "loop": b"a: &a [*a]",
    "object": b"!!python/object/apply:os.system ['touch pwned']",
}


RECIPES = {
    "inherits_itself": "inherits: inherits_itself.yml",
    "inherits_number": "inherits: 3",
    "inherits_list": "inherits: [a]",
    "options_number": "model_options: 3",
    "options_list": "model_options: [depth]",
    "model_number": "model: 3",
    "model_list": "model: [vit_12b]",
    "key_number": "3: 4",
    "rate_bytes": "learning_rate: !!binary aGVsbG8=",
    "epochs_date": "epochs: 2020-01-01",
    "epochs_set": "epochs: !!set {1}",
    "switch_word": "mix_token: sometimes",
    "classes_negative": "num_classes: -1",
    "size_list": "img_size: [32, 32]",
    "two_documents": "---\nmodel: vit_12b",
    "list": "- a",
    "empty": "",
}


@dataclass(frozen=True)
class Line:
    """A command line, the variables that are set for it, and a word that its sentence must have."""

    arguments: tuple[str, ...]
    variables: dict[str, str] = field(default_factory=dict)
    about: str = ""

    def __str__(self) -> str:
        told = " ".join(f"{name}={value}" for name, value in self.variables.items())
        return f"{told} {' '.join(word[:40] for word in self.arguments)}".strip()


def make_files(folder: Path) -> None:
    """Everything that the table names, below a folder."""
    plans = folder / "plans"
    plans.mkdir(parents=True)
    for name, (old, new) in CHANGES.items():
        assert old in PLAN, name
        (plans / f"{name}.yml").write_text(PLAN.replace(old, new), encoding="utf-8")
    for name, content in OTHER_PLANS.items():
        (plans / f"{name}.yml").write_bytes(content)
    (folder / "recipes").mkdir()
    for name, text in RECIPES.items():
        model = "" if name.startswith("model") or name in ("list", "empty") else "model: cifar_vit_4x64\n"
        (folder / "recipes" / f"{name}.yml").write_text(model + text, encoding="utf-8")
    (plans / "good.yml").write_text(PLAN, encoding="utf-8")
    (plans / "folder.yml").mkdir()
    _make_weights(folder / "weights")
    _make_images(folder)
    _make_records(folder / "records")
    _make_runs(folder / "runs")


def _make_runs(folder: Path) -> None:
    """Checkpoints that are whole files, and nothing that can be continued."""
    weights = create_model("cifar_vit_4x64", num_classes=3).state_dict()
    for name, content in {"list": [1], "other": weights}.items():
        (folder / name).mkdir(parents=True)
        torch.save(content, folder / name / "checkpoint-00000001.pt")


def _make_weights(folder: Path) -> None:
    folder.mkdir()
    model = create_model("cifar_vit_4x64", num_classes=10)
    about = {"name": "a", "dataset": "shapes", "classes": [str(n) for n in range(10)]}
    whole = save_model(model, folder / "whole.safetensors", **about, mean=[0.5] * 3, std=[0.5] * 3).read_bytes()
    save_model(model, folder / "says_nothing.safetensors")
    save_model(
        create_model("cifar_vit_4x64", num_classes=3), folder / "classes.safetensors", **about, mean=[0], std=[1]
    )
    torch.nn.init.constant_(model.head.weight, torch.nan)
    save_model(model, folder / "nan.safetensors", **about, mean=[0.5] * 3, std=[0.5] * 3)
    write_tensors(folder / "foreign.safetensors", {"a": torch.zeros(3)}, {})
    for name, wrong in {"about_list": [], "std_zero": {**about, "mean": [0.5] * 3, "std": [0] * 3}}.items():
        texts = {"config": json.dumps(asdict(model.config)), "about": json.dumps(wrong)}
        write_tensors(folder / f"{name}.safetensors", model.state_dict(), texts)
    (folder / "cut.safetensors").write_bytes(whole[:-9])
    (folder / "flipped.safetensors").write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    (folder / "header.safetensors").write_bytes(b"\xff" * 8 + b"{" + whole[9:])
    (folder / "empty.pth").write_bytes(b"")
    (folder / "page.pth").write_bytes(b"<!DOCTYPE html><title>Quota</title>")
    (folder / "pointer.pth").write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    (folder / "words.pth").write_bytes(b"no weights")
    (folder / "code.pth").write_bytes(pickle.dumps(print))
    torch.save([1, 2], folder / "list.pth")
    torch.save({name: value.to("meta") for name, value in model.state_dict().items()}, folder / "meta.pth")
    torch.save({"head.weight": torch.tensor(1.0)}, folder / "scalar.pth")
    torch.save({"head.weight": torch.full((3, 192), torch.nan)}, folder / "nan.pth")
    (folder / "run_without_model").mkdir()


def _make_images(folder: Path) -> None:
    for name in ("bare", "flat/train", "heic/train/a", "heic/test/a", "torn/train/a", "torn/test/a", "no_test/train/a"):
        (folder / name).mkdir(parents=True)
    Image.new("RGB", (8, 8)).save(folder / "flat" / "train" / "a.png")
    Image.new("RGB", (8, 8)).save(folder / "no_test" / "train" / "a" / "a.png")
    for split in ("train", "test"):
        (folder / "heic" / split / "a" / "a.heic").write_bytes(b"")
        (folder / "torn" / split / "a" / "a.png").write_bytes(b"\x89PNG")
    for split in ("train", "test"):
        (folder / "fine" / split / "a").mkdir(parents=True)
        Image.new("RGB", (8, 8)).save(folder / "fine" / split / "a" / "a.png")
    (folder / "file.txt").write_text("words")
    for split in ("train", "test"):
        (folder / "pipe" / split / "a").mkdir(parents=True)
        os.mkfifo(folder / "pipe" / split / "a" / "a.png")
    os.mkfifo(folder / "pipe.yml")


def _make_records(folder: Path) -> None:
    folder.mkdir()
    for name, content in {
        "empty": b"",
        "words": b"no record",
        "list": b"[]",
        "nan": b'{"a": NaN}',
        "deep": b"[" * 100_000,
        "half": b'{"model": "a", ',
        "utf16": json.dumps({"model": "a"}).encode("utf-16"),
        "other": b'{"model": 3}',
    }.items():
        (folder / name).mkdir()
        (folder / name / "a.json").write_bytes(content)
    (folder / "none").mkdir()


BAD = {int: ("x", "1.5", "-1", "nan", ""), float: ("x", "nan", "inf", "-1", ""), str: ("no such", "")}
DEVICES = ("tpu", "cuda:99", "cpu:x", "", "mps")
NAMES = ("", "vit_16", "no such", "../x", "\x1b[31m", LONG, "VIT_16B")
SETS = (
    "",
    "no such",
    "file.txt",
    "bare",
    "flat",
    "heic",
    "torn",
    "no_test",
    "pipe",
    "~nobody/x",
    "cifar1o",
    LONG,
    "a\x00b",
)
WEIGHTS = (
    "none.safetensors",
    "weights",
    "file.txt",
    "weights/run_without_model",
    *(f"weights/{name}.pth" for name in ("empty", "page", "pointer", "words", "code", "list")),
    *(
        f"weights/{name}.safetensors"
        for name in ("nan", "foreign", "cut", "flipped", "header", "about_list", "std_zero")
    ),
    "",
    LONG,
)
OUTPUTS = ("", "file.txt/x.json", "weights", "x.txt", f"{LONG}.json", "/proc/x.json", "a\x1b[31m.json")


def command_lines() -> Iterator[Line]:
    """The table."""
    yield from _of_train()
    yield from _of_measures()
    yield from _of_plans()
    yield from _of_the_rest()
    yield from _with_variables()


def _of_train() -> Iterator[Line]:
    for option in (*fields(Recipe), *fields(Settings)):
        flag = f"--{option.name.replace('_', '-')}"
        for value in BAD.get(option.type, ()):
            if not _is_fine(option, value):
                yield Line(("train", f"{flag}={value}", "--data=no such"), about=option.name.split("_")[0])
    for name in NAMES:
        yield Line(("train", f"--model={name}"))
    for name in SETS:
        yield Line(("train", f"--data={name}", "--img-size=8", *CPU))
    for value in ("x", "0", "-1", "1.5"):
        yield Line(("train", f"--limit={value}"))
        yield Line(("train", f"--img-size={value}"))
    yield Line(("train", "--img-size=33"))
    yield Line(("train", "--img-size=1000000"))
    yield Line(("train", "--limit=4", *CPU))
    for device in DEVICES:
        yield Line(("train", "--limit=64", "--batch-size=8", f"--device={device}"))
    for out in ("", "file.txt", "file.txt/x", LONG, "/proc/x"):
        yield Line(("train", f"--out={out}"))
    for name in ("none", "file.txt", "weights/cut.safetensors", "weights/foreign.safetensors", "bare"):
        options = ("--token-weight=0.5", "--smallest-crop=0.5", "--limit=64", "--batch-size=8")
        yield Line(("train", f"--label-maps={name}", *options, *CPU))
    yield Line(("train", "--compile", "--map-penalty=1"))
    yield Line(("train", "--seed=99999999999999999999999", "--limit=40", *CPU), about="seed")
    yield Line(("train", "--model-options", f"depth={'[' * 3000}"), about="depth")
    yield Line(("train", "--model-options", "depth=2020-13-45"), about="depth")
    for option in ("selection_before=4", "selection=random", "attention=re", "attention_options=[1]", "dense_head=3"):
        yield Line(("train", "--model-options", option), about=option.split("=")[0])
    for name in (*RECIPES, "none"):
        yield Line(("train", f"--recipe=recipes/{name}.yml", "--warmup-epochs=0", "--data=no such", *CPU))
    yield Line(("train", f"--epochs={HUGE}"), about="epochs")
    yield Line(("train", "--epochs=99999999999999999999"), about="epochs")
    yield Line(("train", f"--learning-rate={HUGE}"), about="learning_rate")
    yield Line(("train", f"--limit={HUGE}"))
    yield Line(("train", f"--img-size={HUGE}"))
    yield Line(("train", "--workers=1000000"), about="workers")
    yield Line(("train", "--model-options", "depth=010"), about="depth")
    for value in ("x", "nan", "inf", "-1", "0", "1e300"):
        yield Line(("train", f"--timeout-minutes={value}", *CPU), about="timeout")
        yield Line(("evaluate", "weights/whole.safetensors", f"--timeout-minutes={value}", *CPU), about="timeout")
    for name in ("cut", "flipped", "header", "nan", "foreign", "about_list", "says_nothing"):
        yield Line(("train", f"--from=weights/{name}.safetensors", *CPU))
    for name in ("empty", "page", "pointer", "words", "code", "list", "meta", "scalar"):
        yield Line(("train", f"--from=weights/{name}.pth", "--model=cifar_vit_4x64", "--limit=64", *CPU))
    for name in ("list", "other"):
        yield Line(
            ("train", f"--out=runs/{name}", "--resume", "--limit=64", "--batch-size=8", *CPU), about="checkpoint"
        )
    yield Line(("train", "--no-such-option"))
    yield Line(("train", "--evaluate-every=100"))


def _is_fine(option: Field, value: str) -> bool:
    """Whether a value is none that an option refuses."""
    limits = option.metadata.get("limits", {})
    negative = value == "-1" and max(limits.get("at_least", 0), limits.get("above", 0)) < 0
    return negative or (option.type is str and (value == option.default or not option.metadata.get("choices")))


def _of_measures() -> Iterator[Line]:
    for path in (
        *WEIGHTS,
        "weights/says_nothing.safetensors",
        "weights/whole.safetensors",
        "weights/classes.safetensors",
    ):
        yield Line(("evaluate", path, "--limit=20", *CPU))
    for option in ("batch-size=0", f"batch-size={HUGE}", "workers=-1", "workers=99999999"):
        about = option.split("=")[0].replace("-", "_")
        yield Line(("evaluate", "weights/whole.safetensors", "--limit=20", f"--{option}", *CPU), about=about)
    for name in ("meta", "scalar", "nan", "list", "code"):
        yield Line(("similarity", "--timm=vit_tiny_patch16_224", f"--checkpoint=weights/{name}.pth", "--count=2", *CPU))
    for name in ("local-dir:nowhere", "local-dir:weights", "x:y", ":", ""):
        yield Line(("similarity", f"--timm={name}", "--count=2", *CPU))
    for path in WEIGHTS:
        yield Line(("similarity", path, "--count=2", *CPU))
        yield Line(("similarity", "cifar_vit_4x64", f"--checkpoint={path}", "--count=2", *CPU))
    for name in SETS[1:]:
        yield Line(("evaluate", "weights/whole.safetensors", f"--data={name}", *CPU))
    for name in ("no such", "file.txt", "bare", "heic", "torn", "~nobody/x", "a\x00b"):
        yield Line(("similarity", "cifar_vit_4x64", f"--images={name}", "--count=2", *CPU))
    for out in OUTPUTS:
        yield Line(("similarity", "cifar_vit_4x64", f"--out={out}"))
        yield Line(("similarity", "cifar_vit_4x64", f"--plot={out}"))
        yield Line(("bench", f"--out={out}"))
    for value in ("x", "0", "1", "-1"):
        yield Line(("similarity", "cifar_vit_4x64", f"--count={value}", *CPU))
    for value in ("x", "0", "-1"):
        yield Line(("evaluate", "weights/whole.safetensors", f"--limit={value}", *CPU))
        yield Line(("bench", f"--threads={value}"))
        yield Line(("bench", "models", f"--models={value}"))
    for device in DEVICES:
        yield Line(("similarity", "cifar_vit_4x64", f"--device={device}"))
        yield Line(("bench", "data", f"--device={device}"))
    yield Line(("similarity", "evo_deit_ti", "--images=shapes", "--count=2", *CPU), about="token")
    yield Line(("similarity",))
    yield Line(("similarity", "--timm=no_such_vit"))
    for device in DEVICES:
        yield Line(("bench", "whole-models", f"--device={device}"))
    for value in ("x", "0", "1", "-1", "1.5", "nan", ""):
        yield Line(("bench", "whole-models", f"--batch-size={value}"))
    for out in OUTPUTS:
        yield Line(("bench", "whole-models", f"--out={out}"))
    for option in ("--threads=0", "--threads=99999999999", "--batch-size=99999999999999"):
        yield Line(("bench", "whole-models", option), about=option[2:].split("=")[0].replace("-", "_"))
    yield Line(("bench", "models", "--models=99999999999"), about="models")
    yield Line(("similarity", "cifar_vit_4x64", "--seed=99999999999999999999999", *CPU), about="seed")
    yield Line(("similarity", "cifar_vit_4x64", "--seed=-1", *CPU), about="seed")
    yield Line(("bench", "everything"))


def _of_plans() -> Iterator[Line]:
    plans = [f"plans/{name}.yml" for name in (*CHANGES, *OTHER_PLANS, "none", "folder")]
    for path in plans:
        yield Line(("run", path, "--dry-run"))
    for path in plans[::3]:
        yield Line(("records", "records/none", f"--plan={path}"))
    for name in ("list", "word", "utf16", "binary", "none", "folder", "loop"):
        yield Line(("campaign", "status", f"--file=plans/{name}.yml"))
    for shard in ("", "1", "0/2", "3/2", "a/b", "1/0", "-1/2", "²/²"):
        yield Line(("run", "plans/good.yml", f"--shard={shard}", "--dry-run"))
    for value in ("x", "nan", "inf", "-1"):
        yield Line(("run", "plans/good.yml", f"--budget-seconds={value}", "--folder=out"))
        yield Line(("campaign", "pause", f"--minutes={value}", "--folder=out"))
    yield Line(("campaign", "pause", "--minutes=1e308", "--folder=out"), about="minutes")
    for value in ("x", "0", "-1", "1.5"):
        yield Line(("run", "plans/good.yml", f"--workers={value}", "--folder=out"))
        yield Line(("campaign", "status", f"--workers={value}"))
    yield Line(("run", "plans/good.yml", "--section=none", "--dry-run"))
    for path in ("pipe.yml", "/dev/zero"):
        yield Line(("run", path, "--dry-run"))
        yield Line(("campaign", "status", f"--file={path}"))
        yield Line(("records", path))
        yield Line(("evaluate", path, *CPU))
        yield Line(("similarity", path, *CPU))
    yield Line(("run", "plans/good.yml", "--folder=file.txt"))
    yield Line(("run", "plans/good.yml", "--folder="))


def _of_the_rest() -> Iterator[Line]:
    for name in NAMES[1:]:
        yield Line(("models", name))
        yield Line(("models", "--diff", "vit_16b", name))
    for name in SETS[1:]:
        yield Line(("data", name, "--img-size=8"))
    for value in ("x", "0", "-1", "1000000"):
        yield Line(("data", "shapes", f"--img-size={value}"))
    yield Line(("data", "cifar10", "--data-root=nowhere"))
    yield Line(("data", "--data-root=nowhere"))
    for name in ("empty", "words", "list", "nan", "deep", "half", "utf16", "other", "none"):
        yield Line(("records", f"records/{name}"))
    for name in ("nowhere", "file.txt", "weights/whole.safetensors", "a\x00b", LONG):
        yield Line(("records", name))
    yield Line(())
    yield Line(("trian",))
    yield Line(("models", "--no-such-option"))
    yield Line(("--no-such-option",))


def _with_variables() -> Iterator[Line]:
    yield Line(("data", "cifar10"), {"DEEPVIT_EDU_DATA": "nowhere"})
    yield Line(("data", "cifar10"), {"DEEPVIT_EDU_DATA": "~nobody/x"})
    yield Line(("data", "cifar10"), {"DEEPVIT_EDU_CACHE": "/proc/x"})
    yield Line(("data", "cifar10"), {"DEEPVIT_EDU_CACHE": "file.txt"})
    yield Line(("data", "cifar10"), {"DEEPVIT_EDU_CACHE": "~nobody/x"})
    yield Line(("train", "--data=cifar10"), {"DEEPVIT_EDU_DATA": "file.txt"})
    yield Line(("train", *CPU), {"WORLD_SIZE": "2"}, about="RANK")
    yield Line(("train", *CPU), {"WORLD_SIZE": "2", "RANK": "x"}, about="torchrun")
    for value in ("many", "-1", "1.5", "2 2"):
        yield Line(("train", *CPU), {"WORLD_SIZE": value}, about="WORLD_SIZE")
        yield Line(("run", "plans/good.yml", "--folder=out", *CPU), {"WORLD_SIZE": value}, about="WORLD_SIZE")
