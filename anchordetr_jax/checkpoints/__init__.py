"""Weights and settings on disk."""
