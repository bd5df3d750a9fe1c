"""For instructors: graded questions, assignments made from them, and their grading. Learners need none of it."""
