"""Measurements of this package, alone and beside the official code, and plans for accelerators that are not there."""
