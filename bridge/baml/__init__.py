"""The wall around BAML: no other module of the bridge imports `baml_py`."""
