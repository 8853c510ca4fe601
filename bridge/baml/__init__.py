"""The wall around BAML: no other module of the bridge imports `baml_py`."""

import os

# Otherwise its parser writes a line to stderr, with a backtrace, for each structure that it cannot read. baml-py looks
# at this variable when it is first imported (0.226.3).
os.environ.setdefault("BAML_INTERNAL_LOG", "off")
