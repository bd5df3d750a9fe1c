"""DynamicViT's loss against the authors', and training with it."""

from contextlib import nullcontext
from dataclasses import replace
from importlib import resources

import pytest
import torch
import torch.nn.functional as F

from deepvit_edu.checkpoints import from_official, load_pretrained, save_model, to_official
from deepvit_edu.data.image_set import ImageSet
from deepvit_edu.token_losses import answer, class_distillation, ratio_loss, token_distillation
from deepvit_edu.training import Recipe, load_recipe, train
from deepvit_edu.training.loop import Run, make_batches
from deepvit_edu.training.objective import Objective, read_teacher
from deepvit_edu.zoo import create_model
from tests.reference import answers, images, weights

REFERENCE = "dynamicvit_deit_s_0.7"


def test_parts_and_gradients_are_the_authors():
    theirs, state_dict = answers(REFERENCE), weights(REFERENCE)
    model = create_model("dynamicvit_deit_s").train()
    model.load_state_dict(from_official(state_dict, "dynamicvit_deit_s"))
    teacher = create_model("dynamicvit_deit_s", selection="none").eval()
    own = {name: value for name, value in model.state_dict().items() if not name.startswith("selection.")}
    teacher.load_state_dict(own)
    with torch.no_grad():
        taught = answer(teacher, images())
    torch.testing.assert_close(taught.logits, theirs["teacher_logits"], rtol=1e-4, atol=1e-4)
    torch.manual_seed(0)
    student = answer(model, images())
    parts = [
        F.cross_entropy(student.logits, theirs["labels"]),
        3 * ratio_loss(student.kept, 0.7),  # the authors' is a sum over the three selections
        class_distillation(student.logits, taught.logits),
        token_distillation(student.tokens, taught.tokens, student.kept[-1]),
    ]
    torch.testing.assert_close(torch.stack(parts), theirs["loss_parts"], rtol=1e-4, atol=1e-6)
    loss = parts[0] + 2 / 3 * parts[1] + 0.5 * parts[2] + 0.5 * parts[3]
    torch.testing.assert_close(loss, theirs["loss"], rtol=1e-5, atol=1e-6)
    loss.backward()
    for stage, predictor in enumerate(model.selection.predictors):
        expected = theirs[f"grad_score_predictor_{stage}_last"]
        error = (predictor.classify[-2].weight.grad - expected).abs().max()
        assert error < 1e-3 * expected.abs().max()
    torch.testing.assert_close(model.head.bias.grad, theirs["grad_head_bias"], rtol=1e-3, atol=1e-6)


def test_the_ratio_is_of_each_image_and_of_the_first_number():
    half = torch.tensor([[1.0, 1, 0, 0], [1, 0, 1, 0]])
    assert ratio_loss([half], 0.5) == 0
    assert ratio_loss([torch.tensor([[1.0, 1, 1, 1], [0, 0, 0, 0]])], 0.5) == 0.25
    assert ratio_loss([half, half], 0.5) == pytest.approx(0.5 * 0.25**2)


def test_only_tokens_that_stay_are_compared():
    tokens, teacher = torch.zeros(1, 3, 2), torch.tensor([[[1.0, 1], [9, 9], [1, 1]]])
    assert token_distillation(tokens, teacher, torch.tensor([[1.0, 0, 1]])) == 1
    assert token_distillation(tokens, teacher, torch.zeros(1, 3)) == 0
    assert token_distillation(teacher, teacher, torch.ones(1, 3), logits=True) == pytest.approx(0, abs=1e-6)


def image_sets(size: int = 16) -> list[ImageSet]:
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(24) % 3
    pixels = torch.randint(0, 60, (24, 3, size, size), generator=generator, dtype=torch.uint8)
    pixels[torch.arange(24), labels] += 150
    return [ImageSet(pixels, labels, ["red", "green", "blue"], "colours", "shapes", s) for s in ("train", "test")]


SIZES = {"num_classes": 3, "img_size": 16, "patch_size": 4, "depth": 4, "embed_dim": 16, "num_heads": 2}
QUICK = {"epochs": 2, "batch_size": 8, "crop_padding": 0, "flip": 0.0}


def small(selection: str = "predicted", **options):
    torch.manual_seed(0)
    chosen = {"selection": selection, "selection_before": (1, 3), "keep_ratio": 0.5, **options}
    return create_model("cifar_vit_4x64", **SIZES, **chosen)


@pytest.mark.parametrize("selection", ["fixed", "random", "most-attended", "least-attended"])
def test_every_selection_trains(selection):
    weight = 2.0 if selection == "fixed" else 0.0
    record = train(small(selection), *image_sets(), Recipe(**QUICK, ratio_weight=weight), progress=False)
    assert record["config"]["model"]["selection"] == selection


