"""Each measure on maps and tokens whose answer is known by hand."""

import math

import pytest
import torch

from deepvit_edu.diagnostics import (
    between_images,
    branch_ratio,
    count_similar_blocks,
    cross_layer_similarity,
    distance_from_uniform,
    entropy,
    feature_similarity,
    head_similarity,
    map_cka,
    query_independence,
    repetition,
    stable_rank,
    token_similarity,
)

N = 4
SELF = torch.eye(N)  # every token looks at itself
NEXT = SELF.roll(1, dims=1)  # every token looks at the next one
UNIFORM = torch.full((N, N), 1 / N)
LIKE = UNIFORM + 0.1 * torch.tensor([1.0, -1.0, 1.0, -1.0]) * torch.tensor([1.0, -1.0, -1.0, 1.0])[:, None]
UNLIKE = 2 * UNIFORM - LIKE  # the same, with what differs from uniform turned round
COLUMNS = torch.tensor([0.7, 0.1, 0.1, 0.1]).expand(N, N)  # all look at the first token


def layers(*maps, images=2, heads=3):
    """Each map as a layer with that map for every image and head."""
    return [attn.expand(images, heads, N, N).clone() for attn in maps]


@pytest.mark.parametrize(
    ("first", "second", "axis", "centre", "expected"),
    [
        (SELF, SELF, "column", None, 1),
        (SELF, NEXT, "column", None, 0),
        (SELF, NEXT, "row", None, 0),
        (SELF, UNIFORM, "column", None, 0.5),
        (SELF, COLUMNS, "column", None, 0.5),  # a constant column, whatever its height
        (SELF, COLUMNS, "row", None, (0.7 + 3 * 0.1) / 4 / 0.52**0.5),
        (LIKE, UNLIKE, "row", None, (0.25 - 0.04) / (0.25 + 0.04)),
        (LIKE, UNLIKE, "row", "row", -1),
        (LIKE, UNLIKE, "column", "double", -1),
        (SELF, NEXT, "row", "row", -1 / 3),
        (UNIFORM, UNIFORM, "column", None, 1),
        (UNIFORM, UNIFORM, "column", "row", 0),
        (COLUMNS, COLUMNS, "column", "row", 1),
        (COLUMNS, COLUMNS, "column", "double", 0),
    ],
)
def test_cross_layer_similarity_by_hand(first, second, axis, centre, expected):
    similarity = cross_layer_similarity(layers(first, second), axis, centre)
    assert similarity.shape == (2, 2)
    assert similarity[0, 1].item() == pytest.approx(expected, abs=1e-5)
    torch.testing.assert_close(similarity, similarity.T)


def test_similarity_is_a_mean_over_heads_tokens_and_images():
    first, second = layers(SELF, SELF)
    second[0, 0] = NEXT  # one head of three, for one image of two
    assert cross_layer_similarity([first, second])[0, 1].item() == pytest.approx(5 / 6)
    second[0, 0] = SELF
    second[1, 1, :2, :2] = SELF[:2, :2].flip(0)  # two tokens of four change places, in one map of six
    assert cross_layer_similarity([first, second])[0, 1].item() == pytest.approx(1 - 2 / 4 / 6)


def test_between_images_sees_what_position_alone_explains():
    same, each_its_own = layers(SELF, SELF, images=3)
    each_its_own[1], each_its_own[2] = NEXT, NEXT.roll(1, dims=1)
    similarity = between_images([same, each_its_own])
    assert similarity[0, 0].item() == pytest.approx(1)
    assert similarity[1, 1].item() == pytest.approx(0)
    assert similarity[0, 1].item() == pytest.approx(1 / 3)  # by chance: one of three looks alike


def test_cka_does_not_mind_the_order_of_heads():
    attn = torch.rand(2, 3, N, N).softmax(dim=-1)
    mixed = torch.stack([attn[:, 2], attn[:, 0], attn[:, 1]], dim=1)
    cka = map_cka([attn, mixed, 5 * attn + 1])
    torch.testing.assert_close(cka, torch.ones(3, 3))
    assert cross_layer_similarity([attn, mixed], centre="row")[0, 1] < 0.9


def test_cka_of_unrelated_maps_is_zero():
    turned = UNIFORM + (LIKE - UNIFORM).roll(1, dims=0) * torch.tensor([1.0, 1.0, -1.0, -1.0])
    assert ((LIKE - UNIFORM) * (turned - UNIFORM)).sum().abs() < 1e-6
    cka = map_cka(layers(LIKE, turned, UNIFORM))
    torch.testing.assert_close(cka, torch.diag(torch.tensor([1.0, 1.0, 0.0])))


def test_similar_blocks_are_neighbours_above_the_threshold():
    similarity = torch.tensor([[1, 0.95, 0.99], [0.95, 1, 0.85], [0.99, 0.85, 1]])
    assert count_similar_blocks(similarity) == 1
    assert count_similar_blocks(similarity, threshold=0.8) == 2


@pytest.mark.parametrize(
    ("heads", "expected"), [((SELF, SELF), 1), ((SELF, NEXT), 0), ((SELF, SELF, NEXT), 1 / 3), ((SELF, UNIFORM), 0.5)]
)
def test_head_similarity_by_hand(heads, expected):
    assert head_similarity(torch.stack(heads).expand(2, -1, N, N)) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(
    ("attn", "nats"), [(UNIFORM, math.log(4)), (SELF, 0), ((SELF + NEXT) / 2, math.log(2))], ids=["all", "one", "two"]
)
def test_entropy_by_hand(attn, nats):
    assert entropy(attn[None, None]) == pytest.approx(nats)
    assert entropy(attn[None, None], fraction=True) == pytest.approx(nats / math.log(4))


