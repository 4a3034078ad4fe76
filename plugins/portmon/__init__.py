"""portmon: which service processes died on my hosts, seen from their listening ports over SSH."""

__version__ = "0.1.0"
