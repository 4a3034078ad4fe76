"""Visits to one host, and to many hosts in one task."""
