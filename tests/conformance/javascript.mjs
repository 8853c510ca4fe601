// Checks of supabase-js against a project: url, publishable key and the users' credentials come as arguments. Prints a
// line of JSON for each check: its name, and what was wrong, if anything.
import assert from "node:assert/strict";
import { createRequire } from "node:module";

const [, , url, key, patience, ...people] = process.argv;
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

/** What a channel tells, to be awaited in order. */
function listen() {
  const items = [];
  let wake = () => {};
  const tell = (kind) => (value) => (items.push([kind, value]), wake());
  const until = async (kind, wanted = () => true) => {
    const deadline = Date.now() + patience * 1000;
    for (;;) {
      const at = items.findIndex(([found, value]) => found === kind && wanted(value));
      if (at >= 0) return items.splice(0, at + 1).at(-1)[1];
      assert.ok(Date.now() < deadline, `no ${kind}; heard ${JSON.stringify(items)}`);
      await new Promise((resolve) => {
        const timer = setTimeout(resolve, 200);
        wake = () => (clearTimeout(timer), resolve());
      });
    }
  };
  return { tell, until };
}

async function join(client, topic) {
  const heard = listen();
  const channel = client
    .channel(topic, { config: { private: true, broadcast: { self: true, ack: true } } })
    .on("broadcast", { event: "e" }, ({ payload }) => heard.tell("broadcast")(payload))
    .on("postgres_changes", { event: "*", schema: "public", table: "conformance_notes" }, heard.tell("change"))
    .on("presence", { event: "sync" }, () => heard.tell("presence")(Object.keys(channel.presenceState()).length))
    .on("system", {}, heard.tell("system"))
    .subscribe((state) => heard.tell("state")(state));
  return { channel, heard };
}

const checks = {
  async "rows are written and read"() {
    const { client } = await signedIn(alice);
    const columns = "body,rank,tags,data,due";
    const row = { body: "ü \"x\"", rank: 5, tags: ["a", 'b"c'], data: { a: [1, null, false] }, due: null };
    assert.deepEqual(await client.from("conformance_notes").insert(row).select(columns).single().then((r) => r.data), row);
    const found = await client.from("conformance_notes").select(columns, { count: "exact" }).contains("data", { a: [1] });
    assert.deepEqual([found.data, found.count, found.status], [[row], 1, 200]);
    const head = await client.from("conformance_notes").select("id", { count: "exact", head: true });
    assert.deepEqual([head.count, head.data], [1, null]);
    const gone = await client.from("conformance_notes").delete().eq("rank", 5);
    assert.deepEqual([gone.status, gone.error], [204, null]);
  },
  async "upserts keep or replace"() {
    const { client, id } = await signedIn(alice);
    const table = () => client.from("conformance_counters");
    await table().upsert({ owner: id, name: "js", value: 2 }).throwOnError();
    await table().upsert([{ owner: id, name: "js", value: 3 }], { onConflict: "owner,name" }).throwOnError();
    await table().upsert([{ owner: id, name: "js", value: 9 }], { ignoreDuplicates: true }).throwOnError();
    assert.deepEqual((await table().select("value").eq("name", "js").single()).data, { value: 3 });
  },
  async "functions take jsonb and arrays"() {
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
  async "rows of others stay hidden"() {
    const [one, other] = [await signedIn(alice), await signedIn(bob)];
    await one.client.from("conformance_notes").insert({ body: "mine" }).throwOnError();
    assert.deepEqual((await other.client.from("conformance_notes").select("id")).data, []);
    assert.equal((await make().from("conformance_notes").select("id")).status, 401);
  },
  async "sessions are refreshed and end"() {
    const { client, session } = await signedIn(alice);
    const { data } = await client.auth.refreshSession();
    assert.notEqual(data.session.refresh_token, session.refresh_token);
    assert.equal((await client.auth.getUser()).data.user.email, alice.email);
    assert.equal((await client.auth.signOut()).error, null);
    const { error } = await make().auth.refreshSession({ refresh_token: data.session.refresh_token });
    assert.equal(error.status, 400);
  },
  async "a private channel hears broadcasts, changes and presence"() {
    const { client, id } = await signedIn(alice);
    const { channel, heard } = await join(client, `conformance:${id}`);
    await heard.until("state", (state) => state === "SUBSCRIBED");
    await heard.until("system", ({ status }) => status === "ok");
    assert.equal(await channel.send({ type: "broadcast", event: "e", payload: { n: 1 } }), "ok");
    await heard.until("broadcast", ({ n }) => n === 1);
    assert.deepEqual(await channel.httpSend("e", { n: 2 }), { success: true });
    await heard.until("broadcast", ({ n }) => n === 2);
    assert.equal(await channel.track({ here: true }), "ok");
    await heard.until("presence", (present) => present === 1);
    await client.from("conformance_notes").insert({ body: "heard" }).throwOnError();
    await heard.until("change", (change) => change.new.body === "heard" && !("secret" in change.new));
  },
  async "a channel of somebody else is refused"() {
    const [one, other] = [await signedIn(alice), await signedIn(bob)];
    const { heard } = await join(other.client, `conformance:${one.id}`);
    await heard.until("state", (state) => state === "CHANNEL_ERROR");
  },
  async "a broken connection is made again"() {
    const { client, id } = await signedIn(alice);
    const { channel, heard } = await join(client, `conformance:${id}`);
    await heard.until("state", (state) => state === "SUBSCRIBED");
    client.realtime.socketAdapter?.socket?.conn?.terminate?.() ?? client.realtime.conn?.terminate?.();
    await heard.until("state", (state) => state === "CHANNEL_ERROR");
    await heard.until("state", (state) => state === "SUBSCRIBED");
    await channel.send({ type: "broadcast", event: "e", payload: { n: 3 } });
    await heard.until("broadcast", ({ n }) => n === 3);
  },
  async "a refreshed token reaches the channel"() {
    const { client, id } = await signedIn(alice);
    const { channel, heard } = await join(client, `conformance:${id}`);
    await heard.until("state", (state) => state === "SUBSCRIBED");
    await client.auth.refreshSession();
    await channel.send({ type: "broadcast", event: "e", payload: { n: 4 } });
    await heard.until("broadcast", ({ n }) => n === 4);
    await client.realtime.setAuth((await signedIn(bob)).session.access_token);
    await heard.until("system", ({ status }) => status === "error");
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
