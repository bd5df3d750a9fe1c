"""The page on released models, run as in the `t4` tier, with small untrained networks in the place of the downloads."""

from pathlib import Path

import jupytext
import timm
import torch

from deepvit_edu import create_model, data, plot
from deepvit_edu.checkpoints import to_official
from deepvit_edu.records import load_measurement

PAGE = Path(__file__).parents[1] / "book" / "appendix" / "released_models.md"
SMALL = {"img_size": 32, "depth": 3, "num_classes": 10}


def test_the_page_measures_downloads_and_authors_files(monkeypatch, tmp_path, capsys):
    theirs = create_model("deepvit_16b", **SMALL)
    torch.save(to_official(theirs.state_dict(), "deepvit_16b", depth=3, img_size=32), tmp_path / "file.pth.tar")
    asked, timms, load = [], timm.create_model, data.load

    def weights_filled_in(name, pretrained):
        asked.append((name, pretrained))
        return timms(name, **SMALL, embed_dim=24, num_heads=2)

    def photographs_drawn(name, split, img_size, limit):
        asked.append((name, img_size))
        return load("shapes", split, img_size=32, limit=6).subset(torch.arange(limit) % 6)

    monkeypatch.setenv("DEEPVIT_EDU_TIER", "t4")
    monkeypatch.chdir(tmp_path)  # the page writes its record where it runs
    monkeypatch.setattr(timm, "create_model", weights_filled_in)
    monkeypatch.setattr(data, "load", photographs_drawn)
    code = "\n".join(cell.source for cell in jupytext.read(PAGE).cells if cell.cell_type == "code")
    code = code.replace("authors_files = {}", f"authors_files = {{'deepvit_16b': '{tmp_path}/file.pth.tar'}}")
    code = code.replace("create_model(name), path", "create_model(name, **SMALL), path").replace("64 if", "6 if")
    names = {"SMALL": SMALL}
    exec(code, names)
    assert [entry for entry in asked if entry[1] is True or entry[1] == 224] == asked
    assert len(asked) == 4
    assert list(names["reports"]) == [*names["released"], "deepvit_16b"]
    assert names["effects"]["deepvit_16b"]["uniform"][2] >= 0
    assert "trained weights" in capsys.readouterr().out
    record = load_measurement(tmp_path / "released_models.json")
    assert [row["model"] for row in record["rows"]] == list(names["reports"])
    assert record["rows"][0]["previous"][0] is None  # there is no map before the first


def test_untrained_networks_are_not_shown(monkeypatch):
    shown = []
    monkeypatch.setenv("DEEPVIT_EDU_TIER", "cpu")
    monkeypatch.setattr(plot, "show", lambda *_args, **_options: shown.append(True))
    code = "\n".join(cell.source for cell in jupytext.read(PAGE).cells if cell.cell_type == "code")
    names = {}
    exec(code, names)
    assert len(names["reports"]) == 3
    if not names["rows"]:  # a record of a real run may be shown
        assert shown == []
        assert "Not measured yet" in names["AWAITED"].data
