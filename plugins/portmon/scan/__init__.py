"""Many hosts in one task: which hosts make a batch, and who of a batch is asked when.

:mod:`portmon.scan.batches` deals hosts into batches, :mod:`portmon.scan.schedule` decides what a batch does next,
both without a thread or a clock; :mod:`portmon.scan.pool` does it with threads. What a visit to one host is, the
caller says.
"""
