"""Our models against the authors', under the same weights."""

import pytest
import torch

from deepvit_edu.checkpoints import from_official, to_official
from deepvit_edu.nn.attention import legible_attention
from deepvit_edu.zoo import create_model
from tests.reference import answers, images, weights

VARIANTS = {
    "vit_16b": "vit_16b",
    "deepvit_patch16_224_re_attn_16b": "deepvit_16b",
    "deepvit_S": "deepvit_s",
    "t2t_vit_7": "t2t_vit_7",
    "t2t_vit_t_14": "t2t_vit_t_14",
    "t2t_vit_14_se": "t2t_vit_14_se",
    "Refiner_ViT_S": "refiner_vit_s",
    "Refiner_ViT_S_aux": "refiner_vit_s",
    "lvvit_t": "lvvit_t",
}
BOUND = 2e-4  # of the logits' standard deviation; two correct float32 implementations differ by about 1e-5


def load(official):
    state_dict = weights(official)
    model = create_model(VARIANTS[official], dense_head="aux_head.weight" in state_dict)
    model.load_state_dict(from_official(state_dict, VARIANTS[official]))
    return model, state_dict


def assert_same(ours, theirs):
    assert ours.shape == theirs.shape
    assert ((ours - theirs).abs().max() / theirs.std()).item() < BOUND


@pytest.mark.parametrize("official", VARIANTS)
@torch.no_grad()
def test_logits_equal_the_authors(official):
    model, state_dict = load(official)
    theirs = answers(official)
    assert_same(model.eval()(images()), theirs["logits"])
    if "train_logits" in theirs:  # BatchNorm by the batch; no dropout and no drop-path are set
        features = model.train().forward_features(images())
        assert_same(model.head(features[:, 0]), theirs["train_logits"])
        if "train_aux_logits" in theirs:
            assert_same(model.dense_head(features[:, 1:9]), theirs["train_aux_logits"])
    back = to_official(load(official)[0].state_dict(), VARIANTS[official])
    assert back.keys() == state_dict.keys()
    assert all(torch.equal(back[key], state_dict[key]) for key in state_dict)


@torch.no_grad()
def test_a_wrong_weight_is_noticed():
    model, _ = load("t2t_vit_7")
    model.patch_embed.layers[0].qkv.weight.mul_(1.001)
    with pytest.raises(AssertionError):
        assert_same(model.eval()(images()), answers("t2t_vit_7")["logits"])


@torch.no_grad()
def test_legible_path_equals_the_authors_too():
    model, _ = load("t2t_vit_t_14")
    with legible_attention():
        assert_same(model.eval()(images()), answers("t2t_vit_t_14")["logits"])


def test_weights_of_another_model_are_refused_by_name():
    with pytest.raises(ValueError, match=r"not weights of deepvit_16b: missing blocks\.\d.* and \d+ more"):
        from_official(weights("vit_16b"), "deepvit_16b")
    with pytest.raises(ValueError, match=r"not known extra"):
        from_official({**weights("vit_16b"), "extra": torch.zeros(1)}, "vit_16b")
