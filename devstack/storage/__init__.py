"""Supabase Storage for the devstack: buckets, and objects with their bytes in the data folder.

`names`, `limits`, `fields`, `errors` and `bodies` say what requests and responses are; `access` knows callers and runs
transactions as them; `objects`, `buckets` and `listing` are their SQL; `files` keeps the bytes; `receiving` reads
uploads, `storing` changes rows and bytes together, `downloads` sends objects; `signing` signs URLs; `server` has the
routes.
"""

from devstack.storage.server import SCHEMA_SQL, Storage

__all__ = ["SCHEMA_SQL", "Storage"]
