import json

import pytest

from deepvit_edu.experiment import load_plan, run_plan

from .plans import write_plan


@pytest.fixture(scope="package")
def template(tmp_path_factory):
    """A real record, whose numbers the tests replace."""
    folder = tmp_path_factory.mktemp("template")
    plan = load_plan(write_plan(folder, seeds=[0], arms={"plain": None}, contrasts=None))
    run_plan(plan, folder, device="cpu", workers=1, progress=False, say=lambda line: None)
    return json.loads((folder / "tiny/full/plain_s0.json").read_text())
