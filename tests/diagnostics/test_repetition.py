"""Measures that do not trust the numbers of heads: each on controls that must show it and controls that must not."""

import itertools

import pytest
import torch
import torch.nn.functional as F

from deepvit_edu import data
from deepvit_edu.diagnostics import (
    at_initialisation,
    cross_layer_similarity,
    excess,
    matched_similarity,
    permutation_bound,
    record_attention,
    renumbered_heads,
    repetition,
    unrelated_repetition,
)
from deepvit_edu.diagnostics.repetition import HeadCosines, match_heads
from tests.helpers import tiny_model

HEADS, TOKENS = 4, 17
IMAGES = torch.randn(24, 3, 16, 16, generator=torch.Generator().manual_seed(1))


def deep_model(**options):
    """Eight blocks whose maps are far from uniform and whose branches are small beside the stream."""
    model = tiny_model(**{"img_size": 16, "embed_dim": 32, "depth": 8, "num_heads": HEADS, **options})
    with torch.no_grad():
        for block in model.blocks:
            if hasattr(block.attn, "qkv"):
                block.attn.qkv.weight[: 2 * 32] *= 12
    return model


def tied_model(numbered_at_random=True):
    """Queries and keys of all blocks are copies of the first block's; values, MLPs and inputs are their own."""
    model = deep_model()
    first = model.blocks[0].attn.qkv.weight.detach().clone()
    for block in model.blocks[1:]:
        order = torch.randperm(HEADS) if numbered_at_random else torch.arange(HEADS)
        with torch.no_grad():
            for part in (slice(0, 32), slice(32, 64)):
                block.attn.qkv.weight[part] = first[part].reshape(HEADS, 8, 32)[order].flatten(0, 1)
    return model


def random_maps(layers=6, images=24, sharpness=1.0, seed=0):
    generator = torch.Generator().manual_seed(seed)
    shape = (images, HEADS, TOKENS, TOKENS)
    return [(sharpness * torch.randn(shape, generator=generator)).softmax(dim=-1) for _ in range(layers)]


def striped_maps(layers=6, images=24, seed=0):
    """Perfect stripes; each head of each block has its own, the same on all images."""
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(layers, 1, HEADS, 1, TOKENS, generator=generator).softmax(dim=-1)
    return list(rows.expand(-1, images, -1, TOKENS, -1))


def test_blocks_that_use_the_same_queries_and_keys_repeat_whatever_their_heads_numbers():
    maps = record_attention(tied_model(), IMAGES)
    assert repetition(maps).min() > 0.97
    assert repetition(maps, gap=5).min() > 0.9
    # The measures that trust the numbers do not see it, centred or not.
    assert cross_layer_similarity(maps, centre="double").diagonal(1).mean() < 0.6


def test_new_numbers_for_the_heads_change_nothing():
    maps = record_attention(deep_model(), IMAGES)
    renumbered = [attn[:, torch.randperm(HEADS, generator=torch.Generator().manual_seed(3))] for attn in maps]
    for part in ("rest", "stripes"):
        torch.testing.assert_close(matched_similarity(renumbered, part), matched_similarity(maps, part))


def test_repeated_stripes_show_in_the_stripe_part_only():
    noise, stripes = random_maps(), [striped_maps()[0]] * 6
    maps = [(one + other) / 2 for one, other in zip(noise, stripes, strict=True)]
    assert repetition(maps, "stripes").min() > 0.9
    assert repetition(maps, "rest").abs().max() < 0.05


def test_what_all_images_share_counts_only_where_blocks_share_it():
    assert repetition(striped_maps(), "stripes").max() < 0.6  # the best of 24 matchings of random stripes, no more


def test_new_weights_and_unrelated_blocks_have_no_excess():
    model = tiny_model(img_size=16, embed_dim=32, depth=8, num_heads=HEADS, init_std=0.1)
    figures = F.avg_pool2d(data.load("shapes", "test", limit=24).images / 64 - 2, 2)
    of_seed = [repetition(record_attention(at_initialisation(model, seed), figures)) for seed in range(10)]
    above = excess(torch.stack(of_seed[:5]).mean(dim=0), of_seed[5:])[0]
    assert above.mean().abs() < 0.04
    assert torch.stack(of_seed).mean() > 0.08  # without the null it would be taken for repetition
    model = deep_model()
    new = [repetition(record_attention(at_initialisation(model, seed), IMAGES)) for seed in range(5)]
    similarity = matched_similarity(record_attention(at_initialisation(model, 5), IMAGES))
    assert abs(similarity.diagonal(1).mean() - unrelated_repetition(similarity)) < 0.1
    tied, _ = excess(repetition(record_attention(tied_model(), IMAGES)), new)
    assert tied.min() > 0.5


