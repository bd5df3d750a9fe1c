"""Templates of graded questions, one file a chapter. Each varies a public exercise by its seed."""
