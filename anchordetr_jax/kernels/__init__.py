"""One platform's own ways to compute what `model` defines."""