def test_a_match_that_chance_made_is_worth_nothing_on_other_images():
    # Noise that differs by image: some matching is the best on any set of images, and means nothing on the rest.
    cosines = HeadCosines("rest")
    cosines.add(random_maps(layers=12, images=8))
    matching = cosines.cosines[0] / 4
    best = [
        max(matching[a, range(HEADS), a + 1, list(order)].mean() for order in itertools.permutations(range(HEADS)))
        for a in range(11)
    ]
    assert sum(best) / len(best) > 0.02
    assert abs(cosines.matched().diagonal(1).mean()) < 0.01


def test_heads_are_matched_one_to_one_by_the_best_total():
    maps = random_maps(layers=1)
    shuffled = maps[0][:, [2, 0, 3, 1]]
    assert repetition([maps[0], shuffled]).item() == pytest.approx(1)
    twice = shuffled.clone()
    twice[:, 0] = twice[:, 1]  # the head that was taken twice still has one partner
    assert repetition([maps[0], twice]).item() == pytest.approx(0.75, abs=0.02)
    rows, columns = match_heads(torch.tensor([[0.9, 0.8], [0.8, 0.1]]))  # the best single pair is not in it
    assert list(zip(rows.tolist(), columns.tolist(), strict=True)) == [(0, 1), (1, 0)]


def test_images_in_parts_are_images_at_once():
    maps, cosines = random_maps(images=7), HeadCosines("rest")
    for part in (slice(0, 3), slice(3, 4), slice(4, 7)):
        cosines.add([attn[part] for attn in maps])
    torch.testing.assert_close(cosines.matched(), matched_similarity(maps))


def test_one_head_has_nothing_to_match_and_is_still_compared():
    maps = [attn[:, :1] for attn in random_maps()]
    assert repetition([maps[0], maps[0], maps[1]]).tolist() == pytest.approx([1, 0], abs=0.05)


def test_what_is_rounding_is_not_a_number():
    scores = torch.randn(4, HEADS, 1, TOKENS).expand(-1, -1, TOKENS, -1)
    offsets = 10 * torch.randn(4, HEADS, TOKENS, 1)  # a softmax takes them off again, but for rounding
    stripes, noise = (scores + offsets).softmax(dim=-1), random_maps(2, images=4)
    assert stripes.std(dim=2).max() > 0
    assert repetition([noise[0], noise[1], stripes]).isnan().tolist() == [False, True]
    assert not repetition([noise[0], noise[1], stripes], "stripes").isnan().any()
    uniform = torch.full_like(stripes, 1 / TOKENS)
    for part in ("rest", "stripes"):
        assert repetition([noise[0], uniform, noise[1]], part).isnan().all()
    one_uniform = noise[1].clone()
    one_uniform[:, 2] = 1 / TOKENS
    assert repetition([noise[0], one_uniform]).isnan().all()
    # Small is not rounding: deviations of 1e-4 of the map are compared in full.
    faint = [1 / TOKENS * (1 + 1e-4 * torch.randn(4, HEADS, TOKENS, TOKENS)) for _ in range(1)]
    assert repetition([faint[0], faint[0].flip(1)]).item() == pytest.approx(1, abs=1e-3)


def test_blocks_far_apart_are_those_of_a_gap_of_four_and_more():
    similarity = torch.zeros(6, 6)
    similarity[0, 4], similarity[0, 5], similarity[1, 5], similarity[0, 3] = 0.1, 0.2, 0.3, 9
    assert unrelated_repetition(similarity) == pytest.approx(0.2)
    assert unrelated_repetition(similarity[:4, :4]) != unrelated_repetition(similarity[:4, :4])  # NaN: there are none


# The bound on heads of one number


@pytest.mark.parametrize(("heads", "bound"), [(3, 0.53), (8, 0.39), (12, 0.36)])
def test_the_bound_at_the_figures_that_the_paper_is_reported_to_give(heads, bound):
    assert permutation_bound(heads, 0.3) == pytest.approx(bound, abs=0.005)


def test_the_bound_on_the_share_of_similar_columns():
    assert permutation_bound(8, 0.3, threshold=0.9) == pytest.approx(0.43, abs=0.001)
    assert permutation_bound(8, 1.0, threshold=0.9) == 1


