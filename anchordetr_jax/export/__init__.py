"""Detectors as files that need nothing of this package."""
