"""Proofs that this detector computes what the official code computes."""
