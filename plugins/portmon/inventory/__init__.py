"""Host lists: asked from one of the sources, validated entry by entry; and which hosts leave the inventory.

``sources`` has a module for each kind of source, ``entries`` makes hosts of what a source gives, ``prune`` decides
which hosts have left, ``scope`` which ones a run is about. Neither Airflow nor a database is needed: a function that
is given asks for lists over HTTP.
"""
