"""Measuring: this package, the official code beside it, and what the compiler says of both."""
