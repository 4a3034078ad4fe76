"""An Airflow and a small fleet on one machine: ``make demo`` plays a story, ``make up`` stays."""
