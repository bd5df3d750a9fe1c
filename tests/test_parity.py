"""Our models against the authors', under the same weights."""

import pytest
import torch

from deepvit_edu.checkpoints import from_official, to_official
from deepvit_edu.nn.attention import legible_attention
from tests.reference import weights
from tools.measure.exactness import OUTPUT_BOUND, load_reference, output_differences, published

REFERENCES = {variant.reference: variant.model for variant in published() if variant.reference}


@pytest.mark.parametrize("reference", REFERENCES)
def test_logits_equal_the_authors(reference):
    model, state_dict = load_reference(reference)
    back = to_official(model.state_dict(), REFERENCES[reference])
    assert back.keys() == state_dict.keys()
    assert all(torch.equal(back[key], state_dict[key]) for key in state_dict)
    assert all(difference < OUTPUT_BOUND for difference in output_differences(model, reference).values())


@torch.no_grad()
def test_a_wrong_weight_is_noticed():
    model, _ = load_reference("t2t_vit_7")
    model.patch_embed.layers[0].qkv.weight.mul_(1.001)
    assert output_differences(model, "t2t_vit_7")["eval"] > OUTPUT_BOUND


def test_legible_path_equals_the_authors_too():
    model, _ = load_reference("t2t_vit_t_14")
    with legible_attention():
        assert output_differences(model, "t2t_vit_t_14")["eval"] < OUTPUT_BOUND


def test_weights_of_another_model_are_refused_by_name():
    with pytest.raises(ValueError, match=r"do not fit deepvit_16b: missing blocks\.\d.* and \d+ more"):
        from_official(weights("vit_16b"), "deepvit_16b")
    with pytest.raises(ValueError, match=r"not known extra"):
        from_official({**weights("vit_16b"), "extra": torch.zeros(1)}, "vit_16b")
