"""One host, and many hosts in one task.

:mod:`portmon.scan.host` asks one host, :mod:`portmon.scan.answer` says what its answers mean.
:mod:`portmon.scan.batches` deals hosts into batches, :mod:`portmon.scan.schedule` decides what a batch does next, both
without a thread or a clock; :mod:`portmon.scan.pool` does it with threads.
"""
