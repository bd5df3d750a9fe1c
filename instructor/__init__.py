"""For instructors: the bank of exercises, assignments made from it, their grading. Learners need none of it."""
