"""What a person, or a program, watches of a run."""
