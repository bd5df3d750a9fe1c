"""Measurements of speed and memory: of attention layers, of the loading of images, of several models at once."""

from .layers import Shape, benchmark_table, run_benchmark
from .loading import loading_table, time_loading
from .models import models_table, time_models
from .rounds import allocator, threads

__all__ = [
    "Shape",
    "allocator",
    "benchmark_table",
    "loading_table",
    "models_table",
    "run_benchmark",
    "threads",
    "time_loading",
    "time_models",
]
