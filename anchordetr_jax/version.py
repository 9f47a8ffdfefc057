"""The version of the package, for itself and for its packaging."""

__version__ = "0.1.0"
