"""Measurements of speed and memory: attention layers, whole models, the loading of images, several models at once."""

from .layers import Shape, benchmark_table, run_benchmark
from .loading import loading_table, time_loading
from .models import models_table, time_models
from .rounds import allocator, threads
from .whole_models import missing_packages, time_whole_models, whole_models_table

__all__ = [
    "Shape",
    "allocator",
    "benchmark_table",
    "loading_table",
    "missing_packages",
    "models_table",
    "run_benchmark",
    "threads",
    "time_loading",
    "time_models",
    "time_whole_models",
    "whole_models_table",
]
