import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from deepvit_edu.augment import Views, random_views, take_views, whole_views
from deepvit_edu.checkpoints import save_model
from deepvit_edu.labels import (
    fill_in,
    keep_top,
    load_label_maps,
    load_official_label_map,
    make_label_maps,
    save_label_maps,
    soft_targets,
    token_labeling_loss,
    token_scores,
)
from deepvit_edu.nn.mix_token import mix_class_targets, random_box, swap_within
from tests.helpers import tiny_model, tiny_set

SURE = 20.0  # a score beside which zero is next to nothing


def map_of_classes(classes: torch.Tensor) -> torch.Tensor:
    """A label map (1, 2, 1, h, w) that is sure of one class at each place; `classes` is (h, w)."""
    return torch.stack([torch.full(classes.shape, SURE), classes.float()])[None, :, None].half()


LEFT_1_RIGHT_2 = torch.tensor([[1, 1, 2, 2]] * 4)
LEFT_HALF = torch.tensor([[0.0, 0.0, 0.5, 1.0]])
PLAIN, MIRRORED = torch.tensor([False]), torch.tensor([True])


def test_a_map_of_one_class_gives_it_to_every_token_of_any_view():
    maps = map_of_classes(torch.full((5, 7), 2)).repeat(8, 1, 1, 1, 1)
    of_class, of_tokens = soft_targets(maps, 4, 3, random_views(8))
    assert of_tokens.shape == (8, 9, 4)
    assert_close(of_class, F.one_hot(torch.full((8,), 2), 4).float(), atol=1e-6, rtol=0)
    assert_close(of_tokens, of_class[:, None].expand(8, 9, 4))


@pytest.mark.parametrize(
    ("views", "wanted"),
    [
        (None, [1, 1, 2, 2]),
        (Views(torch.tensor([[0.0, 0.0, 1.0, 1.0]]), MIRRORED), [2, 2, 1, 1]),
        (Views(LEFT_HALF, PLAIN), [1, 1, 1, 1]),
        (Views(1 - LEFT_HALF[:, [2, 3, 0, 1]], PLAIN), [2, 2, 2, 2]),
        (Views(torch.tensor([[0.25, 0.0, 0.75, 1.0]]), MIRRORED), [2, 2, 1, 1]),
    ],
)
def test_labels_follow_the_crop_and_the_mirror(views, wanted):
    _, of_tokens = soft_targets(map_of_classes(LEFT_1_RIGHT_2), 3, 4, views)
    assert of_tokens.argmax(dim=-1).view(4, 4).tolist() == [wanted] * 4


def test_rows_and_columns_are_not_swapped():
    _, of_tokens = soft_targets(map_of_classes(torch.tensor([[0, 1], [2, 3]])), 4, 2)
    assert of_tokens[0].argmax(dim=-1).tolist() == [0, 1, 2, 3]
    lower_left = Views(torch.tensor([[0.0, 0.5, 0.5, 1.0]]), PLAIN)
    assert soft_targets(map_of_classes(torch.tensor([[0, 1], [2, 3]])), 4, 2, lower_left)[0].argmax() == 2


def test_pixels_and_labels_stay_together():
    scores = torch.rand(6, 3, 8, 8)
    pixels = F.interpolate(scores, scale_factor=4)  # each place of the map is a square of 4 pixels
    corner = torch.randint(5, (6, 2)) / 8  # whole cells, so that both resize without blur
    views = Views(torch.cat([corner, corner + 0.5], dim=1), torch.rand(6) < 0.5)
    taken = take_views(pixels, views, 16)
    assert_close(F.avg_pool2d(taken, 4), take_views(scores, views, 4))


def test_random_views_lie_in_the_image():
    crops, mirrored = random_views(500, smallest_area=0.25)
    width, height = (crops[:, 2:] - crops[:, :2]).unbind(1)
    assert_close(width, height)
    assert crops.min() >= 0
    assert crops.max() <= 1 + 1e-6
    assert 0.499 < width.min() < 0.55
    assert 0.95 < width.max() <= 1
    assert 200 < mirrored.sum() < 300