def test_dynamicvit_trains_from_a_plain_model_that_also_teaches(tmp_path):
    torch.manual_seed(1)
    path = save_model(create_model("cifar_vit_4x64", **SIZES), tmp_path / "plain.safetensors")
    model = small()
    load_pretrained(model, path)
    start = {name: value.clone() for name, value in model.state_dict().items()}
    options = {"ratio_weight": 2.0, "teacher": str(path), "class_distillation": 0.5, "token_distillation": 0.5}
    recipe = Recipe(**QUICK, **options, backbone_rate=0.01, frozen_epochs=1)
    run = Run(model, make_batches(*image_sets(), recipe, model), recipe)

    def changed() -> set[str]:
        return {name for name, value in model.state_dict().items() if not torch.equal(value, start[name])}

    for _ in range(3):  # the first epoch
        run.train_step()
        run.progress.step += 1
    assert changed()
    assert all(name.startswith("selection.") for name in changed())
    run.train_step()
    assert "blocks.0.attn.qkv.weight" in changed()
    assert not {"cls_token", "pos_embed"} & changed()
    rates = {group["lr"] for group in run.optimizer.param_groups if group.get("backbone")}
    others = {group["lr"] for group in run.optimizer.param_groups if not group.get("backbone")}
    assert rates == {0.01 * rate for rate in others}


def test_evo_vit_selects_before_every_block_first_and_trains_both_heads():
    model = small("waiting", selection_before=(1,))
    recipe = Recipe(**QUICK, class_head_weight=0.5, every_block_epochs=1)
    run = Run(model, make_batches(*image_sets(), recipe, model), recipe)
    run.train_step()
    assert model.selection.before == (1, 2, 3)
    assert model.selection.head_cls.weight.grad.abs().sum() > 0
    run.progress.step = 3
    run.train_step()
    assert model.selection.before == (1,)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"teacher": "file"}, "a teacher is for class_distillation"),
        ({"token_distillation": 0.5}, "a teacher is for class_distillation"),
        ({"teacher_model": "lvvit_s"}, "set teacher, too, to its file"),
        ({"ratio_weight": 2.0, "token_weight": 0.5, "smallest_crop": 0.5}, "token labels do not go with"),
    ],
)
def test_options_that_do_not_fit_each_other_are_told(options, message):
    with pytest.raises(ValueError, match=message):
        Recipe(**options)


def test_options_that_do_not_fit_the_model_are_told(tmp_path):
    plain = create_model("cifar_vit_4x64", **SIZES)
    for options, message in (
        ({"ratio_weight": 2.0}, "for models that learn which tokens stay"),
        ({"class_head_weight": 0.5}, "for a second head"),
        ({"every_block_epochs": 1}, "every_block_epochs is for Evo-ViT's selection"),
    ):
        with pytest.raises(ValueError, match=message):
            train(plain, *image_sets(), Recipe(**QUICK, **options), progress=False)
    path = save_model(create_model("cifar_vit_4x64", **{**SIZES, "embed_dim": 8}), tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match="cannot teach this model"):
        train(plain, *image_sets(), Recipe(**QUICK, teacher=str(path), class_distillation=0.5), progress=False)


def test_a_teacher_of_other_images_is_refused(tmp_path):
    sets, plain = image_sets(), create_model("cifar_vit_4x64", **SIZES)
    own = {"classes": sets[0].classes, "mean": sets[0].mean, "std": sets[0].std}
    for change, message in (
        (
            {"classes": ["green", "red", "blue"]},
            "trained with the classes .'green', 'red', 'blue'., and the images have",
        ),
        ({"mean": [0.1, 0.2, 0.3]}, "trained with the mean"),
        ({"std": [0.1, 0.2, 0.3]}, "trained with the std"),
        ({}, None),
    ):
        path = save_model(
            create_model("cifar_vit_4x64", **SIZES), tmp_path / "teacher.safetensors", **{**own, **change}
        )
        recipe = Recipe(**QUICK, teacher=str(path), class_distillation=0.5)
        with pytest.raises(ValueError, match=message) if message else nullcontext():
            make_batches(*sets, recipe, plain)
    other = create_model("cifar_vit_4x64", **{**SIZES, "patch_size": 8})
    recipe = Recipe(**QUICK, teacher=str(save_model(other, path)), token_distillation=0.5)
    with pytest.raises(ValueError, match="must have the same image size, tokens"):
        train(plain, *sets, recipe, progress=False)


OF_NAME = {"num_classes": 3, "selection": "predicted", "selection_before": (1, 3), "keep_ratio": 0.5}
"""A student whose teacher is named, and nothing but named: as it is with a released file."""


def released(path, name="cifar_vit_4x64", **options):
    """A file in the authors' layout, wrapped as theirs are, and the model whose weights it holds."""
    torch.manual_seed(1)
    model = create_model(name, **{"num_classes": 3, **options}).eval()
    sizes = {key: value for key, value in options.items() if key != "dense_head"}  # which the weights show
    weights = {f"module.{key}": value for key, value in to_official(model.state_dict(), name, **sizes).items()}
    torch.save({"state_dict": weights}, path)
    return model


