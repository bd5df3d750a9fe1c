"""Selections of tokens: the same ones as the authors' code keeps, and what every selection promises."""

from contextlib import nullcontext

import pytest
import torch
from torch import nn

from deepvit_edu.checkpoints import from_official, load_pretrained, save_model, to_official
from deepvit_edu.diagnostics import (
    collapse_report,
    excess_report,
    intervene_all,
    record_attention,
    similarity_matrices,
)
from deepvit_edu.nn.attention import RefinedAttention, legible_attention
from deepvit_edu.nn.model import VisionTransformer
from deepvit_edu.nn.registry import ATTENTIONS
from deepvit_edu.nn.sparse import (
    NeedsRecalibration,
    Predictor,
    class_logits,
    masked_softmax,
    recalibrate,
    select_tokens,
)
from deepvit_edu.zoo import copy_shared_weights, create_model
from tests.reference import answers, images, weights
from tools.measure.exactness import OUTPUT_BOUND

EVO = "evo_deit_small_patch16_224"
KINDS = ("predicted", "fixed", "random", "most-attended", "least-attended", "waiting")
IMAGES = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def small(selection: str = "most-attended", before: tuple = (1, 3), keep: float = 0.5, **options) -> VisionTransformer:
    torch.manual_seed(0)
    chosen = {"selection": selection, "selection_before": before, "keep_ratio": keep}
    return create_model("cifar_vit_4x64", num_classes=10, patch_size=8, **chosen, **options)


def loaded(name: str, state_dict: dict, **options) -> VisionTransformer:
    with torch.device("meta"):
        model = create_model(name, **options)
    model.load_state_dict(from_official(state_dict, name), assign=True)
    return model.eval()


def places(kept: torch.Tensor) -> list[set[int]]:
    return [set(map(int, row)) for row in kept]


