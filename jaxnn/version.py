"""The version of jaxnn."""

__version__ = "0.1.0"
