import pytest
import torch

from deepvit_edu import data
from deepvit_edu.checkpoints import save_model
from deepvit_edu.cli import main
from deepvit_edu.diagnostics import collapse_report
from deepvit_edu.zoo import create_model

SMALL = ["--images", "4", "--device", "cpu"]


@pytest.fixture
def run_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(3)
    model = create_model("cifar_vit_4x64", depth=3, patch_size=8, num_classes=10, attention=("re",))
    save_model(model, tmp_path / "run/model.safetensors", dataset="shapes", classes=[])
    return tmp_path


def table(capsys):
    header, *rows = [line.split("  ") for line in capsys.readouterr().out.splitlines()[1:]]
    header, *rows = [[cell.strip() for cell in row if cell.strip()] for row in (header, *rows)]
    return header, [row for row in rows if row[0].isdigit()]


def test_a_trained_model_is_held_against_its_start(run_folder, capsys):
    assert main(["similarity", "run", *SMALL, "--seed", "3"]) == 0
    header, rows = table(capsys)
    assert header[:5] == ["block", "alike", "centred", "alike at initialisation", "centred at initialisation"]
    assert rows[0][1:3] == ["–", "–"]
    assert len(rows) == 3
    # The saved weights are those that seed 3 starts from, so the model is as it was at initialisation.
    assert all(row[1:3] == row[3:5] for row in rows)


def test_the_numbers_are_those_of_the_map_that_is_asked_for(run_folder, capsys):
    assert main(["similarity", "cifar_vit_4x64", *SMALL, "--axis", "row", "--centre", "double"]) == 0
    header, rows = table(capsys)
    torch.manual_seed(0)
    model, shapes = create_model("cifar_vit_4x64", num_classes=10), data.load("shapes", "test")
    order = torch.randperm(len(shapes), generator=torch.Generator().manual_seed(0))[:4]
    report = collapse_report(model, shapes.normalise(shapes.images[order]), "row", "double")
    assert "alike at initialisation" not in header
    assert [row[header.index("centred")] for row in rows[1:]] == [f"{x:.3f}" for x in report["adjacent_centred"]]
    assert [row[header.index("heads")] for row in rows] == [f"{x:.3f}" for x in report["heads"]]


def test_a_picture_is_drawn_and_used_maps_differ(run_folder, capsys):
    assert main(["similarity", "run/model.safetensors", *SMALL, "--which", "used", "--out", "maps.png"]) == 0
    _, used = table(capsys)
    assert (run_folder / "maps.png").read_bytes().startswith(b"\x89PNG")
    assert main(["similarity", "run", *SMALL]) == 0
    assert table(capsys)[1] != used


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["vit_16"], "neither a file nor a model named 'vit_16'; did you mean 'vit_16b'"),
        (["cifar_vit_4x64", "--images", "1"], "choose from 2 to the 2000 test images"),
        (["run", "--data", "no-such-set"], "no-such-set"),
    ],
)
def test_bad_input_gets_one_sentence(run_folder, capsys, arguments, said):
    assert main(["similarity", *arguments, "--device", "cpu"]) == 1
    printed = capsys.readouterr().err
    assert said in printed
    assert printed.count("\n") == 1
