from dataclasses import replace

import pytest
import yaml

from deepvit_edu.experiment import load_plan
from deepvit_edu.experiment.plan import Job, all_jobs, arm_config, arm_recipe, setting
from deepvit_edu.experiment.reading import experiments_in, sections_of
from deepvit_edu.training import load_recipe
from tools.contents import ROOT

from .plans import TINY_PLAN, TUNING, write_plan

DENSE = {"smallest_crop": 0.5, "token_weight": 0.5}
ASKED = TINY_PLAN["contrasts"][0]
SLOPE = {"name": "slope", "treatment": ["re", "re"], "control": ["plain", "plain"]}

PLANS = experiments_in(ROOT / "book" / "experiments")


def test_experiments_are_found_under_any_name_in_the_order_of_their_numbers(tmp_path):
    for name in ("e10_last", "e2_depth", "s1_remedies", "c_small", "rates"):
        write_plan(tmp_path, name=name)
    write_plan(tmp_path, name="no_comparison", contrasts=[])
    (tmp_path / "claims.yml").write_text("- {id: a claim}")
    found = [path.stem for path in experiments_in(tmp_path)]
    assert found == ["c_small", "e2_depth", "e10_last", "rates", "s1_remedies"]


def names(plan):
    return [job.name for job in all_jobs(plan)]


@pytest.mark.parametrize("path", PLANS, ids=lambda path: path.stem)
def test_the_books_plans_can_be_run_whole_and_in_sections(path):
    sections = yaml.safe_load(path.read_text()).get("sections", {})
    for section in (None, *sections):
        plan = load_plan(path, section)
        assert len(plan.seeds) >= 3
        primary = sum(contrast.primary for contrast in plan.contrasts)
        assert 1 <= primary <= plan.primary_contrasts <= 4
        assert all_jobs(plan)


@pytest.mark.parametrize("path", PLANS, ids=lambda path: path.stem)
def test_borrowed_arms_are_declared_as_where_they_were_made(path):
    for section in (None, *yaml.safe_load(path.read_text()).get("sections", {})):
        plan = load_plan(path, section)
        for name, arm in plan.arms.items():
            if arm.taken_from:
                source, source_arm = arm.taken_from.split("/")
                made = load_plan(path.with_name(f"{source}.yml"), section)
                assert arm_config(plan, name, 10) == arm_config(made, source_arm, 10)
                assert arm_recipe(plan, Job(name, 0), 0.1) == arm_recipe(made, Job(source_arm, 0), 0.1)
                assert (plan.data, plan.seeds, plan.tuning) == (made.data, made.seeds, made.tuning)


def test_the_setting_says_which_images_and_how_large_and_long():
    study = load_plan(ROOT / "book" / "experiments" / "e4_refiner.yml", "cpu-study")
    assert setting(study) == (
        "CIFAR-10 at 32 pixels; 24 blocks of 64 channels and 8 heads, patches of 8 pixels; "
        "1 epoch, 3 seeds for each arm"
    )
    study = load_plan(ROOT / "book" / "experiments" / "s1_depth_and_remedies.yml")
    assert setting(study).startswith("the images `framed-quarter` (120,000 for training) at 64 pixels;")


def test_seeds_come_one_after_the_other_and_tuning_first(tmp_path):
    plan = load_plan(write_plan(tmp_path, tuning=TUNING))
    tuning = [f"tuning/{arm}_lr{rate}_s9" for arm in ("plain", "re") for rate in ("0.001", "0.01")]
    assert names(plan) == [*tuning, "plain_s0", "re_s0", "plain_s1", "re_s1"]


def test_later_priorities_and_borrowed_arms(tmp_path):
    arms = {"late": {"priority": 2}, **TINY_PLAN["arms"], "lent": {"from": "other/plain"}}
    plan = load_plan(write_plan(tmp_path, arms=arms))
    assert names(plan) == ["plain_s0", "re_s0", "plain_s1", "re_s1", "late_s0", "late_s1"]


