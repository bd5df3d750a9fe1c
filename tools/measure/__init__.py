"""Measurements and trainings that write the records of the book."""
