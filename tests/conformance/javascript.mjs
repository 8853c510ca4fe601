// Checks supabase-js against a project. Arguments: URL, publishable key, patience in seconds, the name of a bucket, and the
// users' credentials as JSON. Prints a line of JSON for each check: its name and error, if any.
import assert from "node:assert/strict";
import { createRequire } from "node:module";

const [, , url, key, patience, bucket, ...people] = process.argv;
const require = createRequire(`${process.cwd()}/client/package.json`);
const { createClient } = require("@supabase/supabase-js");
const transport = globalThis.WebSocket ?? require("ws");
const [alice, bob] = people.map((text) => JSON.parse(text));

const make = () => createClient(url, key, { auth: { autoRefreshToken: false }, realtime: { transport } });

async function signedIn(person) {
  const client = make();
  const { data, error } = await client.auth.signInWithPassword(person);
  assert.equal(error, null);
  return { client, id: data.user.id, session: data.session };
}

/** Records what a channel receives; `until` returns the next item of a kind. */
function listen() {
  const items = [];
  let wake = () => {};
  const record = (kind) => (value) => (items.push([kind, value]), wake());
  const until = async (kind, wanted = () => true) => {
    const deadline = Date.now() + patience * 1000;
    for (;;) {
      const at = items.findIndex(([found, value]) => found === kind && wanted(value));
      if (at >= 0) return items.splice(0, at + 1).at(-1)[1];
      assert.ok(Date.now() < deadline, `no ${kind}; received ${JSON.stringify(items)}`);
      await new Promise((resolve) => {
        const timer = setTimeout(resolve, 200);
        wake = () => (clearTimeout(timer), resolve());
      });
    }
  };
  return { record, until };
}

async function join(client, topic) {
  const received = listen();
  const channel = client
    .channel(topic, { config: { private: true, broadcast: { self: true, ack: true } } })
    .on("broadcast", { event: "e" }, ({ payload }) => received.record("broadcast")(payload))
    .on("postgres_changes", { event: "*", schema: "public", table: "conformance_notes" }, received.record("change"))
    .on("presence", { event: "sync" }, () => received.record("presence")(Object.keys(channel.presenceState()).length))
    .on("system", {}, received.record("system"))
    .subscribe((state) => received.record("state")(state));
  return { channel, received };
}

