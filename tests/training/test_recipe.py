import re

import pytest
import yaml

from deepvit_edu.training import Recipe, list_recipes, load_recipe
from deepvit_edu.training.recipe_files import COMMON, FOLDER


def test_recipes_are_the_authors():
    setups = [load_recipe(name) for name in ("deepvit_32b", "t2t_vit_14", "refiner_vit_s_token_labels")]
    deep, tokens, refined = (setup.recipe for setup in setups)
    assert (deep.learning_rate, deep.weight_decay, deep.drop_path, deep.mixup, deep.cutmix) == (5e-4, 0.05, 0.2, 0.1, 0)
    assert (deep.map_penalty, deep.map_penalty_pairs) == (0.1, 12)
    assert (tokens.total_batch, tokens.warmup_epochs, tokens.drop_path, tokens.total_epochs) == (512, 10, 0.1, 310)
    assert (refined.mix_token, refined.token_weight, refined.mixup) == (True, 0.5, 0.8)
    assert setups[2].config().dense_head
    assert {recipe.images_from for recipe in (deep, tokens, refined)} == {"files"}


@pytest.mark.parametrize("name", list_recipes())
def test_every_recipe_fits_eight_processes_and_one(name):
    recipe = load_recipe(name).recipe
    assert recipe.accumulation(1) == 8 * recipe.accumulation(8)


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.yml")), ids=lambda path: path.stem)
def test_every_recipe_names_its_source(path):
    text = path.read_text(encoding="utf-8")
    assert re.search(r"^# .*(?:Source|source)", text, re.MULTILINE) or "Sources" in text
    for conflict in re.findall(r"# CONFLICT[^\n]*(?:\n#[^\n]*)*", text):
        assert "Taken" in conflict or "expect" in conflict
    assert yaml.safe_load(text)


def test_options_are_replaced_all_at_once():
    # Alone, either change would break the rule that the warm-up is no longer than the epochs.
    setup = load_recipe("t2t_vit_14", epochs=3, warmup_epochs=1, learning_rate=1e-3, model_options={"depth": 2})
    assert (setup.recipe.epochs, setup.recipe.learning_rate, setup.config().depth) == (3, 1e-3, 2)


def test_rate_is_as_given_or_scaled_and_the_plan_says_so():
    given = load_recipe("t2t_vit_14", total_batch=1024).recipe
    scaled = load_recipe("t2t_vit_14", total_batch=1024, scale_rate=True).recipe
    assert (given.highest_rate, scaled.highest_rate) == (5e-4, 1e-3)
    assert "0.0005, as given" in given.describe(4)
    assert "0.001, scaled from 0.0005 at 512" in scaled.describe(4)
    assert "1024 images a step = 4 processes x 64 images x 4 accumulated" in scaled.describe(4)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"erse": 1}, "no option 'erse'; did you mean 'erase'"),
        ({"erase": 2}, "erase is 2; it must be at least 0 and below 1"),
        ({"epochs": 2.5}, "epochs is 2.5; it must be a whole number"),
        ({"compile": "yes"}, "compile is 'yes'; it must be true or false"),
        ({"batch_size": 3, "total_batch": 9}, "batch_size 3 must be even"),
        ({"batch_size": 48}, "total_batch is 256 images, which no number of batches of 48 makes"),
        ({"mix_token": True}, "set token_weight, too"),
        ({"compile": True}, "map_penalty reads the maps"),
        ({"grad_checkpointing": True}, "map_penalty reads the maps"),
        ({"schedule": "cosine"}, "set schedule to cosine-by-epoch"),
        ({"epochs": 3}, "warmup_epochs 5 is more than the 3 epochs"),
        ({"model_options": {"dpth": 2}}, "did you mean 'depth'"),
        ({"model": "deepvit_33b"}, "no model is named 'deepvit_33b'"),
    ],
)
def test_what_does_not_fit_is_said_in_a_sentence(change, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        load_recipe("deepvit_32b", **change)


def test_batch_that_cannot_be_shared():
    with pytest.raises(ValueError, match="no multiple of 3 processes times batch_size 32"):
        load_recipe("deepvit_32b").recipe.accumulation(3)
    with pytest.raises(ValueError, match="or another total_batch"):
        Recipe(batch_size=64).accumulation(2)


def test_unknown_recipe_and_broken_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="did you mean 'deepvit_32b'"):
        load_recipe("deepvit_32")
    broken = tmp_path / "mine.yml"
    broken.write_text("model: [", encoding="utf-8")
    with pytest.raises(ValueError, match="not YAML"):
        load_recipe(broken)


def test_own_file_inherits(tmp_path):
    mine = tmp_path / "mine.yml"
    mine.write_text("inherits: t2t_vit_14\nepochs: 100\n", encoding="utf-8")
    recipe = load_recipe(mine).recipe
    assert (recipe.epochs, recipe.warmup_epochs) == (100, 10)


def test_own_file_that_names_no_other_stands_on_what_the_papers_share(tmp_path):
    mine = tmp_path / "mine.yml"
    mine.write_text("model: vit_12b\nsmallest_view: 0.2\n", encoding="utf-8")
    setup = load_recipe(mine)
    assert (setup.recipe.epochs, setup.recipe.ema_decay, setup.recipe.smallest_crop) == (300, 0.99996, 0.2)
    assert setup.config().drop_path_rate == 0.1
    assert yaml.safe_load(COMMON.read_text(encoding="utf-8"))["images_from"] == "files"
