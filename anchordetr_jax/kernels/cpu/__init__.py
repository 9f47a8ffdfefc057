"""For CPUs."""
