"""Airflow hooks: the CMDB over HTTP and one host over SSH."""

from __future__ import annotations