def difference(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    return ((ours - theirs).abs().max() / theirs.std()).item()


# The authors' choices


@torch.no_grad()
def test_dynamicvit_keeps_the_tokens_that_the_authors_do():
    theirs, model = answers("dynamicvit_deit_s_0.7"), loaded("dynamicvit_deit_s", weights("dynamicvit_deit_s_0.7"))
    dropped = select_tokens(model, images())
    for stage in range(3):
        assert places(dropped.kept[stage]) == places(theirs[f"kept_{stage + 1}"])
        expected = theirs[f"score_{stage + 1}"]
        torch.testing.assert_close(dropped.scores[stage], expected, rtol=0, atol=1e-5, equal_nan=True)


@torch.no_grad()
def test_dynamicvit_masks_the_tokens_that_the_authors_do():
    torch.manual_seed(0)
    if torch.empty(1).exponential_().item() != pytest.approx(3.508326):
        pytest.skip("this torch draws other numbers than the one that made the authors' answers")
    theirs, model = answers("dynamicvit_deit_s_0.7"), loaded("dynamicvit_deit_s", weights("dynamicvit_deit_s_0.7"))
    torch.manual_seed(0)
    masked = select_tokens(model.train(), images())
    for stage in range(3):
        assert torch.equal(masked.kept[stage], theirs[f"train_keep_{stage + 1}"].float())
    assert difference(model.norm(masked.tokens)[:, 1:9], theirs["train_tokens"]) < OUTPUT_BOUND


@pytest.mark.parametrize("variant", ["", "_qk2", "_tradeoff_1"])
@torch.no_grad()
def test_evo_vit_selects_the_tokens_that_the_authors_do(variant):
    state_dict, theirs = weights(EVO), answers(EVO + variant)
    if variant == "_qk2":
        state_dict = {key: 2 * value if key.endswith(".qk.weight") else value for key, value in state_dict.items()}
    options = {"selection_options": {"tradeoff": 1.0}} if variant == "_tradeoff_1" else {}
    for prefix, before in (("", (4, 8)), ("layerwise_", tuple(range(4, 12)))):
        model = loaded("evo_deit_s", state_dict, selection_before=before, **options)
        selected = select_tokens(model, images())
        for stage in range(len(before)):
            assert places(selected.kept[stage]) == places(theirs[f"{prefix}slow_{stage + 1}"])
        logits = model.head(model.norm(selected.tokens)[:, 0])
        assert difference(logits, theirs[f"{prefix}logits"]) < OUTPUT_BOUND
        if not variant:
            both = class_logits(model.train(), images())
            for ours, name in zip(both, ("train_logits", "train_cls_logits"), strict=True):
                assert difference(ours, theirs[prefix + name]) < OUTPUT_BOUND


@torch.no_grad()
def test_evo_vit_can_leave_waiting_tokens_out_of_its_mean():
    model = loaded("evo_deit_s", weights(EVO), selection_options={"prune_waiting": True})
    assert difference(model(images()), answers(EVO)["prunecls_logits"]) < OUTPUT_BOUND


def test_evo_vit_files_without_the_second_head_are_read_and_written_back():
    state_dict = {key: value for key, value in weights(EVO).items() if "_cls" not in key}
    ours = from_official(state_dict, "evo_deit_s")
    back = to_official(ours, "evo_deit_s")
    assert back.keys() == state_dict.keys()
    assert all(torch.equal(back[key], state_dict[key]) for key in back)


@pytest.mark.parametrize(("ratio", "counts"), [(0.9, (176, 158, 142)), (0.8, (156, 125, 100)), (0.5, (98, 49, 24))])
def test_counts_are_shares_of_the_first_number(ratio, counts):
    model = create_model("dynamicvit_deit_ti", keep_ratio=ratio, num_classes=0).eval()
    with torch.no_grad():
        assert tuple(kept.shape[1] for kept in select_tokens(model, images()[:1]).kept) == counts


# Masking and dropping


@torch.no_grad()
def test_masking_tokens_gives_what_dropping_them_gives():
    model = small("predicted").double().eval()
    x = IMAGES.double()
    dropped = select_tokens(model, x)
    masks = iter([torch.zeros(4, 16).double().scatter(1, kept, 1) for kept in dropped.kept])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("torch.nn.functional.gumbel_softmax", lambda log_p, hard: next(masks)[..., None])
        masked = select_tokens(model.train(), x)
    torch.testing.assert_close(masked.tokens[:, 0], dropped.tokens[:, 0], rtol=1e-4, atol=1e-4)


def test_a_masked_softmax_with_nothing_masked_is_a_softmax_and_masked_keys_get_next_to_nothing():
    scores = torch.randn(2, 3, 5, 5)
    torch.testing.assert_close(masked_softmax(scores, torch.ones(2, 5)), scores.softmax(dim=-1), rtol=1e-4, atol=1e-6)
    kept = torch.tensor([[1.0, 1, 0, 1, 0]]).expand(2, -1)
    attn = masked_softmax(scores, kept)
    off_diagonal = ~torch.eye(5, dtype=torch.bool)
    assert (attn[..., 2] + attn[..., 4])[..., [0, 1, 3]].max() < 1e-5
    assert attn[:, :, off_diagonal].isfinite().all()
    assert (attn[:, :, 2, 2] > 1e-3).all()  # a query sees itself
    torch.testing.assert_close(attn.sum(dim=-1), torch.ones(2, 3, 5))


def test_gradients_reach_the_predictors_through_the_masks():
    model = small("predicted").train()
    model(IMAGES).square().sum().backward()
    for predictor in model.selection.predictors:
        assert predictor.classify[-2].weight.grad.abs().sum() > 0


def test_an_image_whose_tokens_are_all_masked_still_has_probabilities():
    log_p = Predictor(8)(torch.randn(2, 4, 8), torch.tensor([[0.0] * 4, [1.0, 0, 0, 0]]))
    torch.testing.assert_close(log_p.exp().sum(dim=-1), torch.ones(2, 4))


# What every selection promises


@pytest.mark.parametrize("kind", KINDS)
def test_paths_checkpoints_and_graphs_agree(kind, tmp_path):
    model = small(kind).eval()
    logits = model(IMAGES)
    assert logits.shape == (4, 10)
    with legible_attention():
        torch.testing.assert_close(model(IMAGES), logits, rtol=1e-4, atol=1e-5)
        assert len(record_attention(model, IMAGES)) == 4
    torch.testing.assert_close(model(IMAGES), logits)  # nothing is drawn anew in evaluation
    model.set_grad_checkpointing()
    torch.testing.assert_close(model(IMAGES), logits)
    model.train()(IMAGES).square().sum().backward()
    assert model.blocks[3].attn.qkv.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "waiting"])  # whose head reads a mean
