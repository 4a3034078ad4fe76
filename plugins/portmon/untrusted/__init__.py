"""Data from outside, read within limits; every failure becomes one kind of error."""
