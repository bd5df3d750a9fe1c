"""The exercises of the chapters, and wrong answers that their checks must refuse."""
