"""An embedded Supabase for development and tests: Postgres, REST, Auth and Realtime behind one port.

`python -m devstack` runs one until you stop it; in Python, use `devstack.stack.Stack`.
It listens on 127.0.0.1 only and keeps its data in one folder.
"""

from __future__ import annotations


class DevstackError(Exception):
    """The devstack cannot start or continue. The message is one line and says what to do about it."""


class PortInUse(DevstackError):
    """Another program is listening on the devstack's port."""
