"""Inspecting a model without changing its output: its attention maps, its tokens, and their effect."""

from .aliveness import aliveness, least_harmful, map_matters
from .interventions import INTERVENTIONS, effects_by_block, intervene, intervene_all
from .measures import (
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
    stable_rank,
    token_similarity,
    unit_vectors,
)
from .recording import attention_blocks, record_attention, record_features, stream_attention
from .repetition import (
    excess,
    matched_similarity,
    permutation_bound,
    renumbered_heads,
    repetition,
    unrelated_repetition,
)
from .report import at_initialisation, collapse_report, excess_report, similarity_matrices

__all__ = [
    "INTERVENTIONS",
    "aliveness",
    "at_initialisation",
    "attention_blocks",
    "between_images",
    "branch_ratio",
    "collapse_report",
    "count_similar_blocks",
    "cross_layer_similarity",
    "distance_from_uniform",
    "effects_by_block",
    "entropy",
    "excess",
    "excess_report",
    "feature_similarity",
    "head_similarity",
    "intervene",
    "intervene_all",
    "least_harmful",
    "map_cka",
    "map_matters",
    "matched_similarity",
    "permutation_bound",
    "query_independence",
    "record_attention",
    "record_features",
    "renumbered_heads",
    "repetition",
    "similarity_matrices",
    "stable_rank",
    "stream_attention",
    "token_similarity",
    "unit_vectors",
    "unrelated_repetition",
]
