"""The tools that build the book, measure models and grade exercises, started by `python -m tools.…` in the checkout."""