def test_arm_and_tuning_change_model_and_recipe(tmp_path):
    arms = {**TINY_PLAN["arms"], "wide": {"model": {"embed_dim": 16}, "recipe": {"weight_decay": 0.5}}}
    plan = load_plan(write_plan(tmp_path, arms=arms, tuning=TUNING))
    assert arm_config(plan, "wide", 7).embed_dim == 16
    assert arm_config(plan, "wide", 7).num_classes == 7
    assert arm_config(plan, "re", 7).attention == ("re",)
    recipe = arm_recipe(plan, Job("wide", 3), 0.5)
    assert (recipe.weight_decay, recipe.learning_rate, recipe.seed, recipe.epochs) == (0.5, 0.5, 3, 2)
    assert arm_recipe(plan, Job("wide", 9, 0.01), 0.01).epochs == 1


def test_a_section_replaces_parts_and_keeps_the_contrasts_that_it_can_ask(tmp_path):
    sections = {
        "small": {"recipe": {"epochs": 1}, "seeds": [5]},
        "one-arm": {"arms": ["plain"]},
        "no-re": {"arms": {"re": None}},
        "changed-arm": {"arms": {"re": {"model": {"attention": ["refined"]}}}},
    }
    path = write_plan(tmp_path, sections=sections)
    small = load_plan(path, "small")
    assert (small.recipe, small.seeds, len(small.contrasts)) == ({"epochs": 1, "batch_size": 20}, (5,), 1)
    for section in ("one-arm", "no-re"):
        assert list(load_plan(path, section).arms) == ["plain"]
        assert load_plan(path, section).contrasts == ()
    assert arm_config(load_plan(path, "changed-arm"), "re", 2).attention == ("refined",)
    assert len(load_plan(path, "changed-arm").contrasts) == 1


