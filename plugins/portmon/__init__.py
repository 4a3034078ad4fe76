"""portmon: which service processes died on my servers, seen from their listening ports over SSH."""

__version__ = "0.1.0"
