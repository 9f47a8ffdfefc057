"""For NVIDIA GPUs (Pallas, Triton)."""