FROM_FILES = {"images_from": "files", "smallest_crop": 0.5}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"title": None}, "lacks title"),
        ({"sedes": [1]}, "unknown part 'sedes'.*seeds"),
        ({"model": {"name": "cifar_vit_5x64"}}, "no model is named 'cifar_vit_5x64'"),
        ({"model": {**TINY_PLAN["model"], "depht": 3}}, "no option 'depht'.*depth"),
        ({"model": {**TINY_PLAN["model"], "num_heads": 3}}, "choose a divisor"),
        ({"recipe": {"epochs": 0}}, "epochs is 0"),
        ({"recipe": {"epohcs": 1}}, "epohcs"),
        ({"arms": {"plain": {"modle": {}}, "re": None}}, "modle"),
        ({"arms": {"plain": None}}, "names an unknown arm 're'"),
        ({"arms": {"plain": {"tuned_as": "x"}, "re": None}}, "tuned as an unknown arm 'x'"),
        ({"contrasts": [{"name": "a", "treatment": ["re", "re"], "control": "plain"}]}, "one control"),
        ({"contrasts": [{"name": "a", "treatment": "re"}]}, "lacks 'control'"),
        ({"sections": {"s": {"arms": ["plian"]}}}, "names the arm 'plian'.*plain"),
        ({"arms": {"plain": None, "re": {"annotated": True}}}, "'re' is annotated, and the plan has no annotator"),
        ({"annotator": {"model": {"depht": 3}}}, "no option 'depht'.*depth"),
        ({"data": {"name": "shapes", "train_image": 40}}, "no option 'train_image'.*train_images"),
        ({"data": {"name": "shapes", "moved_to_test": 1.5}}, "moved_to_test is 1.5"),
        ({"annotator": {"data": {}}}, "the annotator has 'data', which has no effect"),
        ({"arms": {"plain": None, "re": None, "annotator": None}}, "an arm is named 'annotator'"),
        ({"arms": {"plain": None, "re": {"recipe": DENSE}}}, "'re' has a token_weight and no head on its tokens"),
        (
            {"annotator": {}, "arms": {"plain": None, "re": {"annotated": True}}},
            "'re' is annotated and its recipe has no use",
        ),
        (
            {"arms": {"plain": None, "re": {"tuned_as": "plain"}, "c": {"tuned_as": "re"}}},
            "'c' is tuned as 're', which is not tuned itself",
        ),
        (
            {"annotator": {}, "tuning": TUNING, "arms": {"plain": None, "re": {"annotated": True}}},
            "which arm it is tun",
        ),
        # Images from files, and from memory
        (
            {"data": {"name": "imagenet", "moved_to_test": 0.1}, "recipe": FROM_FILES},
            "'plain' has moved_to_test, which is for images from memory",
        ),
        (
            {"annotator": {}, "recipe": FROM_FILES, "arms": {"plain": None, "re": {"annotated": True}}},
            "'re' has annotated, which is for images from memory",
        ),
        (
            {"arms": {"plain": None, "re": {"recipe": {**FROM_FILES, "token_weight": 0.5}}}},
            "'re' needs both a token_weight and label_maps in its data",
        ),
        (
            {"data": {"name": "shapes", "label_maps": "maps"}},
            "'plain' has label_maps in its data",
        ),
        ({"recipe": {"inherits": "deepvit_33b"}}, "there is no recipe 'deepvit_33b'; did you mean"),
        # Names that nobody reads
        ({"contrasts": [{**ASKED, "primry": True}]}, "'Re-attention' has no option 'primry'; did you mean 'primary'"),
        ({"tuning": {**TUNING, "heldout": 0.2}}, "tuning has no option 'heldout'; did you mean 'held_out'"),
        ({"tuning": {**TUNING, "recipe": {"epohcs": 1}}}, "recipe of tuning has no option 'epohcs'; .* 'epochs'"),
        ({"recipe": {"epohcs": 1}}, "the recipe has no option 'epohcs'; did you mean 'epochs'"),
        ({"arms": {"plain": {"taken_from": "a/plain"}, "re": None}}, "'plain' has no option 'taken_from'"),
        ({"arms": {"plain": {"from": "a/plain", "model": {"depht": 3}}, "re": None}}, "no option 'depht'.*depth"),
        ({"sections": {"s": {"arms": {"er": None}}}}, "names the arm 'er'.*re"),
        ({"sections": {"s": {"contrasts": [{**ASKED, "treatment": "er"}], "arms": ["plain", "re"]}}}, "n arm 'er'"),
        ({"sections": {"s": {}, "full": {"seeds": [1]}}}, "a section is named 'full'"),
        # What something else decides
        ({"recipe": {"seed": 3}}, "the recipe has a seed; leave it out"),
        ({"tuning": {**TUNING, "recipe": {"learning_rate": 0.1}}}, "recipe of tuning has a learning_rate; leave it"),
        (
            {"tuning": TUNING, "arms": {"plain": None, "re": {"recipe": {"learning_rate": 0.1}}}},
            "recipe of the arm 're' has a learning_rate; leave it out",
        ),
        # Contrasts
        ({"contrasts": [ASKED, {**ASKED, "name": "b"}]}, "2 contrasts are primary and primary_contrasts is 1; set it"),
        ({"contrasts": [ASKED, ASKED], "primary_contrasts": 2}, "two contrasts are named 'Re-attention'"),
        ({"primary_contrasts": 0}, "primary_contrasts is 0; it is a whole number from 1"),
        ({"primary_contrasts": "two"}, "primary_contrasts is 'two'; it is a whole number"),
        ({"contrasts": [{**ASKED, "primary": "no"}]}, "has primary 'no'; it is true or false"),
        ({"contrasts": ["re - plain"]}, "a contrast is 're - plain', which has no named parts"),
        ({"contrasts": [{**SLOPE, "levels": [0, 6]}]}, r"the levels \[0, 6\]; they are numbers above 0, two different"),
        ({"contrasts": [{**SLOPE, "levels": [6, 6]}]}, r"the levels \[6, 6\]; they are numbers above 0, two different"),
        ({"contrasts": [{**SLOPE, "levels": ["a", 6]}]}, "the levels .*; they are numbers above 0"),
        ({"contrasts": [{**SLOPE, "levels": 6}]}, "the levels 6; they are numbers above 0"),
        ({"contrasts": [{**SLOPE, "levels": [2, 4, 8]}]}, "has 2 treatments, 2 controls and 3 levels; .* one a level"),
        (
            {"contrasts": [{**ASKED, "treatment": ["re", "re"]}]},
            "has 2 treatments, 1 controls .* one control a treatment",
        ),
        (
            {"contrasts": [{**ASKED, "treatment": ["re"] * 3, "control": ["plain"] * 3}]},
            "has 3 treatments, 3 controls and 0 levels; .* two for a difference of differences",
        ),
        ({"margin": "half"}, "margin is 'half'; it is a number from 0"),
        ({"keep_weights": "yes"}, "keep_weights is 'yes'; it is true or false"),
        ({"margin": -0.1}, "margin is -0.1; it is a number from 0"),
        # Seeds, tuning, and the arms' own numbers
        ({"seeds": []}, r"seeds is \[\]; it is a list of different whole numbers from 0"),
        ({"seeds": "01"}, "seeds is '01'; it is a list of different whole numbers"),
        ({"seeds": [0, 0]}, r"seeds is \[0, 0\]; it is a list of different"),
        ({"seeds": [-1]}, r"seeds is \[-1\]; it is a list of different whole numbers from 0"),
        ({"seeds": [0.5]}, r"seeds is \[0.5\]; it is a list of different whole numbers"),
        ({"seeds": [True]}, r"seeds is \[True\]; it is a list of different whole numbers"),
        ({"tuning": {"seeds": [9]}}, "tuning lacks learning_rates"),
        ({"tuning": {"learning_rates": [0.1]}}, "tuning lacks seeds"),
        ({"tuning": {**TUNING, "seeds": []}}, r"seeds of tuning is \[\]; it is a list"),
        ({"tuning": {**TUNING, "learning_rates": ["fast"]}}, r"learning_rates of tuning is \['fast'\]; it is a list"),
        ({"tuning": {**TUNING, "learning_rates": 0.1}}, "learning_rates of tuning is 0.1; it is a list"),
        ({"tuning": {**TUNING, "learning_rates": [0]}}, r"learning_rates of tuning is \[0\]; .* numbers above 0"),
        ({"tuning": {**TUNING, "learning_rates": [0.1, 0.10000001]}}, "differ too little for names of records"),
        ({"tuning": {**TUNING, "held_out": 1}}, "held_out of tuning is 1; it is a fraction"),
        ({"tuning": {**TUNING, "recipe": {"epochs": 0}}}, "epochs is 0"),
        ({"tuning": {**TUNING, "recipe": DENSE}}, "has a token_weight and no head on its tokens"),
        ({"tuning": [0.1]}, r"tuning is \[0.1\], which has no named parts"),
        ({"recipe": {"epochs": "two"}}, "the recipe has epochs 'two', of another type than its default, 20"),
        ({"recipe": {"epochs": 1.5}}, "the recipe has epochs 1.5, of another type than its default, 20"),
        (
            {"arms": {"plain": {"priority": "high"}, "re": None}},
            "'plain' has the priority 'high'; it is a whole",
        ),
        ({"arms": {"plain": {"annotated": "no"}, "re": None}}, "'plain' has annotated 'no'; it is true or false"),
        ({"arms": {"plain": {"from": "e1"}, "re": None}}, "'plain' is from 'e1'; write PLAN/ARM"),
        ({"arms": {24: None}, "contrasts": None}, "an arm is named 24; "),
        ({"arms": ["plain", "re"]}, "arms is .*, which has no named parts"),
        ({"data": "shapes"}, "data is 'shapes', which has no named parts"),
        ({"data": {"train_images": 40}}, "data lacks name"),
    ],
)
def test_what_is_wrong_with_a_plan_is_said_with_its_name(tmp_path, changes, message):
    path = write_plan(tmp_path, **changes)
    with pytest.raises(ValueError, match=rf"tiny\.yml is not a plan that can be run: .*{message}"):
        load_plan(path, "s" if "sections" in changes else None)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        *(({"data": {"name": "shapes", "train_images": value}}, "train_images is") for value in ("many", 25.6, -5, 0)),
        ({"data": {"name": ["shapes"]}}, "the data's name is"),
        ({"model": {"name": "cifar_vit_4x64", "embed_dim": 4_000_000_000}}, "embed_dim is 4000000000; it must be"),
        ({"model": {"name": "cifar_vit_4x64", "depth": 10**12}}, "depth is 1000000000000; it must be"),
        ({"model": {"name": "cifar_vit_4x64", "init_std": float("nan")}}, "init_std is nan"),
        *(({"arms": {name: None}}, "an arm is named") for name in ("", "..", ".a", "a\x00", "a\nb", "a" * 300)),
        ({"sections": {"a/b": {}}}, "a section is named 'a/b'"),
        ({"contrasts": [{**ASKED, "name": ["a", "b"]}]}, "a contrast is named"),
        ({"title": ["a"]}, r"title is \['a'\]; it is said in words"),
    ],
)
def test_what_could_not_run_is_told_before_any_run(tmp_path, changes, message):
    with pytest.raises(ValueError, match=rf"tiny\.yml is not a plan that can be run: {message}") as told:
        load_plan(write_plan(tmp_path, **changes))
    assert len(str(told.value)) < 1000


