"""The controls can fail: each measure is written wrongly, and the control that guards it has to notice."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
REPETITION, MEASURES, ALIVENESS = (
    f"deepvit_edu/diagnostics/{name}.py" for name in ("repetition", "measures", "aliveness")
)
INTERVENTIONS = "deepvit_edu/diagnostics/interventions.py"

# What is wrong: the file, the right line, the wrong one, and the control by the name of its test.
WRONG = {
    "heads of one number are compared": (
        REPETITION,
        "linear_sum_assignment(similarity.numpy(), maximize=True)",
        "[[*range(len(similarity))]] * 2",
        "whatever_their_heads_numbers or new_numbers_for_the_heads",
    ),
    "several heads may be matched with one": (
        REPETITION,
        "rows, columns = linear_sum_assignment(similarity.numpy(), maximize=True)",
        "rows, columns = __import__('numpy').arange(len(similarity)), similarity.numpy().argmax(1)",
        "one_to_one",
    ),
    "pairs are scored on the images that matched them": (
        REPETITION,
        "scoring[a, :, b][pairs]",
        "matching[a, :, b][pairs]",
        "chance_made",
    ),
    "stripes are left in the rest": (
        REPETITION,
        "(centred - stripes).flatten(-2)",
        "centred.flatten(-2)",
        "stripe_part_only",
    ),
    "the null is left out": (
        REPETITION,
        "measured - new.mean(dim=0), new.std(dim=0)",
        "measured, new.std(dim=0)",
        "new_weights_and_unrelated_blocks",
    ),
    "what is rounding is compared": (
        REPETITION,
        "similarity[empty], similarity[:, empty] = torch.nan, torch.nan",
        "pass",
        "rounding",
    ),
    "the bound forgets that a head is like itself": (
        REPETITION,
        "square = 1 / num_heads + (1 - 1 / num_heads) * s",
        "square = s",
        "the_bound",
    ),
    "rows are not centred": (
        MEASURES,
        "return attn - attn.mean(dim=-1, keepdim=True)",
        "return attn",
        "query_independence",
    ),
    "stripes are counted once and not for every query": (
        MEASURES,
        "stripes = attn.shape[-2] * centred",
        "stripes = centred",
        "query_independence",
    ),
    "every image has its own ratio": (
        MEASURES,
        "centred.mean(dim=-2).square().sum(dim=(0, -1))",
        "(centred.mean(dim=-2).square().sum(-1) / centred.square().sum((-2, -1))).mean(0) * variance(centred)",
        "ratio_of_sums",
    ),
    "the variance of a uniform map is believed": (
        MEASURES,
        "variance > tolerance**2 * whole",
        "variance > 0",
        "rounding",
    ),
    "no attention at all decides": (
        ALIVENESS,
        'return min(effects, key=lambda name: effects[name]["loss"][0])',
        'return "none"',
        "least_harmful",
    ),
    "one harmful replacement suffices": (
        ALIVENESS,
        "if any(cost + 2 * error <= threshold",
        "if all(cost + 2 * error <= threshold",
        "least_harmful",
    ),
    "only the last block's map is replaced": (
        ALIVENESS,
        "tuple(range(depth // 2, depth))",
        "(depth - 1,)",
        "test_the_trained_network_that_works_with_its_deep_attention_is_alive",
    ),
    "the mean row is taken over keys": (
        INTERVENTIONS,
        "return attn.mean(dim=-2, keepdim=True).expand_as(attn)",
        "return attn.mean(dim=-1, keepdim=True).expand_as(attn)",
        "replaced_by_its_equal",
    ),
    "errors are not of paired differences": (
        INTERVENTIONS,
        'F.nll_loss(new, labels, reduction="none") - F.nll_loss(old, labels, reduction="none")',
        'F.nll_loss(new, labels, reduction="none") - F.nll_loss(old, labels)',
        "paired",
    ),
}
TESTS = {REPETITION: "repetition", MEASURES: "measures", ALIVENESS: "aliveness", INTERVENTIONS: "interventions"}


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the package, beside the tests and the trained models, in which a line may be wrong."""
    folder = tmp_path_factory.mktemp("wrong")
    shutil.copytree(ROOT / "deepvit_edu", folder / "deepvit_edu", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("tests", "book", "tools", "pyproject.toml"):
        (folder / name).symlink_to(ROOT / name)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("wrong", WRONG)
def test_a_wrong_measure_fails_its_control(wrong: str, copy: Path) -> None:
    name, right, line, control = WRONG[wrong]
    code = (ROOT / name).read_text(encoding="utf-8")
    assert code.count(right) == 1, "the line has changed: change it here, too"
    try:
        (copy / name).write_text(code.replace(right, line), encoding="utf-8")
        test = f"tests/diagnostics/test_{TESTS[name]}.py"
        command = [sys.executable, "-m", "pytest", "-qx", "-p", "no:cacheprovider", test, "-k", control]
        environment = {**os.environ, "PYTHONPATH": str(copy), "PYTHONDONTWRITEBYTECODE": "1"}
        done = subprocess.run(command, cwd=copy, env=environment, capture_output=True, text=True, check=False)
    finally:
        (copy / name).write_text(code, encoding="utf-8")
    assert done.returncode == 1, done.stdout[-3000:]
    assert "1 failed" in done.stdout
