"""Evaluating archived observations again, by the rules and settings of today or of another configuration."""