def test_primary_contrasts_may_be_those_of_several_plans(tmp_path):
    two = [ASKED, {**ASKED, "name": "b"}]
    for number in (2, 5):
        plan = load_plan(write_plan(tmp_path, contrasts=two, primary_contrasts=number))
        assert (sum(contrast.primary for contrast in plan.contrasts), plan.primary_contrasts) == (2, number)


def test_a_section_may_do_without_tuning_and_contrasts(tmp_path):
    path = write_plan(tmp_path, tuning=TUNING, sections={"s": {"tuning": None, "contrasts": None}})
    plan = load_plan(path, "s")
    assert (plan.tuning, plan.contrasts) == ({}, ())
    assert names(plan) == ["plain_s0", "re_s0", "plain_s1", "re_s1"]


def test_no_file_no_section_no_yaml(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no plan at"):
        load_plan(tmp_path / "none.yml")
    with pytest.raises(ValueError, match="no section 'gpu'"):
        load_plan(write_plan(tmp_path), "gpu")
    (tmp_path / "bad.yml").write_text("a: [")
    with pytest.raises(ValueError, match=r"bad\.yml is not YAML that can be read"):
        load_plan(tmp_path / "bad.yml")


def test_numbers_may_be_written_as_1e_minus_6(tmp_path):
    path = write_plan(tmp_path)
    path.write_text(path.read_text().replace("batch_size: 20", "batch_size: 20\n  min_learning_rate: 1e-6"))
    assert arm_recipe(load_plan(path), Job("plain", 0), None).min_learning_rate == 1e-6


def test_the_sections_of_a_plan_come_after_the_whole(tmp_path):
    path = write_plan(tmp_path, sections={"small": {"seeds": [0]}, "large": {}})
    assert [plan.section for plan in sections_of(path)] == ["full", "small", "large"]
    assert [plan.section for plan in sections_of(write_plan(tmp_path, "alone"))] == ["full"]


def test_old_names_of_options_are_read_and_stochastic_depth_is_the_models(tmp_path):
    recipe = {**TINY_PLAN["recipe"], "smallest_view": 0.5, "flip": False, "drop_path": 0.2}
    arms = {"plain": None, "re": {"recipe": {"flip": True}, "model": {"attention": ["re"]}}}
    plan = load_plan(write_plan(tmp_path, recipe=recipe, arms=arms))
    plain, re = (arm_recipe(plan, Job(name, 0), None) for name in ("plain", "re"))
    assert (plain.smallest_crop, plain.flip, re.flip) == (0.5, 0.0, 0.5)
    assert arm_config(plan, "plain", 10).drop_path_rate == 0.2
    arms["plain"] = {"model": {"drop_path_rate": 0.1}}
    with pytest.raises(ValueError, match=r"drop_path 0\.2 and its model drop_path_rate 0\.1"):
        load_plan(write_plan(tmp_path, recipe=recipe, arms=arms))


def test_a_recipe_may_stand_on_one_of_the_papers(tmp_path):
    published = {"inherits": "deepvit_32b", "epochs": 100}
    arms = {"plain": None, "re": {"model": {"attention": ["re"]}}, "milder": {"recipe": {"inherits": "deepvit_s"}}}
    plan = load_plan(write_plan(tmp_path, recipe=published, tuning={**TUNING, "recipe": {"epochs": 5}}, arms=arms))
    recipes = {arm: arm_recipe(plan, Job(arm, 1), 0.002) for arm in ("plain", "milder")}
    assert recipes["plain"] == replace(load_recipe("deepvit_32b").recipe, epochs=100, seed=1, learning_rate=0.002)
    assert (recipes["milder"].map_penalty, recipes["milder"].images_from) == (0, "files")