def test_keeping_all_tokens_changes_nothing(kind):
    whole = copy_shared_weights(small(kind), create_model("cifar_vit_4x64", num_classes=10, patch_size=8)).eval()
    model = copy_shared_weights(whole, small(kind, keep=1.0)).eval()
    torch.testing.assert_close(model(IMAGES), whole(IMAGES), rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_the_most_and_the_least_attended_are_those_of_the_map():
    most, least = small("most-attended", before=(2,)).eval(), small("least-attended", before=(2,)).eval()
    row = record_attention(most, IMAGES)[1][:, :, 0, 1:].sum(dim=1)  # the class token's, in block 1
    order = row.argsort(dim=1, descending=True)
    assert places(select_tokens(most, IMAGES).kept[0]) == places(order[:, :8])
    assert places(select_tokens(least, IMAGES).kept[0]) == places(order[:, 8:])


def test_random_tokens_change_in_training_only():
    model = small("random")
    with torch.no_grad():
        train = [places(select_tokens(model.train(), IMAGES).kept[0]) for _ in range(2)]
        evaluation = [places(select_tokens(model.eval(), IMAGES).kept[0]) for _ in range(2)]
    assert train[0] != train[1]
    assert evaluation[0] == evaluation[1]
    assert len(set(map(frozenset, evaluation[0]))) > 1  # every image has its own


def test_nothing_but_the_class_token_may_go_on():
    assert small("random", keep=0.0).eval()(IMAGES).isfinite().all()


def test_a_plain_model_starts_one_that_drops_tokens(tmp_path):
    plain = create_model("cifar_vit_4x64", num_classes=10, patch_size=8)
    path = save_model(plain, tmp_path / "plain.safetensors")
    model = small("predicted")
    new = load_pretrained(model, path)
    assert new
    assert all(name.startswith("selection.") for name in new)
    assert torch.equal(model.blocks[2].attn.qkv.weight, plain.blocks[2].attn.qkv.weight)


# Refusals


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"attention": ("refined",)},
            "RefinedAttention: its convolution mixes neighbouring entries .* only a kernel_size of 1 has no neighbours",
        ),
        (
            {"selection": "waiting", "attention": ("refined",), "attention_options": {"kernel_size": 1}},
            "reads the class token's attention, and RefinedAttention in block 0 cannot",
        ),
        ({"attention": ("accumulated", "reused")}, "AccumulatedAttention: it passes its map on"),
        ({"class_token": False}, "keeps the class token"),
        ({"before": (0,)}, "block 0 has none; begin at 1"),
        ({"before": (4,)}, "selection_before is 4; it must be"),
        ({"keep": 1.5}, "keep_ratio is 1.5; it must be"),
        ({"selection": "predicted", "keep": 0.1}, "leaves none of 16 tokens"),
        ({"selection": "predicte"}, "selection is 'predicte'; choose one of none, predicted"),
        ({"selection_options": {"tradeof": 1}}, "does not take the options"),
        ({"before": ()}, "needs selection_before"),
        ({"before": (2, 1)}, r"selection_before is \(2, 1\); name each block once, in rising order"),
        ({"before": (2, 2)}, "name each block once"),
        ({"before": 2}, "selection_before is 2; it must be a list"),
        ({"selection_options": 2}, "selection_options is 2; it must be a table"),
        ({"selection": "waiting", "selection_options": {"tradeoff": float("nan")}}, "tradeoff is nan"),
        ({"selection": "waiting", "keep": 0.0, "selection_options": {"prune_waiting": True}}, "leaves none of 16"),
        ({"selection": "random", "keep": 0.0, "dense_head": True}, "a dense head reads patch tokens"),
        ({"selection": "predicted", "attention": ("re",)}, "masks keys in training, and ReAttention in block 1 cannot"),
        (
            {"selection": "fixed", "attention": ("plain", "tied")},
            "and TiedAttention in block 1 cannot",
        ),
        ({"attention": ("none", "plain")}, "reads the class token's attention, and NoAttention in block 0 cannot"),
        ({"selection": "waiting", "attention": ("plain", "re")}, "attention, and ReAttention in block 1 cannot"),
        ({"selection": "random", "attention": ("masked",)}, "'masked' is for the selections that need it"),
        ({"selection": "predicted", "attention": ("watched",)}, "'watched' is for the selections that need it"),
    ],
)
def test_what_cannot_be_selected_is_told(options, message):
    with pytest.raises(ValueError, match=message):
        small(**options)


