"""For Celery's setting ``imports``: lets a worker import once what its tasks need, see :mod:`portmon.airflow.preload`.

A worker loads no plugins of Airflow, its tasks do, one by one. In airflow.cfg::

    [celery]
    extra_celery_config = {"imports": ["portmon.airflow.celery_imports"]}
"""

from portmon.airflow import preload

preload.on_load()