@pytest.mark.parametrize(
    ("attn", "rank"), [(UNIFORM, 1), (NEXT, N), (torch.diag(torch.tensor([2.0, 1, 0, 0])), 1.25), (0 * SELF, 0)]
)
def test_stable_rank_by_hand(attn, rank):
    assert stable_rank(attn[None, None]) == pytest.approx(rank)


@pytest.mark.parametrize(
    ("attn", "share"),
    [
        (COLUMNS, 1),
        (SELF, 0),
        (LIKE, 0),
        ((SELF + UNIFORM + COLUMNS) / 3, 1.08 / 4.08),  # the squares of COLUMNS and SELF, rows centred: 1.08, 3
    ],
    ids=["stripes", "a permutation", "checks", "a mixture"],
)
def test_query_independence_by_hand(attn, share):
    found = query_independence(layers(attn, attn))
    assert found.shape == (2, 3)
    assert found.tolist() == [[pytest.approx(share, abs=1e-6)] * 3] * 2


def test_query_independence_of_noise_is_one_in_n_and_each_head_has_its_own():
    noise = torch.randn(200, 3, 10, 10, generator=torch.Generator().manual_seed(0)).softmax(dim=-1)
    maps = torch.stack([noise[:, 0], noise[:, 1].mean(dim=1, keepdim=True).expand(-1, 10, -1)], dim=1)
    found = query_independence([maps])[0]
    assert found[0].item() == pytest.approx(1 / 10, abs=0.01)
    assert found[1].item() == pytest.approx(1)


def test_query_independence_is_a_ratio_of_sums_over_images():
    faint, strong = UNIFORM + 1e-3 * (COLUMNS - UNIFORM), SELF
    maps = torch.stack([faint, strong])[:, None]
    assert query_independence([maps]).item() == pytest.approx(0, abs=1e-4)  # a mean of ratios would say 0.5


def test_where_the_variance_is_rounding_query_independence_is_not_a_number():
    scores = 10 * torch.randn(2, 3, N, 1).expand(-1, -1, -1, N)  # a softmax takes them off again, but for rounding
    rounded = (scores + 1e-7 * torch.randn(2, 3, N, N)).softmax(dim=-1)
    assert query_independence([rounded, *layers(UNIFORM)]).isnan().all()
    faint = UNIFORM + 1e-4 * (COLUMNS - UNIFORM)
    assert query_independence(layers(faint)).tolist() == [[pytest.approx(1, abs=1e-3)] * 3]


@pytest.mark.parametrize(("attn", "distance"), [(UNIFORM, 0), (SELF, 3 / 4), (COLUMNS, 0.45), (SELF - 0.25, 3 / 4)])
def test_distance_from_uniform_by_hand(attn, distance):
    assert distance_from_uniform(layers(attn)).tolist() == [[pytest.approx(distance, abs=1e-6)] * 3]


def test_sinks_on_different_keys_are_alike_by_columns_and_not_as_whole_maps():
    # Row-centred, a column that is constant has a cosine of 1 with any other such column on the same side of 1/N.
    maps = []
    for sink in (3, 7):
        attn = torch.full((40, 40), 0.5 / 40)
        attn[:, sink] += 0.5
        maps.append(attn.expand(2, 1, 40, 40))
    assert cross_layer_similarity(maps)[0, 1].item() == pytest.approx(1, abs=1e-5)
    assert cross_layer_similarity(maps, centre="row")[0, 1].item() == pytest.approx(0.9, abs=0.01)
    assert cross_layer_similarity(maps, centre="double")[0, 1].item() == 0
    assert repetition(maps, "stripes").item() == pytest.approx(-1 / 39, abs=0.01)


def test_measures_of_tokens_by_hand():
    x = torch.tensor([[[1.0, 0], [2, 0], [-3, 0]], [[0, 1], [0, 2], [0, -3]]])  # (2, 3, 2)
    assert token_similarity(x) == pytest.approx((1 - 1 - 1) / 3)
    assert token_similarity(torch.ones(1, 5, 2)) == pytest.approx(1)
    expected = torch.tensor([[1.0, -1, 0], [-1, 1, 0], [0, 0, 1]])
    torch.testing.assert_close(feature_similarity([x, -2 * x, x.flip(-1)]), expected)
    assert branch_ratio(x, 1.5 * x) == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: cross_layer_similarity(layers(SELF), axis="diagonal"), "choose 'column' or 'row'"),
        (lambda: cross_layer_similarity(layers(SELF), centre="column"), "choose 'row', 'double' or None"),
        (lambda: cross_layer_similarity([]), "these have none"),
        (lambda: feature_similarity([torch.ones(1, 2, 3), torch.ones(1, 2, 4)]), r"\(1, 2, 3\), \(1, 2, 4\)"),
        (lambda: between_images(layers(SELF, images=1)), "give two or more"),
        (lambda: head_similarity(SELF[None, None]), "one head"),
        (lambda: entropy(2 * SELF[None, None]), "do not sum to 1"),
        (lambda: entropy((2 * SELF - NEXT)[None, None]), "give a softmax map"),
    ],
)
def test_what_cannot_be_measured_is_refused_in_a_sentence(call, said):
    with pytest.raises(ValueError, match=said):
        call()
