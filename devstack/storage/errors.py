"""The errors of Storage: what a client reads of them, and which error of Postgres becomes which."""

from __future__ import annotations

import psycopg
from psycopg import errors as postgres


class StorageError(Exception):
    """A refusal. The body has the HTTP status that one would expect; the response itself mostly has 400."""

    def __init__(self, status: int, code: str, message: str, *, error: str | None = None, http: int = 400) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.error = error or code
        self.http = http

    @property
    def body(self) -> dict[str, str]:
        """The JSON that clients read."""
        return {"statusCode": str(self.status), "error": self.error, "message": self.message, "code": self.code}


def access_denied(message: str = "Access denied") -> StorageError:
    """A policy, a grant, or a token that is not valid."""
    return StorageError(403, "AccessDenied", message, error="Unauthorized")


def no_such_bucket() -> StorageError:
    """There is no such bucket, or the caller may not see it."""
    return StorageError(404, "NoSuchBucket", "Bucket not found", error="Bucket not found")


def no_such_key() -> StorageError:
    """There is no such object, or the caller may not see it."""
    return StorageError(404, "NoSuchKey", "Object not found", error="not_found")


def bytes_not_found() -> StorageError:
    """The row is there, the bytes are not: somebody deleted files of the data folder."""
    return StorageError(404, "NoSuchKey", "The resource was not found", error="Not found")


def invalid_key(key: str) -> StorageError:
    """An object cannot have this name."""
    return StorageError(400, "InvalidKey", f"Invalid key: {key}")


def invalid_bucket_name() -> StorageError:
    """A bucket cannot have this name."""
    return StorageError(400, "InvalidBucketName", "Bucket name invalid", error="Invalid Input")


def key_already_exists() -> StorageError:
    """There is an object of this name."""
    return StorageError(409, "KeyAlreadyExists", "The resource already exists", error="Duplicate")


def bucket_already_exists() -> StorageError:
    """There is a bucket of this name."""
    return StorageError(409, "BucketAlreadyExists", "The resource already exists", error="Duplicate")


def bucket_not_empty() -> StorageError:
    """A bucket with objects cannot be deleted."""
    return StorageError(409, "ResourceNotEmpty", "The bucket you tried to delete is not empty")


def too_large(what: str = "object") -> StorageError:
    """The object is larger than its bucket allows, or than any may be."""
    message = f"The {what} exceeded the maximum allowed size"
    return StorageError(413, "EntityTooLarge", message, error="Payload too large")


def invalid_mime_type(mime_type: str) -> StorageError:
    """The bucket does not allow this type."""
    return StorageError(415, "InvalidMimeType", f"mime type {mime_type} is not supported", error="invalid_mime_type")


def invalid_range() -> StorageError:
    """Not a range, or none of this object."""
    return StorageError(416, "InvalidRange", "invalid range provided", error="invalid_range", http=416)


def invalid_token(message: str) -> StorageError:
    """A signed URL whose token is not one, or has expired."""
    return StorageError(400, "InvalidJWT", message)


def invalid_signature(message: str = "Invalid signature") -> StorageError:
    """A signed URL whose token is for something else."""
    return StorageError(400, "InvalidSignature", message)


def no_content(message: str = "No content provided") -> StorageError:
    """An upload without a file, or with one that cannot be read."""
    return StorageError(400, "InvalidRequest", message)


def invalid_request(message: str) -> StorageError:
    """What the server's validation of requests refuses."""
    return StorageError(400, "InvalidRequest", message, error="Error")


def database_timeout() -> StorageError:
    """Postgres cannot be reached, or did not answer in time."""
    return StorageError(544, "DatabaseTimeout", "The connection to the database timed out", http=544)


def of_postgres(error: psycopg.Error) -> StorageError:
    """Return what a client is told of an error of Postgres."""
    text = error.diag.message_primary or str(error)
    match error:
        case postgres.InsufficientPrivilege():
            is_policy = "row-level security" in text
            return access_denied("new row violates row-level security policy" if is_policy else text)
        case postgres.UniqueViolation():
            return StorageError(409, "ResourceAlreadyExists", "The resource already exists", error="Duplicate")
        case postgres.ForeignKeyViolation():
            return StorageError(404, "InvalidRequest", "The related resource does not exist")
        case postgres.LockNotAvailable():
            return StorageError(423, "ResourceLocked", "The resource is locked")
        case postgres.QueryCanceled():
            return database_timeout()
        case psycopg.DataError():
            return StorageError(400, "InvalidParameter", text)
        case postgres.UndefinedColumn() | postgres.UndefinedTable():
            message = f"There is a database schema mismatch in a trigger or RLS policy: {error.diag.context or text}"
            return StorageError(503, "DatabaseSchemaMismatch", message)
        case psycopg.OperationalError():
            return database_timeout()
    return StorageError(500, "DatabaseError", f"database error, code: {error.sqlstate}", http=500)
