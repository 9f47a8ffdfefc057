"""Curves, and boxes on images."""
