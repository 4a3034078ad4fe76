"""portmon: which service processes died on my hosts, seen from their listening ports over SSH."""

__version__ = "1.0.0"