def test_attentions_of_selections_are_refused_without_one():
    for name in ("masked", "watched"):
        with pytest.raises(ValueError, match=f"'{name}' is for the selections that need it"):
            create_model("cifar_vit_4x64", attention=(name,))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("attention", sorted(ATTENTIONS))
def test_every_pair_of_selection_and_attention_runs_or_is_refused(kind, attention):
    for names in ((attention,), ("plain", attention), ("none", "none", attention)):
        try:
            model = small(kind, before=(3,), attention=names)
        except ValueError:
            continue
        for training in (True, False):
            try:
                assert model.train(training)(IMAGES).isfinite().all()
            except NeedsRecalibration:
                assert attention == "re"


@torch.no_grad()
@pytest.mark.parametrize(("kernel_size", "same"), [(1, True), (3, False)])
def test_a_refined_map_knows_no_neighbours_if_its_kernel_is_1x1(kernel_size, same):
    """Why it may lose tokens: a token's output is the same wherever the other tokens stand in the map."""
    torch.manual_seed(0)
    attn, x = RefinedAttention(16, 2, expansion=3, kernel_size=kernel_size).eval(), torch.randn(2, 9, 16)
    order = torch.tensor([0, 4, 2, 8, 6, 1, 3, 5, 7])
    for context in (nullcontext, legible_attention):
        with context():
            difference = (attn(x[:, order]) - attn(x)[:, order]).abs().max()
        assert (difference < 1e-5) == same


@torch.no_grad()
def test_a_refined_map_with_a_1x1_kernel_loses_tokens_exactly():
    options = {"attention": ("refined",), "attention_options": {"kernel_size": 1, "expansion": 2}}
    model = small("random", before=(2,), **options).eval()
    chosen = select_tokens(model, IMAGES)
    x = model.blocks[1](model.blocks[0](model.embed(IMAGES)))
    mixed = chosen.kept[0].flip(1)[:, :, None].expand(-1, -1, x.shape[-1])  # in another order
    x = torch.cat([x[:, :1], x[:, 1:].gather(1, mixed)], dim=1)
    for block in model.blocks[2:]:
        x = block(x)
    torch.testing.assert_close(chosen.class_token, x[:, 0], rtol=1e-4, atol=1e-5)


def test_blocks_without_attention_go_with_masks():
    names = ("none", "none", "plain", "none")
    model = small("predicted", before=(2,), attention=names)
    whole = copy_shared_weights(model, create_model("cifar_vit_4x64", num_classes=10, patch_size=8, attention=names))
    select_all = copy_shared_weights(model, small("predicted", before=(2,), keep=1.0, attention=names)).eval()
    torch.testing.assert_close(select_all(IMAGES), whole.eval()(IMAGES))
    model.train()(IMAGES).square().sum().backward()
    assert model.selection.predictors[0].classify[-2].weight.grad.abs().sum() > 0


