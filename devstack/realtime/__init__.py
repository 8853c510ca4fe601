"""Supabase Realtime for the devstack: broadcast, private channels, presence and postgres_changes.

Held to recordings of Realtime v2.129.8. `protocol`, `binding`, `joining`, `payload` and `pgoutput` do no I/O;
`wal` streams committed changes, `access`, `rows` and `partitions` ask Postgres, `broadcast`, `presence` and
`changes` say who gets what, `channel` and `socket` speak with a client, `server` puts them together.
"""

from devstack.realtime.server import SCHEMA_SQL, Realtime

__all__ = ["SCHEMA_SQL", "Realtime"]
