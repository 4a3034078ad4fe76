"""Operators that look at hosts: one host a task, or a batch of them."""