def test_what_needs_all_tokens_refuses_models_that_drop_some():
    model = small("random", dense_head=True)
    with pytest.raises(ValueError, match="labels of tokens need every patch token"):
        model.forward_dense(IMAGES)
    assert small("predicted", dense_head=True).train().forward_dense(IMAGES)[1].shape == (4, 16, 10)
    for measure in (
        collapse_report,
        similarity_matrices,
        intervene_all,
        lambda model, images: excess_report(model, [model, model], images),
    ):
        with pytest.raises(ValueError, match="maps of its blocks have different sizes"):
            measure(model, IMAGES)


def test_recalibration_needs_images():
    with pytest.raises(ValueError, match="no image to take statistics from"):
        recalibrate(small("random", attention=("re",)), IMAGES[:0])


def test_a_second_head_without_classes_gives_no_logits():
    model = small("waiting")
    assert class_logits(model, IMAGES)[1].shape == (4, 10)
    model.reset_classifier(0)
    with pytest.raises(ValueError, match="no second head"):
        class_logits(model, IMAGES)


def test_grids_with_holes_are_refused():
    with pytest.raises(ValueError, match="their grids have holes"):
        small().forward_intermediates(IMAGES)
    plain = create_model("cifar_vit_4x64")
    with pytest.raises(ValueError, match="selects no tokens"):
        select_tokens(plain, IMAGES)
    with pytest.raises(ValueError, match="no second head"):
        class_logits(plain, IMAGES)


@torch.no_grad()
def test_norms_over_maps_are_recalibrated_before_tokens_go():
    torch.manual_seed(0)
    whole = create_model("cifar_vit_4x64", num_classes=10, patch_size=8, attention=("re",), init_std=0.2).train()
    for _ in range(20):
        whole(torch.randn(64, 3, 32, 32))
    model = copy_shared_weights(whole, small("random", before=(1,), attention=("re",))).eval()
    with pytest.raises(NeedsRecalibration, match=r"mean is 1/N.*recalibrate\(model, images\)"):
        model(IMAGES)
    old = {name: value.clone() for name, value in model.state_dict().items()}
    assert recalibrate(model, torch.randn(256, 3, 32, 32)) is model
    assert not any(part.training for part in model.modules())
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, old[name])}
    assert "blocks.3.attn.norm.batch.running_mean" in changed
    assert all("norm.batch" in name or name == "selection.recalibrated" for name in changed)
    maps = record_attention(model, torch.randn(256, 3, 32, 32))
    assert maps[3].mean(dim=(0, 2, 3)).abs().max() < 0.2 * maps[3].std()
    with pytest.raises(ValueError, match="nothing to recalibrate"):
        recalibrate(create_model("cifar_vit_4x64"), IMAGES)


# Less attention


def test_blocks_without_attention_exchange_nothing_and_have_no_parameters_for_it():
    torch.manual_seed(0)
    model = create_model("cifar_vit_4x64", num_classes=10, attention=("none", "none", "plain", "plain"))
    plain = create_model("cifar_vit_4x64", num_classes=10)
    names = {name for name, _ in plain.named_parameters()} - {name for name, _ in model.named_parameters()}
    assert names == {
        f"blocks.{i}.{part}"
        for i in (0, 1)
        for part in (
            "norm1.weight",
            "norm1.bias",
            *(f"attn.{p}.{w}" for p in ("qkv", "proj") for w in ("weight", "bias")),
        )
    }
    x = model.embed(IMAGES).detach()
    other = x.clone()
    other[:, 1] += 1
    before, after = (model.blocks[1](model.blocks[0](each)) for each in (x, other))
    assert not torch.equal(before[:, 1], after[:, 1])
    assert torch.equal(before[:, 2:], after[:, 2:])
    assert isinstance(model.blocks[0].norm1, nn.Identity)
    assert model(IMAGES).shape == (4, 10)
