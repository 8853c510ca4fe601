// Runs after the blocks of docs/frontend.md, in the same module, and checks what the page promises. Names that are not
// declared here come from the page. Prints one line of JSON per check: its name and its error, or null.
const other = createClient(SUPABASE_URL, SUPABASE_PUBLISHABLE_KEY, { auth: { storageKey: "other" } });
assert.equal((await other.auth.signInWithPassword({ email: more[0], password })).error, null); // a user with a limit of one message per minute

const history = []; // every state of every message that the page showed
const { set } = messages;
messages.set = (id, row) => (history.push(row), set.call(messages, id, row));
const applied = onDelta;
let isLost = () => false;
onDelta = (delta) => isLost(delta) || applied(delta);

const replyTo = (id) => [...messages.values()].find((row) => row.reply_to === id);
const ended = (id) => until(() => !isRunning(replyTo(id) ?? { status: "queued" }) && replyTo(id));
const begun = (id) => until(() => replyTo(id)?.status === "running" && replyTo(id).content !== "");
const behave = (on_new_message) => supabase.from("sessions").update({ on_new_message }).eq("id", session.id).throwOnError();
const stored = async (id) => (await supabase.from("messages").select().eq("reply_to", id).single().throwOnError()).data;
const refusal = async (sent) => {
  const { error, status } = await sent;
  return [status, error?.code];
};
const question = (row) => supabase.from("messages").insert({ session_id: session.id, content: "hello", ...row });
const file = (row) => supabase.from("code_files").insert({ session_id: session.id, path: "f", ...row });
const sessionRow = (row) => supabase.from("sessions").insert(row).select();

function shown(id) {
  const texts = history.filter((row) => row.reply_to === id).map((row) => row.content);
  return texts.filter((text, n) => text !== texts[n - 1]);
}

