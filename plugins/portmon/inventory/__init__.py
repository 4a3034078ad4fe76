"""Host lists: from CMDB payloads and files, validated entry by entry; and what leaves the inventory.

Pure: pages are asked for through an injected ``send``, so that no network and no Airflow is needed here.
``presets`` says how the CMDBs that are known by name are asked, ``pages`` reads a list whole or not at all,
``files`` and ``ansible`` read files, ``entries`` makes hosts of what they give, ``scope`` and ``prune`` decide
which hosts a run is about and which have left.
"""