@pytest.mark.parametrize(("one", "other", "bound"), [(0, 0, 1 / 5), (1, 1, 1), (-1 / 4, 0, 0), (0, 1, 1 / 5**0.5)])
def test_the_bound_at_its_ends(one, other, bound):
    assert permutation_bound(5, one, other) == pytest.approx(bound)


def test_a_cosine_that_rounding_put_above_one_is_one():
    assert permutation_bound(5, 1.0000001192) == 1


def test_no_numbering_at_random_beats_the_bound_and_its_deviation_is_as_said():
    # Every numbering of four heads, tried: two blocks with the same set of sharp maps, each with maps of its own added.
    shared = random_maps(layers=1, images=2, sharpness=3)[0]
    maps = [0.8 * shared + 0.2 * own for own in random_maps(layers=2, images=2, sharpness=3, seed=9)]
    tried = torch.tensor(
        [
            cross_layer_similarity([maps[0], maps[1][:, list(order)]])[0, 1]
            for order in itertools.permutations(range(HEADS))
        ]
    )
    numbers = {name: values.item() for name, values in renumbered_heads(maps).items()}
    assert numbers["observed"] == pytest.approx(tried[0].item())
    assert numbers["expected"] == pytest.approx(tried.mean().item())
    assert numbers["deviation"] == pytest.approx(tried.std(correction=0).item(), rel=1e-3)
    assert numbers["expected"] <= numbers["bound"] + 1e-6
    assert numbers["observed"] > numbers["bound"]  # these are in line by construction


def test_the_bound_is_that_of_the_heads_likeness():
    from deepvit_edu.diagnostics import head_similarity

    maps = random_maps(layers=2, sharpness=2)
    expected = permutation_bound(HEADS, *(head_similarity(attn) for attn in maps))
    assert renumbered_heads(maps)["bound"].item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("centre", [None, "double"])
def test_the_bound_holds_for_heads_without_order(centre):
    maps = record_attention(deep_model(), IMAGES)
    numbers = renumbered_heads(maps, centre=centre)
    deviation = numbers["deviation"].square().sum().sqrt() / len(maps)
    assert numbers["observed"].mean() < numbers["bound"].mean() + 3 * deviation
    tied = renumbered_heads(record_attention(tied_model(), IMAGES), centre=centre)
    assert tied["observed"].mean() < tied["bound"].mean() + 3 * tied["deviation"].square().sum().sqrt() / 7


@pytest.mark.parametrize(
    "model",
    [tied_model(numbered_at_random=False), deep_model(attention=("handing", *["handed"] * 7))],
    ids=["tied queries and keys in line", "one map handed on"],
)
@pytest.mark.parametrize("centre", [None, "double"])
def test_heads_in_line_break_the_bound(model, centre):
    numbers = renumbered_heads(record_attention(model, IMAGES), centre=centre)
    deviation = numbers["deviation"].square().sum().sqrt() / len(numbers["deviation"])
    assert numbers["observed"].mean() > numbers["bound"].mean() + 3 * deviation


def test_copied_blocks_break_the_bound():
    model = deep_model()
    for block in model.blocks[1:]:
        block.load_state_dict(model.blocks[0].state_dict())
    maps = record_attention(model, IMAGES)
    numbers = renumbered_heads(maps, centre="double")
    deviation = numbers["deviation"].square().sum().sqrt() / 7
    assert numbers["observed"].mean() > numbers["bound"].mean() + 5 * deviation
    # Each copy has an input of its own, changed by the blocks before it; matched heads still show that they repeat.
    assert repetition(maps).min() > 0.97


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: repetition(random_maps(images=1)), "give two or more, not 1"),
        (lambda: repetition(random_maps(), "all"), "part is 'all'; choose 'rest' or 'stripes'"),
        (lambda: repetition(random_maps(), gap=6), "choose one from 1 to 5"),
        (lambda: repetition([*random_maps(1), *random_maps(1, images=3)]), "they need one shape"),
        (lambda: excess(torch.ones(2), [torch.ones(2)]), "two or more models with new weights, not 1"),
        (lambda: permutation_bound(4, -0.5), "4 heads cannot have a mean cosine of -0.5; it is -0.33 to 1"),
        (lambda: permutation_bound(4, 0.5, threshold=0), "the threshold is 0"),
    ],
)
def test_what_cannot_be_compared_is_refused_in_a_sentence(call, said):
    with pytest.raises(ValueError, match=said):
        call()