const checks = {
  async "rows without columns have the defaults"() {
    const { client } = await signedIn(alice);
    for (const [rows, count] of [[{}, 1], [[{}], 1], [[{}, {}], 2]]) {
      const { data, status } = await client.from("conformance_defaults").insert(rows).select("word,note");
      assert.deepEqual([data, status], [Array(count).fill({ word: "given", note: null }), 201]);
    }
  },

  async "rows can be written and read"() {
    const { client } = await signedIn(alice);
    const columns = "body,rank,tags,data,due";
    const row = { body: "ü \"x\"", rank: 5, tags: ["a", 'b"c'], data: { a: [1, null, false] }, due: null };
    assert.deepEqual(await client.from("conformance_notes").insert(row).select(columns).single().then((r) => r.data), row);
    const found = await client.from("conformance_notes").select(columns, { count: "exact" }).contains("data", { a: [1] });
    assert.deepEqual([found.data, found.count, found.status], [[row], 1, 200]);
    const head = await client.from("conformance_notes").select("id", { count: "exact", head: true });
    assert.deepEqual([head.count, head.data], [1, null]);
    const deleted = await client.from("conformance_notes").delete().eq("rank", 5);
    assert.deepEqual([deleted.status, deleted.error], [204, null]);
  },
  async "upserts replace or ignore duplicates"() {
    const { client, id } = await signedIn(alice);
    const table = () => client.from("conformance_counters");
    await table().upsert({ owner: id, name: "js", value: 2 }).throwOnError();
    await table().upsert([{ owner: id, name: "js", value: 3 }], { onConflict: "owner,name" }).throwOnError();
    await table().upsert([{ owner: id, name: "js", value: 9 }], { ignoreDuplicates: true }).throwOnError();
    assert.deepEqual((await table().select("value").eq("name", "js").single()).data, { value: 3 });
  },
  async "functions accept jsonb and arrays"() {
    const { client } = await signedIn(alice);
    const value = { list: [1, "2", { three: null }] };
    assert.deepEqual((await client.rpc("conformance_echo", { value })).data, value);
    assert.equal((await client.rpc("conformance_total", { numbers: [1, 2, 3] })).data, 6);
    const words = await client.rpc("conformance_words", { words: ["b", "a"] }).order("word").limit(1);
    assert.deepEqual(words.data, [{ word: "a", at: 2 }]);
  },
  async "errors have a code and a status"() {
    const { client } = await signedIn(alice);
    const none = await client.from("conformance_notes").select("id").eq("rank", 999).single();
    assert.deepEqual([none.status, none.error.code], [406, "PGRST116"]);
    const raised = await client.rpc("conformance_fail", { state: "P0001" });
    assert.deepEqual(
      [raised.status, raised.error.code, raised.error.message, raised.error.details, raised.error.hint],
      [400, "P0001", "the message", "the detail", "the hint"],
    );
    const secret = await client.from("conformance_notes").select("secret");
    assert.deepEqual([secret.status, secret.error.code], [403, "42501"]);
    const missing = await client.from("conformance_nonsense").select();
    assert.deepEqual([missing.status, missing.error.code], [404, "PGRST205"]);
  },
  async "rows of other users are hidden"() {
    const [one, other] = [await signedIn(alice), await signedIn(bob)];
    await one.client.from("conformance_notes").insert({ body: "mine" }).throwOnError();
    assert.deepEqual((await other.client.from("conformance_notes").select("id")).data, []);
    assert.equal((await make().from("conformance_notes").select("id")).status, 401);
  },
  async "sessions can be refreshed and ended"() {
    const { client, session } = await signedIn(alice);
    const { data } = await client.auth.refreshSession();
    assert.notEqual(data.session.refresh_token, session.refresh_token);
    assert.equal((await client.auth.getUser()).data.user.email, alice.email);
    assert.equal((await client.auth.signOut()).error, null);
    const { error } = await make().auth.refreshSession({ refresh_token: data.session.refresh_token });
    assert.equal(error.status, 400);
  },
  async "files are stored, read, listed and removed byte for byte"() {
    const { client, id } = await signedIn(alice);
    const files = client.storage.from(bucket);
    const bytes = Uint8Array.from({ length: 70_000 }, (_, at) => at % 256);
    const path = `${id}/a b (1).png`;
    const stored = await files.upload(path, new Blob([bytes], { type: "image/png" }), { cacheControl: "60" });
    assert.deepEqual([stored.error, stored.data.path, stored.data.fullPath], [null, path, `${bucket}/${path}`]);
    const { data } = await files.download(path);
    assert.deepEqual([new Uint8Array(await data.arrayBuffer()), data.type], [bytes, "image/png"]);
    const { data: info } = await files.info(path);
    assert.deepEqual([info.name, info.size, info.contentType], [path, bytes.length, "image/png"]);
    assert.equal((await files.exists(path)).data, true);
    assert.equal((await files.exists(`${id}/none.png`)).data, false);
    const { data: listed } = await files.list(id, { sortBy: { column: "name", order: "asc" } });
    assert.deepEqual(listed.map(({ name, metadata }) => [name, metadata.size, metadata.mimetype]), [["a b (1).png", 70_000, "image/png"]]);
    assert.deepEqual((await files.remove([path, `${id}/none.png`])).data.map(({ name }) => name), [path]);
    assert.equal((await files.download(path)).data, null);
  },
  async "a file of another user is hidden, and its folder is closed"() {
    const [one, other] = [await signedIn(alice), await signedIn(bob)];
    const path = `${one.id}/mine.txt`;
    const text = () => new Blob(["mine"], { type: "text/plain" });
    await one.client.storage.from(bucket).upload(path, text());
    for (const client of [other.client, make()]) {
      const files = client.storage.from(bucket);
      assert.deepEqual((await files.list(one.id)).data, []);
      for (const refused of [
        await files.download(path),
        await files.createSignedUrl(path, 60),
        await files.info(path),
        await files.upload(`${one.id}/other.txt`, text()),
        await files.upload(path, text(), { upsert: true }),
        await files.update(path, text()),
        await files.createSignedUploadUrl(`${one.id}/other.txt`),
        await files.move(path, `${one.id}/moved.txt`),
        await files.copy(path, `${other.id}/copied.txt`),
      ]) {
        assert.equal(refused.data, null);
        assert.ok(refused.error);
      }
      assert.deepEqual((await files.remove([path])).data, []);
    }
    assert.equal(await (await one.client.storage.from(bucket).download(path)).data.text(), "mine");
  },
  async "what exists is not replaced without upsert"() {
    const { client, id } = await signedIn(alice);
    const files = client.storage.from(bucket);
    const path = `${id}/twice.txt`;
    const body = (text) => new Blob([text], { type: "text/plain" });
    await files.upload(path, body("one"));
    const { error } = await files.upload(path, body("two"));
    assert.deepEqual([error.statusCode, error.message], ["409", "The resource already exists"]);
    assert.equal((await files.upload(path, body("three"), { upsert: true })).error, null);
    assert.equal(await (await files.download(path)).data.text(), "three");
  },
  async "the bucket limits size and types"() {
    const { client, id } = await signedIn(alice);
    const files = client.storage.from(bucket);
    const large = await files.upload(`${id}/large.txt`, new Blob(["x".repeat(100_001)], { type: "text/plain" }));
    assert.deepEqual([large.error.statusCode, large.error.message], ["413", "The object exceeded the maximum allowed size"]);
    const page = await files.upload(`${id}/page.html`, new Blob(["<p>"], { type: "text/html" }));
    assert.deepEqual([page.error.statusCode, page.error.message], ["415", "mime type text/html is not supported"]);
    assert.deepEqual((await files.list(id, { search: "large" })).data, []);
  },
  async "signed URLs need no key"() {
    const { client, id } = await signedIn(alice);
    const files = client.storage.from(bucket);
    const path = `${id}/signed.txt`;
    await files.upload(path, new Blob(["signed"], { type: "text/plain" }));
    const { data: one } = await files.createSignedUrl(path, 60, { download: "report.txt" });
    const response = await fetch(one.signedUrl);
    assert.equal(await response.text(), "signed");
    assert.match(response.headers.get("content-disposition"), /^attachment;.*report\.txt/);
    const { data: many } = await files.createSignedUrls([path, `${id}/none.txt`], 60);
    assert.deepEqual(many.map(({ path, error }) => [path, error === null]), [[path, true], [`${id}/none.txt`, false]]);
    assert.equal(await (await fetch(many[0].signedUrl)).text(), "signed");
    assert.equal((await fetch(one.signedUrl.replace(/.&/, "x&").replace(/.$/, "x"))).status, 400);
  },
  async "a signed upload URL takes one file"() {
    const { client, id } = await signedIn(alice);
    const files = client.storage.from(bucket);
    const path = `${id}/by-url.png`;
    const { data } = await files.createSignedUploadUrl(path);
    const visitor = make().storage.from(bucket);
    const sent = await visitor.uploadToSignedUrl(path, data.token, new Blob(["by url"], { type: "image/png" }));
    assert.equal(sent.error, null);
    assert.equal(await (await files.download(path)).data.text(), "by url");
    const again = await visitor.uploadToSignedUrl(path, data.token, new Blob(["again"], { type: "image/png" }));
    assert.equal(again.error.statusCode, "409");
  },
  async "files are moved and copied"() {
    const { client, id } = await signedIn(alice);
    const files = client.storage.from(bucket);
    await files.upload(`${id}/from.txt`, new Blob(["moved"], { type: "text/plain" }));
    assert.equal((await files.copy(`${id}/from.txt`, `${id}/copy.txt`)).error, null);
    assert.equal((await files.move(`${id}/from.txt`, `${id}/to.txt`)).error, null);
    for (const name of ["copy", "to"]) assert.equal(await (await files.download(`${id}/${name}.txt`)).data.text(), "moved");
    assert.equal((await files.exists(`${id}/from.txt`)).data, false);
  },
  async "lists of files are sorted and paged"() {
    const { client, id } = await signedIn(alice);
    const files = client.storage.from(bucket);
    const text = () => new Blob(["x"], { type: "text/plain" });
    for (const name of ["b", "c", "a"]) await files.upload(`${id}/listed/${name}.txt`, text());
    const names = async (options) => (await files.list(`${id}/listed`, options)).data.map(({ name }) => name);
    const sortBy = (order) => ({ sortBy: { column: "name", order } });
    assert.deepEqual(await names(sortBy("desc")), ["c.txt", "b.txt", "a.txt"]);
    assert.deepEqual(await names({ ...sortBy("asc"), limit: 1, offset: 1 }), ["b.txt"]);
    assert.deepEqual(await names({ search: "c" }), ["c.txt"]);
  },
  async "a bucket is not changed, emptied or read by a public URL with the publishable key"() {
    const one = await signedIn(alice);
    const path = `${one.id}/private.txt`;
    await one.client.storage.from(bucket).upload(path, new Blob(["private"], { type: "text/plain" }));
    for (const client of [make(), one.client]) {
      assert.equal((await client.storage.updateBucket(bucket, { public: true })).data, null);
      assert.equal((await client.storage.emptyBucket(bucket)).data, null);
      assert.equal((await client.storage.deleteBucket(bucket)).data, null);
      assert.deepEqual((await client.storage.listBuckets()).data, []);
      const { data } = client.storage.from(bucket).getPublicUrl(path);
      assert.equal((await fetch(data.publicUrl)).status, 400);
    }
  },

  async "a bulk insert sets missing columns to null or the default"() {
    const { client } = await signedIn(alice);
    const rows = [{ name: "b1", value: 5 }, { name: "b2" }];
    const table = () => client.from("conformance_counters");
    const rejected = await table().insert(rows);
    assert.deepEqual([rejected.status, rejected.error.code], [400, "23502"]);
    const filled = await table().insert(rows, { defaultToNull: false }).select("name,value");
    assert.deepEqual(filled.data, [{ name: "b1", value: 5 }, { name: "b2", value: 1 }]);
  },
  async "updates and deletes without a filter are rejected"() {
    const { client } = await signedIn(alice);
    for (const query of [client.from("conformance_counters").update({ value: 9 }), client.from("conformance_counters").delete()]) {
      const { status, error } = await query;
      assert.deepEqual([status, error.code], [400, "21000"]);
    }
  },
  async "results can be a single row, CSV or a page"() {
    const { client } = await signedIn(alice);
    await client.from("conformance_notes").insert([{ body: "one", rank: 71 }, { body: 'two "2", 2', rank: 72 }]).throwOnError();
    const notes = () => client.from("conformance_notes").select("body,rank").gte("rank", 71).lte("rank", 79).order("rank");
    assert.deepEqual((await notes().eq("rank", 79).maybeSingle()).data, null);
    assert.deepEqual((await notes().eq("rank", 71).maybeSingle()).data, { body: "one", rank: 71 });
    const several = await notes().maybeSingle();
    assert.deepEqual([several.status, several.error.code], [406, "PGRST116"]);
    assert.equal((await notes().csv()).data, 'body,rank\none,71\n"two ""2"", 2",72');
    const page = await client.from("conformance_notes").select("rank", { count: "exact" }).gte("rank", 71).order("rank").range(1, 1);
    assert.deepEqual([page.status, page.data, page.count], [206, [{ rank: 72 }], 2]);
    const beyond = await client.from("conformance_notes").select("rank", { count: "exact" }).gte("rank", 71).range(9, 9);
    assert.deepEqual([beyond.status, beyond.error.code], [416, "PGRST103"]);
    const plan = await notes().explain();
    assert.deepEqual([plan.status, plan.error.code], [406, "PGRST107"]);
    const controller = new AbortController();
    controller.abort();
    assert.match((await notes().abortSignal(controller.signal)).error.message, /abort/i);
    const wrong = async () => await client.from("conformance_notes").select("nonsense").throwOnError();
    await assert.rejects(wrong, { code: "42703" });
  },
  async "filters select the right rows"() {
    const { client } = await signedIn(alice);
    await client.from("conformance_notes").insert([
      { body: "red fox", rank: 81, tags: ["x"], data: { n: { d: 5 } } },
      { body: "blue (fox), two", rank: 82, tags: ["y"], data: { n: { d: 7 } } },
      { body: "dog", rank: 83, tags: [], data: {} },
    ]).throwOnError();
    const found = async (query) => (await query.throwOnError()).data.map(({ rank }) => rank);
    const notes = () => client.from("conformance_notes").select("rank").gte("rank", 81).lte("rank", 83).order("rank");
    assert.deepEqual(await found(notes().in("body", ["dog", "blue (fox), two"])), [82, 83]);
    assert.deepEqual(await found(notes().not("rank", "in", "(81,82)")), [83]);
    assert.deepEqual(await found(notes().or('body.in.("blue (fox), two",dog),and(rank.eq.81,tags.cs.{x})')), [81, 82, 83]);
    assert.deepEqual(await found(notes().likeAllOf("body", ["%fox%", "%two%"])), [82]);
    assert.deepEqual(await found(notes().ilikeAnyOf("body", ["RED%", "DOG"])), [81, 83]);
    assert.deepEqual(await found(notes().filter("body", "imatch", "^BLUE")), [82]);
    assert.deepEqual(await found(notes().textSearch("body", "red & fox")), [81]);
    assert.deepEqual(await found(notes().textSearch("body", "fox -red", { type: "websearch", config: "english" })), [82]);
    assert.deepEqual(await found(notes().gt("data->n->d", 5)), [82]);
    assert.deepEqual(await found(notes().match({ rank: 83, body: "dog" })), [83]);
    assert.deepEqual(await found(notes().filter("rank", "eq(any)", "{81,83}")), [81, 83]);
  },
  async "related rows can be embedded, limited and counted"() {
    const { client } = await signedIn(alice);
    const { data: [note] } = await client.from("conformance_notes").insert([{ body: "embeds", rank: 91 }]).select("id");
    const comments = ["one", "two"].map((text) => ({ note_id: note.id, text }));
    await client.from("conformance_comments").insert(comments).throwOnError();
    const notes = (columns) => client.from("conformance_notes").select(columns).eq("rank", 91);
    const inner = { referencedTable: "conformance_comments" };
    const last = await notes("body,conformance_comments(text)").order("text", { ...inner, ascending: false }).limit(1, inner);
    assert.deepEqual(last.data, [{ body: "embeds", conformance_comments: [{ text: "two" }] }]);
    assert.deepEqual((await notes("conformance_comments(count)")).data, [{ conformance_comments: [{ count: 2 }] }]);
    const spread = await client.from("conformance_comments").select("text,...conformance_notes!inner(rank)").eq("text", "one");
    assert.deepEqual(spread.data, [{ text: "one", rank: 91 }]);
    const aggregate = await notes("rank.sum()");
    assert.deepEqual([aggregate.status, aggregate.error.code], [400, "PGRST123"]);
    const wrong = await notes("body,conformance_counters(name)");
    assert.deepEqual([wrong.status, wrong.error.code], [400, "PGRST200"]);
  },
  async "functions can be called with GET, counted and limited"() {
    const { client } = await signedIn(bob);
    await client.from("conformance_notes").insert([{ body: "a", rank: 1 }, { body: "b", rank: 2 }]).throwOnError();
    const words = await client.rpc("conformance_words", { words: ["a", "b"] }, { get: true });
    assert.deepEqual(words.data, [{ word: "a", at: 1 }, { word: "b", at: 2 }]);
    const head = await client.rpc("conformance_own_notes", {}, { head: true, count: "exact" });
    assert.deepEqual([head.data, head.count], [null, 2]);
    assert.equal((await client.rpc("conformance_own_notes").select("body").eq("rank", 2).single()).data.body, "b");
    const wrong = await client.rpc("conformance_total", { nonsense: 1 });
    assert.deepEqual([wrong.status, wrong.error.code], [404, "PGRST202"]);
  },
  async "a token has the claims that policies read"() {
    const { client, id, session } = await signedIn(alice);
    await client.auth.updateUser({ data: { colour: "red" } });
    assert.equal((await client.auth.refreshSession()).error, null);
    const { data } = await client.auth.getClaims();
    assert.deepEqual([data.claims.sub, data.claims.aal, data.claims.is_anonymous], [id, "aal1", false]);
    assert.equal(data.claims.user_metadata.colour, "red");
    assert.equal(data.claims.amr[0].method, "password");
    assert.match(data.claims.iss, /\/auth\/v1$/);
    const seen = (await client.rpc("conformance_who")).data.claims;
    assert.deepEqual([seen.app_metadata.provider, seen.session_id], ["email", data.claims.session_id]);
    assert.notEqual(session.access_token, (await client.auth.getSession()).data.session.access_token);
  },
  async "a user can sign out locally, elsewhere or everywhere"() {
    const refreshes = async ({ client }) => (await client.auth.refreshSession()).error?.code ?? "ok";
    const [here, there] = [await signedIn(bob), await signedIn(bob)];
    const events = [];
    here.client.auth.onAuthStateChange((event) => events.push(event));
    await here.client.auth.signOut({ scope: "others" });
    assert.deepEqual([await refreshes(here), await refreshes(there)], ["ok", "refresh_token_not_found"]);
    const other = await signedIn(bob);
    await here.client.auth.signOut({ scope: "local" });
    assert.equal(await refreshes(other), "ok");
    assert.deepEqual(events, ["INITIAL_SESSION", "TOKEN_REFRESHED", "SIGNED_OUT"]);
    const last = await signedIn(bob);
    await last.client.auth.signOut();
    assert.equal(await refreshes(other), "refresh_token_not_found");
  },
  async "a private channel receives broadcasts, changes and presence"() {
    const { client, id } = await signedIn(alice);
    const { channel, received } = await join(client, `conformance:${id}`);
    await received.until("state", (state) => state === "SUBSCRIBED");
    await received.until("system", ({ status }) => status === "ok");
    assert.equal(await channel.send({ type: "broadcast", event: "e", payload: { n: 1 } }), "ok");
    await received.until("broadcast", ({ n }) => n === 1);
    assert.deepEqual(await channel.httpSend("e", { n: 2 }), { success: true });
    await received.until("broadcast", ({ n }) => n === 2);
    assert.equal(await channel.track({ here: true }), "ok");
    await received.until("presence", (present) => present === 1);
    await client.from("conformance_notes").insert({ body: "live" }).throwOnError();
    await received.until("change", (change) => change.new.body === "live" && !("secret" in change.new));
  },
  async "the private channel of another user is rejected"() {
    const [one, other] = [await signedIn(alice), await signedIn(bob)];
    const { received } = await join(other.client, `conformance:${one.id}`);
    await received.until("state", (state) => state === "CHANNEL_ERROR");
  },
  async "a lost connection is re-established"() {
    const { client, id } = await signedIn(alice);
    const { channel, received } = await join(client, `conformance:${id}`);
    await received.until("state", (state) => state === "SUBSCRIBED");
    client.realtime.socketAdapter?.socket?.conn?.terminate?.() ?? client.realtime.conn?.terminate?.();
    await received.until("state", (state) => state === "CHANNEL_ERROR");
    await received.until("state", (state) => state === "SUBSCRIBED");
    await channel.send({ type: "broadcast", event: "e", payload: { n: 3 } });
    await received.until("broadcast", ({ n }) => n === 3);
  },
  async "a refreshed token reaches the channel"() {
    const { client, id } = await signedIn(alice);
    const { channel, received } = await join(client, `conformance:${id}`);
    await received.until("state", (state) => state === "SUBSCRIBED");
    await client.auth.refreshSession();
    await channel.send({ type: "broadcast", event: "e", payload: { n: 4 } });
    await received.until("broadcast", ({ n }) => n === 4);
    await client.realtime.setAuth((await signedIn(bob)).session.access_token);
    await received.until("system", ({ status }) => status === "error");
  },
};

for (const [name, check] of Object.entries(checks)) {
  let error = null;
  try {
    await check();
  } catch (reason) {
    error = `${reason?.stack ?? JSON.stringify(reason)}`;
  }
  console.log(JSON.stringify({ name, error }));
}
process.exit(0);
