"""For TPUs (Pallas)."""
