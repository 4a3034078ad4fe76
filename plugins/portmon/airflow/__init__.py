"""The rim: tasks, operators, hooks and settings, the only package besides the command line that imports Airflow."""
