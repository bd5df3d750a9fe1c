import re

import pytest
import yaml

from deepvit_edu.imagenet.recipe import FOLDER, list_recipes, load_recipe


def test_recipes_are_the_authors():
    deep, tokens, refined = (load_recipe(name) for name in ("deepvit_32b", "t2t_vit_14", "refiner_vit_s_token_labels"))
    assert (deep.learning_rate, deep.weight_decay, deep.drop_path, deep.mixup, deep.cutmix) == (5e-4, 0.05, 0.2, 0.1, 0)
    assert (deep.map_penalty, deep.map_penalty_pairs) == (0.1, 12)
    assert (tokens.total_batch, tokens.warmup_epochs, tokens.drop_path, tokens.total_epochs) == (512, 10, 0.1, 310)
    assert (refined.mix_token, refined.token_weight, refined.mixup) == (True, 0.5, 0.8)
    assert refined.config().dense_head


@pytest.mark.parametrize("name", list_recipes())
def test_every_recipe_fits_eight_processes_and_one(name):
    recipe = load_recipe(name)
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
    recipe = load_recipe("t2t_vit_14", ["epochs=3", "warmup_epochs=1", "learning_rate=1e-3", "model_options.depth=2"])
    assert (recipe.epochs, recipe.learning_rate, recipe.config().depth) == (3, 1e-3, 2)


def test_rate_is_as_given_or_scaled_and_the_plan_says_so():
    given = load_recipe("t2t_vit_14", ["total_batch=1024"])
    scaled = load_recipe("t2t_vit_14", ["total_batch=1024", "scale_rate=true"])
    assert (given.highest_rate, scaled.highest_rate) == (5e-4, 1e-3)
    assert "0.0005, as the recipe says" in given.plan(4)
    assert "0.001, scaled from 0.0005 at 512" in scaled.plan(4)
    assert "1024 = 4 processes x 64 images x 4 accumulated" in scaled.plan(4)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("erse=1", "no option 'erse'; did you mean 'erase'"),
        ("erase=2", "erase is 2.0; it must be at least 0 and below 1"),
        ("epochs=2.5", "epochs is '2.5', which is no int"),
        ("compile=yes", "compile is 'yes', which is no bool"),
        ("erase", "write it as option=value"),
        ("batch_size=5", "batch_size 5 must be even"),
        ("mix_token=true", "set token_weight=0.5"),
        ("compile=true", "map_penalty reads the maps"),
        ("model_options.dpth=2", "did you mean 'depth'"),
        ("model=deepvit_33b", "no model is named 'deepvit_33b'"),
    ],
)
def test_what_does_not_fit_is_said_in_a_sentence(change, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        load_recipe("deepvit_32b", [change])


def test_batch_that_cannot_be_shared():
    with pytest.raises(ValueError, match="no multiple of 3 processes times batch_size 32"):
        load_recipe("deepvit_32b").accumulation(3)


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
    assert (load_recipe(mine).epochs, load_recipe(mine).warmup_epochs) == (100, 10)
