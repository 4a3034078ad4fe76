"""The steps of a run, without Airflow: each takes the database, the configuration and the clock.

:mod:`portmon.airflow.tasks` calls them from Airflow's tasks. ``fetch`` gets the host list, ``prune`` hides
what left it, ``plan`` says which hosts to ask, ``evaluate`` derives events from what the scan stored, and
``deliver`` sends them.
"""