def test_the_class_target_is_of_the_mean_score():
    scores = torch.randn(2, 5, 4, 4)
    of_class, _ = soft_targets(keep_top(scores, 5), 5, 4)
    assert_close(of_class, scores.mean(dim=(2, 3)).softmax(dim=1), atol=2e-3, rtol=0)


def test_smoothed_targets_are_still_distributions():
    plain = soft_targets(map_of_classes(LEFT_1_RIGHT_2), 4, 4)
    for targets, sharp in zip(soft_targets(map_of_classes(LEFT_1_RIGHT_2), 4, 4, smoothing=0.2), plain, strict=True):
        assert_close(targets, 0.8 * sharp + 0.05)


def test_kept_classes_keep_their_shares():
    scores = 3 * torch.randn(2, 10, 3, 3)
    kept = keep_top(scores, 4)
    assert kept.shape == (2, 2, 4, 3, 3)
    assert kept.dtype == torch.float16
    classes = kept[:, 1].long()
    ours, wanted = fill_in(kept, 10).softmax(dim=1), scores.softmax(dim=1)
    assert_close(ours.gather(1, classes), wanted.gather(1, classes), atol=5e-3, rtol=0)
    assert_close(classes[:, 0], scores.argmax(dim=1))


@pytest.mark.parametrize("dense", [False, True])
def test_token_scores_are_the_heads_at_every_place(dense):
    model, images = tiny_model(dense_head=dense).eval(), torch.randn(2, 3, 8, 8)
    scores = token_scores(model, images)
    assert scores.shape == (2, 3, 2, 2)
    head = model.dense_head if dense else model.head
    assert_close(scores[:, :, 1, 0], head(model.forward_features(images)[:, 1 + 2]))


def test_box_swaps_what_forward_dense_swaps():
    model, box = tiny_model(img_size=16, dense_head=True).eval(), (1, 0, 3, 2)
    images, targets = torch.randn(2, 3, 16, 16), torch.rand(2, 16, 3).softmax(dim=-1)
    _, token_logits = model.forward_dense(images, box)
    as_seen = swap_within(token_logits, box)  # the logits at the places where the mixed tokens stood
    class_logits, labels = torch.zeros(2, 3), torch.tensor([0, 1])
    assert_close(
        token_labeling_loss(class_logits, token_logits, labels, targets),
        token_labeling_loss(class_logits, as_seen, labels, swap_within(targets, box)),
    )
    share = swap_within(torch.tensor([0.0, 1.0])[:, None, None].expand(2, 16, 1), box)[0].mean()
    assert_close(mix_class_targets(torch.eye(2), box, 4)[0], torch.stack([1 - share, share]))


def test_boxes_lie_in_the_grid_and_take_all_sizes():
    boxes = [random_box(4) for _ in range(400)]
    assert all(0 <= top <= bottom <= 4 and 0 <= left <= right <= 4 for top, left, bottom, right in boxes)
    areas = {(bottom - top) * (right - left) for top, left, bottom, right in boxes}
    assert {0, 1, 9} <= areas
    assert any(top != left for top, left, *_ in boxes)


def test_box_takes_the_share_that_was_drawn():
    halves = [random_box(100, alpha=1e6) for _ in range(30)]  # so large an alpha draws nothing but one half
    assert max((bottom - top) * (right - left) for top, left, bottom, right in halves) == pytest.approx(5000, rel=0.03)


def test_loss_is_the_weighted_sum_of_two_cross_entropies():
    class_logits, token_logits, labels = torch.randn(2, 3), torch.randn(2, 4, 3), torch.tensor([2, 0])
    targets = torch.randn(2, 4, 3).softmax(dim=-1)
    alone = F.cross_entropy(class_logits, labels)
    assert_close(token_labeling_loss(class_logits, token_logits, labels, targets, token_weight=0), alone)
    of_tokens = -(targets * token_logits.log_softmax(dim=-1)).sum(dim=-1).mean()
    assert_close(token_labeling_loss(class_logits, token_logits, labels, targets, 2.0, 3.0), 2 * alone + 3 * of_tokens)


