"""The routes of Storage, with the paths of the hosted service."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from aiohttp import web

from devstack.pool import Pool
from devstack.storage import buckets, errors, listing, objects
from devstack.storage.access import STORAGE, Caller, Database, Tokens
from devstack.storage.bodies import bucket_body, info_body, listed_body, object_body
from devstack.storage.downloads import object_headers, open_object, send
from devstack.storage.errors import StorageError
from devstack.storage.fields import Fields, read_fields
from devstack.storage.files import Files
from devstack.storage.limits import MAX_OBJECTS_A_REQUEST, checked_mime_types, checked_size
from devstack.storage.names import checked_bucket, checked_key
from devstack.storage.objects import NewObject, Row
from devstack.storage.receiving import decoded_metadata, receive
from devstack.storage.signing import UPLOAD_SECONDS, Signer, signed_url
from devstack.storage.storing import Store

SCHEMA_SQL = Path(__file__).with_name("schema.sql").read_text()

_PREFIX = "/storage/v1"
_KEY = r"{bucket}/{key:[\s\S]+}"
_TIMES = ("updated_at", "created_at")
_ORDERS = ("asc", "desc")
_SIGN_REFUSED = "Either the object does not exist or you do not have access to it"

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Storage:
    """Serves buckets and objects. `dsn` is the superuser's; `folder` holds the bytes.

    `api_keys` maps opaque keys to roles. Without `fsync`, a crash of the machine may lose what was stored just before.
    """

    def __init__(
        self, *, dsn: str, folder: Path, jwt_secret: str, api_keys: Mapping[str, str], fsync: bool = True
    ) -> None:
        self.folder = folder
        self._pool = Pool(dsn, name="storage", size=8)
        self._database = Database(self._pool)
        self._files = Files(folder, fsync=fsync)
        self._store = Store(self._database, self._files)
        self._tokens = Tokens(jwt_secret, api_keys)
        self._signer = Signer(jwt_secret)

    async def start(self) -> None:
        """Remove what a crash left behind. Raises StorageError if Postgres cannot be reached."""
        self._pool.open()
        self._files.sweep(await self._database.run(STORAGE, "", objects.versions))

    async def stop(self) -> None:
        """Close the connections."""
        await self._pool.close()

    def routes(self) -> list[web.RouteDef]:
        """Return the routes, with the paths of the hosted service."""

        def route(method: str, path: str, handler: Handler) -> web.RouteDef:
            only_get = {"allow_head": False} if method == "GET" else {}
            return web.route(method, _PREFIX + path, partial(_answer, handler), **only_get)

        looks = [
            route(method, f"/object/{kind}{_KEY}", partial(handler, is_public=kind == "public/"))
            for kind in ("", "authenticated/", "public/")
            for method, handler in (("GET", self._download), ("HEAD", self._head))
        ]
        infos = [
            route("GET", f"/object/info/{kind}{_KEY}", partial(self._info, is_public=kind == "public/"))
            for kind in ("", "authenticated/", "public/")
        ]
        return [
            *infos,
            *looks,
            route("POST", f"/object/sign/{_KEY}", self._sign),
            route("POST", "/object/sign/{bucket}", self._sign_many),
            route("GET", f"/object/sign/{_KEY}", self._download_signed),
            route("POST", f"/object/upload/sign/{_KEY}", self._sign_upload),
            route("PUT", f"/object/upload/sign/{_KEY}", self._upload_signed),
            route("POST", "/object/list/{bucket}", self._list),
            route("POST", "/object/list-v2/{bucket}", self._list_pages),
            route("POST", "/object/copy", self._copy),
            route("POST", "/object/move", self._move),
            route("POST", f"/object/{_KEY}", partial(self._upload, operation="storage.object.upload")),
            route("PUT", f"/object/{_KEY}", partial(self._upload, operation="storage.object.upload_update")),
            route("DELETE", f"/object/{_KEY}", self._remove_one),
            route("DELETE", "/object/{bucket}", self._remove),
            route("GET", "/bucket", self._list_buckets),
            route("POST", "/bucket", self._create_bucket),
            route("GET", "/bucket/{bucket}", self._get_bucket),
            route("PUT", "/bucket/{bucket}", self._change_bucket),
            route("DELETE", "/bucket/{bucket}", self._delete_bucket),
            route("POST", "/bucket/{bucket}/empty", self._empty_bucket),
            route("*", "/upload/resumable{tail:.*}", _resumable),
            route("*", r"/{tail:[\s\S]*}", _unknown),
        ]

    # -- uploads

    async def _upload(self, request: web.Request, *, operation: str) -> web.Response:
        caller = self._tokens.verify(request.headers)
        upsert = request.method == "PUT" or request.headers.get("x-upsert") == "true"
        row = await self._receive(request, caller, operation, owner=caller.id, upsert=upsert)
        return web.json_response({"Id": str(row["id"]), "Key": f"{row['bucket_id']}/{row['name']}"})

    async def _upload_signed(self, request: web.Request) -> web.Response:
        claims = self._signer.verify(request.query.get("token", ""), "upload", *_names(request))
        operation = "storage.object.upload_signed"
        upsert = claims.get("upsert") is True
        row = await self._receive(request, STORAGE, operation, owner=claims.get("owner"), upsert=upsert)
        return web.json_response({"Key": f"{row['bucket_id']}/{row['name']}"})

    async def _receive(
        self, request: web.Request, caller: Caller, operation: str, *, owner: str | None, upsert: bool
    ) -> Row:
        bucket, key = _names(request)
        found = await self._store.bucket(bucket)
        incoming = await receive(request)
        return await self._store.upload(
            caller, operation, bucket=found, key=key, owner=owner, incoming=incoming, upsert=upsert
        )

    async def _sign_upload(self, request: web.Request) -> web.Response:
        caller = self._tokens.verify(request.headers)
        bucket, key = _names(request)
        upsert = request.headers.get("x-upsert") == "true"
        claimed = {"mimetype": request.headers.get("Content-Type"), "contentLength": request.content_length}
        custom = decoded_metadata(request.headers.get("x-metadata"))
        new = NewObject(bucket, checked_key(key), caller.id, claimed, custom)
        await self._store.may_upload(caller, "storage.object.sign_upload_url", new, upsert=upsert)
        token = self._signer.sign("upload", bucket, key, UPLOAD_SECONDS, owner=caller.id, upsert=upsert)
        return web.json_response({"url": signed_url(bucket, key, token, kind="upload/sign"), "token": token})

    # -- downloads

    async def _download(self, request: web.Request, *, is_public: bool) -> web.StreamResponse:
        operation = "storage.object.get_public" if is_public else "storage.object.get_authenticated"
        return await self._send(request, lambda: self._look(request, operation, is_public=is_public))

    async def _download_signed(self, request: web.Request) -> web.StreamResponse:
        bucket, key = _names(request)
        claims = self._signer.verify(request.query.get("token", ""), "download", bucket, key)
        work = partial(objects.find, bucket=bucket, key=checked_key(key))
        look = partial(self._database.run, STORAGE, "storage.object.get_signed", work)
        return await self._send(request, look, expires=claims.get("exp"))

    async def _head(self, request: web.Request, *, is_public: bool) -> web.Response:
        operation = "storage.object.info_public" if is_public else "object.head_authenticated_info"
        row = await self._look(request, operation, is_public=is_public)
        size = (row["metadata"] or {}).get("size", 0)
        return web.Response(headers=object_headers(request, row) | {"Content-Length": str(size)})

    async def _info(self, request: web.Request, *, is_public: bool) -> web.Response:
        operation = "storage.object.info_public" if is_public else "object.get_authenticated_info"
        return web.json_response(info_body(await self._look(request, operation, is_public=is_public)))

    async def _look(self, request: web.Request, operation: str, *, is_public: bool) -> Row:
        """Return the row of an object in a public bucket, or one that the caller may see."""
        bucket, key = _names(request)
        caller = self._tokens.verify_if_any(request.headers)
        found = await self._store.bucket(bucket)
        if not found["public"] and (is_public or not caller.is_known):
            raise errors.no_such_bucket()
        work = partial(objects.find, bucket=bucket, key=checked_key(key))
        return await self._database.run(STORAGE if found["public"] else caller, operation, work)

    async def _send(
        self, request: web.Request, look: Callable[[], Awaitable[Row]], *, expires: float | None = None
    ) -> web.StreamResponse:
        row, file = await open_object(self._files, look)
        with file:
            return await send(request, row, file, expires=expires)

    async def _sign(self, request: web.Request) -> web.Response:
        caller = self._tokens.verify(request.headers)
        fields = await read_fields(request)
        fields.required("expiresIn")
        seconds = fields.integer("expiresIn", 0, minimum=1)
        bucket, key = _names(request)
        work = partial(objects.find, bucket=bucket, key=checked_key(key))
        await self._database.run(caller, "storage.object.sign", work)
        token = self._signer.sign("download", bucket, key, seconds)
        return web.json_response({"signedURL": signed_url(bucket, key, token)})

    async def _sign_many(self, request: web.Request) -> web.Response:
        caller = self._tokens.verify(request.headers)
        fields = await read_fields(request)
        fields.required("expiresIn")
        seconds = fields.integer("expiresIn", 0, minimum=1)
        keys = fields.paths("paths", MAX_OBJECTS_A_REQUEST)
        bucket = request.match_info["bucket"]
        seen = await self._database.run(
            caller, "storage.object.sign_many", lambda c: objects.find_names(c, bucket, keys)
        )

        def signed(key: str) -> dict[str, str | None]:
            if key not in seen:
                return {"error": _SIGN_REFUSED, "path": key, "signedURL": None}
            url = signed_url(bucket, key, self._signer.sign("download", bucket, key, seconds))
            return {"error": None, "path": key, "signedURL": url}

        return web.json_response([signed(key) for key in keys])

    # -- listings

    async def _list(self, request: web.Request) -> web.Response:
        caller = self._tokens.verify(request.headers)
        fields = await read_fields(request)
        fields.required("prefix")
        prefix, sort = fields.text("prefix"), fields.child("sortBy")
        work = partial(
            listing.search,
            bucket=request.match_info["bucket"],
            prefix=f"{prefix}/" if prefix and not prefix.endswith("/") else prefix,
            search=fields.text("search"),
            limit=min(fields.integer("limit", 100, minimum=1), 1500),
            offset=fields.integer("offset", 0, minimum=0),
            column=sort.text("column", "name", among=("name", *_TIMES, "last_accessed_at")),
            descending=sort.text("order", "asc", among=_ORDERS) == "desc",
        )
        rows = await self._database.run(caller, "storage.object.list", work)
        return web.json_response([listed_body(row) for row in rows])

    async def _list_pages(self, request: web.Request) -> web.Response:
        caller = self._tokens.verify(request.headers)
        fields = await read_fields(request)
        cursor, sort = fields.text("cursor"), fields.child("sortBy")
        work = partial(
            listing.page,
            bucket=request.match_info["bucket"],
            prefix=fields.text("prefix"),
            with_folders=fields.boolean("with_delimiter", False),
            limit=min(fields.integer("limit", 1000, minimum=1), 1000),
            after=listing.Page.parse(cursor) if cursor else None,
            column=sort.text("column", "name", among=("name", *_TIMES)),
            descending=sort.text("order", "asc", among=_ORDERS) == "desc",
        )
        found = await self._database.run(caller, "storage.object.list_v2", work)
        shown = {kind: [listed_body(row) for row in found[kind]] for kind in ("folders", "objects")}
        return web.json_response(found | shown)

    # -- removals, copies and moves

    async def _remove(self, request: web.Request) -> web.Response:
        caller = self._tokens.verify(request.headers)
        keys = (await read_fields(request)).paths("prefixes", MAX_OBJECTS_A_REQUEST)
        rows = await self._store.remove(caller, "storage.object.delete_many", request.match_info["bucket"], keys)
        return web.json_response([object_body(row) for row in rows])

    async def _remove_one(self, request: web.Request) -> web.Response:
        caller = self._tokens.verify(request.headers)
        bucket, key = _names(request)
        operation = "storage.object.delete"
        await self._database.run(STORAGE, operation, lambda c: objects.find(c, bucket, key))
        if not await self._store.remove(caller, operation, bucket, [key]):
            raise errors.access_denied()
        return web.json_response({"message": "Successfully deleted"})

    async def _copy(self, request: web.Request) -> web.Response:
        caller = self._tokens.verify(request.headers)
        fields = await read_fields(request)
        source, target = _source_and_target(fields)
        own = fields.boolean("copyMetadata", True)
        given = fields.child("metadata")
        metadata = {name: given.text(name) for name in ("cacheControl", "mimetype") if name in given and not own}
        row = await self._store.copy(
            caller,
            "storage.object.copy",
            source=source,
            target=target,
            metadata=metadata,
            user_metadata=None if own else decoded_metadata(request.headers.get("x-metadata")) or {},
            upsert=request.headers.get("x-upsert") == "true",
        )
        return web.json_response({"Id": str(row["id"]), "Key": "/".join(target), **object_body(row)})

    async def _move(self, request: web.Request) -> web.Response:
        caller = self._tokens.verify(request.headers)
        source, target = _source_and_target(await read_fields(request))
        row = await self._store.move(caller, "storage.object.move", source, target)
        return web.json_response({"message": "Successfully moved", "Id": str(row["id"]), "Key": row["name"]})

    # -- buckets

    async def _list_buckets(self, request: web.Request) -> web.Response:
        caller = self._tokens.verify(request.headers)
        fields = Fields("querystring", dict(request.query))
        work = partial(
            buckets.listed,
            limit=fields.integer("limit", 0, minimum=1) or None,
            offset=fields.integer("offset", 0, minimum=0),
            column=fields.text("sortColumn", "id", among=("id", "name", *_TIMES)),
            descending=fields.text("sortOrder", "asc", among=_ORDERS) == "desc",
            search=fields.text("search"),
        )
        rows = await self._database.run(caller, "storage.bucket.list", work)
        return web.json_response([bucket_body(row) for row in rows])

    async def _get_bucket(self, request: web.Request) -> web.Response:
        caller = self._tokens.verify(request.headers)
        work = partial(buckets.find, bucket=request.match_info["bucket"])
        return web.json_response(bucket_body(await self._database.run(caller, "storage.bucket.get", work)))

    async def _create_bucket(self, request: web.Request) -> web.Response:
        caller = self._tokens.verify(request.headers)
        fields = await read_fields(request)
        fields.required("name")
        name = checked_bucket(fields.text("name"))
        bucket = fields.text("id") or name
        work = partial(buckets.create, bucket=bucket, name=name, owner=caller.id, values=_bucket_values(fields))
        await self._database.run(caller, "storage.bucket.create", work)
        return web.json_response({"name": name})

    async def _change_bucket(self, request: web.Request) -> web.Response:
        caller = self._tokens.verify(request.headers)
        values = _bucket_values(await read_fields(request))
        if not values:
            raise errors.invalid_request("body must NOT have fewer than 1 properties")
        work = partial(buckets.change, bucket=request.match_info["bucket"], values=values)
        await self._database.run(caller, "storage.bucket.update", work)
        return web.json_response({"message": "Successfully updated"})

    async def _delete_bucket(self, request: web.Request) -> web.Response:
        caller = self._tokens.verify(request.headers)
        operation, bucket = "storage.bucket.delete", request.match_info["bucket"]
        await self._database.run(STORAGE, operation, lambda c: buckets.check_empty(c, bucket))
        await self._database.run(caller, operation, lambda c: buckets.delete(c, bucket))
        return web.json_response({"message": "Successfully deleted"})

    async def _empty_bucket(self, request: web.Request) -> web.Response:
        caller = self._tokens.verify(request.headers)
        operation, bucket = "storage.bucket.empty", request.match_info["bucket"]
        await self._database.run(caller, operation, lambda c: buckets.find(c, bucket))
        await self._store.remove(caller, operation, bucket, None)
        message = "Empty bucket has been queued. Completion may take up to an hour."  # here it is done
        return web.json_response({"message": message})


async def _answer(handler: Handler, request: web.Request) -> web.StreamResponse:
    """Run a handler; a StorageError becomes its response."""
    try:
        return await handler(request)
    except StorageError as error:
        return web.json_response(error.body, status=error.http)


def _names(request: web.Request) -> tuple[str, str]:
    return request.match_info["bucket"], request.match_info["key"]


def _source_and_target(fields: Fields) -> tuple[tuple[str, str], tuple[str, str]]:
    fields.required("bucketId", "sourceKey", "destinationKey")
    bucket = fields.text("bucketId")
    target = fields.text("destinationBucket") or bucket
    return (bucket, fields.text("sourceKey")), (target, fields.text("destinationKey"))


def _bucket_values(fields: Fields) -> dict[str, Any]:
    """The columns of a bucket that a body sets."""
    values: dict[str, Any] = {}
    if "public" in fields:
        values["public"] = fields.boolean("public", False)
    if "file_size_limit" in fields:
        limit = fields.value("file_size_limit")
        if isinstance(limit, str):
            values["file_size_limit"] = checked_size(limit)
        else:
            is_null = fields.is_null("file_size_limit")
            values["file_size_limit"] = (
                None if is_null else checked_size(fields.integer("file_size_limit", 0, minimum=0))
            )
    if "allowed_mime_types" in fields:
        is_null = fields.is_null("allowed_mime_types")
        values["allowed_mime_types"] = None if is_null else checked_mime_types(fields.texts("allowed_mime_types"))
    return values


async def _resumable(_: web.Request) -> web.Response:
    message = "The devstack has no resumable uploads: upload the file in one request"
    raise StorageError(501, "NotSupported", message, http=501)


async def _unknown(request: web.Request) -> web.Response:
    message = f"Route {request.method}:{request.rel_url.raw_path_qs.removeprefix(_PREFIX)} not found"
    raise StorageError(404, "InvalidRequest", message, error="Not Found", http=404)
