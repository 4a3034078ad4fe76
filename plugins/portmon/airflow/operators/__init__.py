"""Operators that ask hosts: one host a task, or a batch of them."""