const checks = {
  async "text streams, and ends equal to the row"() {
    const id = await ask("[[tokens=60 delay=0.05]]"); // a delta a token
    const reply = await ended(id);
    assert.deepEqual(reply, await stored(id));
    assert.equal(reply.status, "done");
    await until(() => messages.get(id).status === "done");
    assert.deepEqual([messages.get(id).ordinal % 2, reply.ordinal], [0, messages.get(id).ordinal + 1]);
    const texts = shown(id);
    assert.ok(texts.length > 8, `${texts.length} steps`);
    assert.ok(texts.every((text) => reply.content.startsWith(text)));
  },
  async "a question names what was uploaded, which a signed URL loads"() {
    const file = new File(["hello"], "notes.md", { type: "text/plain" });
    const { path, name } = await attach(file);
    const id = await ask("", null, { attachments: [{ path, name }] });
    assert.deepEqual(messages.get(id).attachments, [{ path, name: "notes.md", type: "text/plain", size: 5 }]);
    const [url, gone] = await urlsOf([path, path.replace(".txt", ".png")]);
    assert.deepEqual([await (await fetch(url)).text(), gone], ["hello", null]);
    await cancel(id);
    const png = { path: `${session.id}/${crypto.randomUUID()}.png`, name: "a.png" };
    assert.deepEqual(await refusal(question({ attachments: [png] })), [404, "PT404"]);
    assert.deepEqual(await refusal(question({ attachments: [{ path, name: "notes.pdf" }] })), [400, "PT400"]);
  },
  async "a model is chosen from the list"() {
    assert.deepEqual(await readModels(), []);
    await chooseModel(null);
    await assert.rejects(chooseModel("openai/gpt-x"), { code: "23503" });
    assert.deepEqual(await refusal(question({ model: "openai/gpt-x" })), [409, "23503"]);
  },
  async "a lost delta leaves a gap that a checkpoint closes"() {
    let lostSeq = null; // of the first delta from the third on that the page would apply
    isLost = ({ reply_to, seq }) => {
      if (lostSeq === null && seq >= 3 && replyTo(reply_to)?.seq === seq - 1) lostSeq = seq;
      return seq === lostSeq;
    };
    const id = await ask("[[tokens=150 delay=0.02 stall=120]]");
    await until(() => lostSeq !== null);
    await until(() => replyTo(id).seq > lostSeq);
    assert.equal(replyTo(id).status, "running");
    isLost = () => false;
    await cancel(id);
    const reply = await ended(id);
    assert.deepEqual(reply, await stored(id));
    assert.ok(shown(id).every((text) => reply.content.startsWith(text)));
  },
  async "a page opened during a reply continues from the checkpoint"() {
    const id = await ask("[[tokens=100 delay=0.02]]");
    await begun(id);
    messages.clear();
    await read();
    const [first] = [replyTo(id).seq];
    assert.deepEqual(await ended(id), await stored(id));
    assert.ok(replyTo(id).seq > first);
    assert.ok(shown(id).every((text) => replyTo(id).content.startsWith(text)));
  },
  async "a question whose response was lost is sent again and stored once"() {
    lost = { method: "POST", path: "/rest/v1/messages" };
    const id = await ask("[[text=once]]");
    assert.equal(lost, undefined);
    assert.equal((await ended(id)).content, "once");
    assert.deepEqual(await refusal(question({ id, content: "" })), [409, "23505"]);
  },
  async "cancel keeps the text so far, and retry replaces it"() {
    const id = await ask('[[text="one two three four five six seven" stall=4 times=1]]');
    await begun(id);
    assert.equal(await cancel(id), "cancelling");
    const reply = await ended(id);
    assert.equal(reply.status, "cancelled");
    assert.ok("one two three four".startsWith(reply.content) && reply.content !== "", reply.content);
    assert.equal(await cancel(reply.id), "cancelled");
    assert.equal(await retry(reply.id), "queued");
    await until(() => replyTo(id).attempt === 2);
    assert.equal((await ended(id)).content, "one two three four five six seven");
    assert.equal(await cancel(id), "done");
    assert.equal((await stored(id)).status, "done");
  },
  async "enqueue: a waiting question has no reply, and is cancelled at once"() {
    await behave("enqueue");
    const first = await ask('[[text="one two three" stall=2]]');
    await begun(first);
    const second = await ask("This never reaches a model.");
    await until(() => messages.get(second)?.status === "queued");
    assert.equal(replyTo(second), undefined);
    assert.equal(await cancel(second), "cancelled");
    await cancel(first);
    await ended(first);
  },
  async "interrupt: a question ends the running reply and keeps its text"() {
    await behave("interrupt");
    const first = await ask('[[text="one two three four" stall=3]]');
    await begun(first);
    const second = await ask("[[text=two]]");
    assert.equal((await ended(second)).content, "two");
    assert.equal(replyTo(first).status, "cancelled");
    assert.notEqual(replyTo(first).content, "");
  },
  async "reject: a question is refused while a reply runs"() {
    await behave("reject");
    const id = await ask('[[text="one two three" stall=2]]');
    await begun(id);
    assert.deepEqual(await refusal(question()), [409, "PT409"]);
    await cancel(id);
    await ended(id);
    await behave("enqueue");
  },
  async "invalid and forbidden requests are refused with the documented codes"() {
    const { data: theirs } = await other.from("sessions").insert({ title: "theirs" }).select().single().throwOnError();
    const { data: theirFirst } = await other.from("messages").insert({ session_id: theirs.id, content: "1" }).select("id");
    assert.equal(theirFirst.length, 1);
    const anonymous = createClient(SUPABASE_URL, SUPABASE_PUBLISHABLE_KEY, { auth: { storageKey: "anonymous" } });
    const nobody = crypto.randomUUID();
    assert.deepEqual(await refusal(question({ content: " " })), [400, "PT400"]);
    assert.deepEqual(await refusal(question({ data: ["no object"] })), [400, "PT400"]);
    assert.deepEqual(await refusal(question({ data: { large: "x".repeat(32768) } })), [400, "PT400"]);
    for (const wrong of [
      sessionRow({ title: "x".repeat(1025) }),
      sessionRow({ metadata: [] }),
      sessionRow({ metadata: { large: "x".repeat(16384) } }),
      sessionRow({ on_new_message: "other" }),
      file({ path: "" }),
      file({ path: "x".repeat(513) }),
      file({ path: "a\nb" }),
    ]) {
      assert.deepEqual(await refusal(wrong), [400, "23514"]);
    }
    assert.deepEqual(await refusal(anonymous.from("messages").select()), [401, "42501"]);
    assert.deepEqual(await refusal(question({ session_id: theirs.id })), [403, "42501"]);
    assert.deepEqual(await refusal(question({ role: "assistant" })), [403, "42501"]);
    assert.deepEqual(await refusal(supabase.rpc("cancel_message", { message_id: nobody })), [404, "PT404"]);
    assert.deepEqual(await refusal(supabase.rpc("retry_message", { message_id: theirFirst[0].id })), [404, "PT404"]);
    assert.deepEqual(await refusal(file({ path: "twice" })), [201, undefined]);
    assert.deepEqual(await refusal(file({ path: "twice" })), [409, "23505"]);
    assert.deepEqual(await refusal(question({ content: "x".repeat(32769) })), [413, "PT413"]);
    assert.deepEqual(await refusal(file({ content: "x".repeat(262145) })), [413, "PT413"]);
    const { error, status } = await other.from("messages").insert({ session_id: theirs.id, content: "2" });
    assert.deepEqual([status, error.code], [429, "PT429"]);
    const { limit, value, ends_at } = JSON.parse(error.details);
    assert.deepEqual([limit, value], ["messages_per_minute", 1]);
    assert.ok(Date.parse(ends_at) > Date.now() - 60_000);
    await assert.rejects(ask(" "), { code: "PT400" });
    await assert.rejects(cancel(nobody), { code: "PT404" });
    await assert.rejects(retry(nobody), { code: "PT404" });
  },
  async "a failed reply has an error, and can be retried"() {
    const id = await ask("[[error=400 text=fixed times=1]]");
    const { status, error } = await ended(id);
    assert.deepEqual([status, error.code, typeof error.message], ["failed", "model_refused", "string"]);
    await until(() => messages.get(id).status === "failed");
    await retry(id);
    await until(() => replyTo(id).status === "done");
    assert.deepEqual([replyTo(id).content, replyTo(id).error], ["fixed", null]);
  },
  async "a busy model is retried without the user seeing a failure"() {
    const id = await ask("[[error=429 text=patience times=1]]");
    const { status, attempt, content } = await ended(id);
    assert.deepEqual([status, attempt, content], ["done", 2, "patience"]);
    assert.ok(!history.some((row) => row.reply_to === id && row.status === "failed"));
  },
  async "a structured result is the reply's data"() {
    const recipe = { reply: "Boil it.", title: "Egg", ingredients: [{ name: "egg", grams: 60 }], files: [] };
    const id = await cook(`[[json=${JSON.stringify(recipe)}]]`, 4);
    const find = () => supabase.from("messages").select().eq("reply_to", id).maybeSingle();
    const row = await until(async () => ((row) => row?.status === "done" && row)((await find()).data));
    assert.deepEqual([row.content, row.data], ["Boil it.", recipe]);
  },
  async "a reply writes files, and an edit of an old revision is not saved"() {
    await supabase.from("sessions").update({ function: "Code" }).eq("id", session.id).throwOnError();
    const code = (content, more = "") =>
      ask(`[[json=${JSON.stringify({ reply: "Here.", files: [{ path: "a.py", content }] })} ${more}]]`);
    const reply = await ended(await code("x = 1"));
    const find = () => [...files.values()].find(({ path }) => path === "a.py");
    const written = await until(find);
    assert.deepEqual([written.content, written.revision, written.message_id], ["x = 1", 1, reply.id]);
    const saved = await save(written, "x = 2");
    assert.deepEqual([saved.content, saved.revision], ["x = 2", 2]);
    assert.equal(await save(written, "x = 3"), null);
    await until(() => find().content === "x = 2");
    assert.deepEqual((await versions(written)).map(({ content, revision, conflict }) => [content, revision, conflict]), [
      ["x = 1", 1, false],
    ]);
    // the user saves during the reply, and then the test releases it
    const id = await code("x = 4", "hold=1");
    await until(() => replyTo(id)?.status === "running");
    assert.equal((await save(find(), "x = 5")).revision, 3);
    await ended(id);
    await until(() => conflicts.has(written.id));
    assert.equal(find().content, "x = 5");
    const lostTo = (await versions(written)).find(({ conflict }) => conflict);
    assert.deepEqual([lostTo.content, lostTo.revision], ["x = 4", 2]);
    // too large for an event
    await file({ path: "large", content: "x".repeat(40_000) }).throwOnError();
    const large = await until(() => [...files.values()].find(({ path }) => path === "large"));
    assert.equal(large.content.length, 40_000);
    await supabase.from("code_files").delete().eq("id", written.id).throwOnError();
    await until(() => find() === undefined);
    await supabase.from("sessions").update({ function: "Chat" }).eq("id", session.id).throwOnError();
  },
  async "the list of sessions follows renames, inserts, replies and deletions"() {
    await until(() => sessions.get(session.id)?.title); // set by the function Title
    await supabase.from("sessions").update({ title: "Renamed" }).eq("id", session.id).throwOnError();
    await until(() => sessions.get(session.id).title === "Renamed");
    const { data: another } = await sessionRow({ title: "Another" }).single();
    await until(() => sessions.has(another.id));
    const before = sessions.get(session.id).updated_at;
    await ended(await ask("[[text=up]]"));
    await until(() => sessions.get(session.id).updated_at > before);
    await supabase.from("sessions").delete().eq("id", another.id).throwOnError();
    await until(() => !sessions.has(another.id));
  },
  async "an older response that arrives late does not undo a session's event"() {
    const { data: kept } = await sessionRow({ title: "Old" }).single();
    const { data: removed } = await sessionRow({ title: "Removed" }).single();
    await until(() => sessions.has(kept.id) && sessions.has(removed.id));
    const { fetch } = globalThis;
    let hasArrived = false;
    let letGo;
    const late = new Promise((resolve) => (letGo = resolve));
    globalThis.fetch = async (...request) => {
      globalThis.fetch = fetch;
      const answer = await fetch(...request);
      hasArrived = true;
      await late;
      return answer;
    };
    const reading = readSessions();
    await until(() => hasArrived);
    await supabase.from("sessions").update({ title: "New" }).eq("id", kept.id).throwOnError();
    await supabase.from("sessions").delete().eq("id", removed.id).throwOnError();
    await until(() => sessions.get(kept.id).title === "New" && !sessions.has(removed.id));
    letGo();
    await reading;
    assert.deepEqual([sessions.get(kept.id).title, sessions.has(removed.id)], ["New", false]);
    sessions.set(removed.id, removed); // as if its deletion had not been announced
    deleted.clear();
    await readSessions();
    assert.ok(!sessions.has(removed.id) && sessions.has(kept.id));
  },
  async "postgres_changes deliver own rows, and the ids of all deleted rows"() {
    const [rows, deletedIds] = [[], []];
    const channel = followRows((row) => rows.push(row), (id) => deletedIds.push(id));
    const ready = new Promise((resolve) => channel.on("system", {}, ({ status }) => status === "ok" && resolve()));
    await ready;
    const id = await ask("[[text=changed]]");
    await until(() => rows.some((row) => row.reply_to === id && row.status === "done" && row.content === "changed"));
    const { data: theirs } = await other.from("messages").select("id, session_id").limit(1).single();
    await other.from("sessions").delete().eq("id", theirs.session_id).throwOnError();
    await until(() => deletedIds.includes(theirs.id));
    assert.ok(deletedIds.every((id) => typeof id === "string"));
    assert.ok(rows.every((row) => row.session_id === session.id));
  },
  async "without Realtime, running replies are read every 5 s"() {
    await supabase.removeAllChannels();
    const id = await ask("[[text=silence]]");
    assert.equal((await ended(id)).content, "silence");
  },
};

for (const [name, check] of Object.entries(checks)) {
  let error = null;
  try {
    await check();
  } catch (caught) {
    const last = [...messages.values()].sort((a, b) => a.ordinal - b.ordinal).slice(-4);
    error = `${caught.stack ?? JSON.stringify(caught)}\n${last.map((row) => JSON.stringify(row)).join("\n")}`;
  }
  console.log(JSON.stringify({ name, error }));
}
process.exit(0);
