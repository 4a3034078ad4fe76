"""Benchmarks: ``make bench``. What is measured, and against what, is in docs/benchmarks.md."""
