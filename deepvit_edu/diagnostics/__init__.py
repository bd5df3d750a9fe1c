"""Looking inside a model without changing what it computes: its attention maps, its tokens, and what they do."""

from .interventions import INTERVENTIONS, effects_by_block, intervene, intervene_all
from .measures import (
    between_images,
    branch_ratio,
    count_similar_blocks,
    cross_layer_similarity,
    entropy,
    feature_similarity,
    head_similarity,
    map_cka,
    stable_rank,
    token_similarity,
    unit_vectors,
)
from .recording import attention_blocks, record_attention, record_features, stream_attention
from .report import at_initialisation, collapse_report, similarity_matrices

__all__ = [
    "INTERVENTIONS",
    "at_initialisation",
    "attention_blocks",
    "between_images",
    "branch_ratio",
    "collapse_report",
    "count_similar_blocks",
    "cross_layer_similarity",
    "effects_by_block",
    "entropy",
    "feature_similarity",
    "head_similarity",
    "intervene",
    "intervene_all",
    "map_cka",
    "record_attention",
    "record_features",
    "similarity_matrices",
    "stable_rank",
    "stream_attention",
    "token_similarity",
    "unit_vectors",
]
