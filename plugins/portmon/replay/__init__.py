"""Evaluating the archive again, through the rules and settings of today or of another configuration."""