def test_a_file_in_the_authors_layout_teaches(tmp_path):
    model, path = released(tmp_path / "theirs.pth.tar"), str(tmp_path / "theirs.pth.tar")
    student, sets = create_model("cifar_vit_4x64", **OF_NAME), image_sets(32)
    options = {"teacher": path, "teacher_model": "cifar_vit_4x64", "token_distillation": 0.5}
    sets = [replace(each, mean=model.default_cfg["mean"], std=model.default_cfg["std"]) for each in sets]
    run = Run(student, make_batches(*sets, Recipe(**QUICK, **options), student), Recipe(**QUICK, **options))
    pixels = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(run.objective.teacher(pixels), model(pixels))
    run.train_step()
    with pytest.raises(ValueError, match="trained with the mean"):  # of which the authors' code tells
        make_batches(*(replace(each, mean=(0.1, 0.2, 0.3)) for each in sets), Recipe(**QUICK, **options), student)


def test_a_released_dense_head_comes_along_and_a_student_without_one_is_refused(tmp_path):
    path = tmp_path / "theirs.pth"
    model = released(path, dense_head=True)
    recipe = Recipe(teacher=str(path), teacher_model="cifar_vit_4x64", class_distillation=0.5)
    student = create_model("cifar_vit_4x64", **OF_NAME, dense_head=True)
    taught, _ = read_teacher(recipe, student.config)
    torch.testing.assert_close(taught.dense_head.weight, model.dense_head.weight)
    plain = create_model("cifar_vit_4x64", **OF_NAME)
    with pytest.raises(ValueError, match="must have the same image size, tokens, classes, width and heads"):
        Objective(recipe, plain, plain, torch.device("cpu"))


def test_a_run_folder_teaches(tmp_path):
    model = create_model("cifar_vit_4x64", **SIZES).eval()
    save_model(model, tmp_path / "model.safetensors")
    recipe = Recipe(teacher=str(tmp_path), token_distillation=0.5)
    torch.testing.assert_close(read_teacher(recipe, small().config)[0].head.weight, model.head.weight)


def test_a_teacher_that_cannot_be_read_is_told_in_a_sentence(tmp_path):
    path = tmp_path / "theirs.pth"
    released(path, **{key: value for key, value in OF_NAME.items() if key != "num_classes"})
    for name, message in (
        ("", "say which model the teacher .*theirs.pth is: set teacher_model to"),
        ("cifar_vit_4x64", "cannot teach as cifar_vit_4x64 that keeps all tokens: .* not known score_predictor"),
        (
            "regnety_160",
            "cannot teach as regnety_160 .* no model is named 'regnety_160'.*; only the Vision Transformers",
        ),
    ):
        recipe = Recipe(teacher=str(path), teacher_model=name, token_distillation=0.5)
        with pytest.raises(ValueError, match=message):
            read_teacher(recipe, small().config)
    own = save_model(small(), tmp_path / "own.safetensors")
    recipe = Recipe(teacher=str(own), teacher_model="cifar_vit_4x64", token_distillation=0.5)
    with pytest.raises(ValueError, match="knows its model; leave out teacher_model"):
        read_teacher(recipe, small().config)


@pytest.mark.parametrize(
    ("recipe", "teacher"),
    [("dynamicvit_deit_s", "dynamicvit_deit_s"), ("dynamicvit_lvvit_s", "lvvit_s"), ("dynamicvit_lvvit_m", "lvvit_m")],
)
def test_the_teachers_that_recipes_name_fit_their_students(recipe, teacher):
    """What a recipe's comment says to give as --teacher-model has its student's tokens, width and heads."""
    file = resources.files("deepvit_edu") / f"training/recipes/{recipe}.yml"
    assert f"--teacher-model {teacher}" in file.read_text().replace("\n# ", " ")
    with torch.device("meta"):
        student, taught = create_model(recipe), create_model(teacher, selection="none")
    for one, other in zip(
        *(
            (each.patch_embed.num_tokens, each.num_features, each.config.img_size, each.dense_head is None)
            for each in (student, taught)
        ),
        strict=True,
    ):
        assert one == other


def test_the_penalty_on_maps_needs_all_tokens():
    with pytest.raises(ValueError, match="maps of its blocks have different sizes"):
        train(small("random"), *image_sets(), Recipe(**QUICK, map_penalty=1.0), progress=False)


def test_the_answer_of_a_model_without_class_token_is_that_of_the_model():
    model = create_model("cifar_vit_4x64", **SIZES, class_token=False).eval()
    images = torch.randn(2, 3, 16, 16)
    torch.testing.assert_close(answer(model, images).logits, model(images))


def test_recipes_are_the_authors():
    small_one, large, evo = (
        load_recipe(name).recipe for name in ("dynamicvit_deit_s", "dynamicvit_deit_b", "evo_deit_ti")
    )
    assert (small_one.epochs, small_one.frozen_epochs, small_one.backbone_rate, small_one.ratio_weight) == (
        30,
        5,
        0.01,
        2,
    )
    assert (large.ratio_weight, large.drop_path, large.epochs) == (5, 0.2, 30)
    assert (evo.highest_rate, evo.every_block_epochs, evo.class_head_weight) == (2e-3, 200, 0.5)