def test_gradients_reach_both_heads():
    model, dataset = tiny_model(dense_head=True), tiny_set(4)
    maps = map_of_classes(torch.tensor([[0, 1], [2, 0]])).repeat(4, 1, 1, 1, 1)
    logits = model.forward_dense(dataset.normalise(dataset.images), (0, 0, 1, 2))
    token_labeling_loss(*logits, *soft_targets(maps, 3, 2)).backward()
    for head in (model.head, model.dense_head):
        assert head.weight.grad.norm() > 0


def test_maps_of_a_set_survive_the_file(tmp_path):
    dataset = tiny_set(10)
    teacher = tiny_model().eval()
    maps = make_label_maps(lambda images: token_scores(teacher, images), dataset, count=2, batch_size=4)
    assert maps.shape == (10, 2, 2, 2, 2)
    last = dataset.normalise(dataset.images[9:])
    assert_close(maps[9:], keep_top(token_scores(teacher, last), 2), atol=1e-3, rtol=0)
    save_label_maps(maps, tmp_path / "maps.safetensors", dataset)
    assert torch.equal(load_label_maps(tmp_path / "maps.safetensors", dataset), maps)
    with pytest.raises(ValueError, match="made for other images than noise"):
        load_label_maps(tmp_path / "maps.safetensors", tiny_set(10, seed=1))


def test_the_authors_files_are_read(tmp_path):
    one = map_of_classes(LEFT_1_RIGHT_2)[0]  # (2, 1, 4, 4), as their files are
    torch.save(one, tmp_path / "one.pt")
    assert torch.equal(load_official_label_map(tmp_path / "one.pt")[0], one)


def test_wrong_files_are_refused(tmp_path):
    (tmp_path / "a.pt").write_text("no label map")
    torch.save({"labels": 1}, tmp_path / "b.pt")
    with pytest.raises(ValueError, match="is no safetensors file"):
        load_label_maps(tmp_path / "a.pt", tiny_set())
    with pytest.raises(ValueError, match="cannot be read: it is not what"):
        load_official_label_map(tmp_path / "a.pt")
    with pytest.raises(ValueError, match=r"a tensor \(2, k, h, w\)"):
        load_official_label_map(tmp_path / "b.pt")
    save_model(tiny_model(), tmp_path / "c.safetensors")
    with pytest.raises(ValueError, match="holds no label maps; write them with save_label_maps"):
        load_label_maps(tmp_path / "c.safetensors", tiny_set())
    with pytest.raises(FileNotFoundError):
        load_label_maps(tmp_path / "none", tiny_set())
    with pytest.raises(FileNotFoundError):
        load_official_label_map(tmp_path / "none")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: keep_top(torch.zeros(1, 2049, 1, 1)), "2049 classes are too many"),
        (lambda: fill_in(torch.zeros(2, 5, 4, 4), 3), r"not \(2, 5, 4, 4\)"),
        (lambda: fill_in(map_of_classes(LEFT_1_RIGHT_2), 2), "name class 2 of 2"),
        (lambda: fill_in(map_of_classes(-LEFT_1_RIGHT_2), 3), "name class -1 of 3"),
        (lambda: fill_in(map_of_classes(LEFT_1_RIGHT_2 / 2), 3), "name class 0.5 of 3"),
        (lambda: fill_in(map_of_classes(LEFT_1_RIGHT_2 * torch.nan), 3), "name class nan of 3"),
        (lambda: fill_in(map_of_classes(LEFT_1_RIGHT_2) * torch.inf, 3), "scores that are NaN or infinite"),
        (
            lambda: token_labeling_loss(
                torch.zeros(2, 3), torch.zeros(2, 4, 3), torch.eye(3)[:2], torch.zeros(2, 9, 3)
            ),
            "differ; make the targets with the model's grid size",
        ),
    ],
)
def test_what_does_not_fit_is_told(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_whole_views_change_nothing():
    pictures = torch.rand(2, 3, 6, 6)
    assert_close(take_views(pictures, whole_views(2), 6), pictures)
