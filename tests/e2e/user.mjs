// A frontend in JavaScript with the official client and its default serializer. Prints its events and rows as JSON.
import { createClient } from "@supabase/supabase-js";
import WebSocket from "ws";

const [url, key, fn, text] = process.argv.slice(2);
// Node 20 has no WebSocket
const supabase = createClient(url, key, { auth: { persistSession: false }, realtime: { transport: WebSocket } });
const must = ({ data, error }) => {
  if (error) throw new Error(JSON.stringify(error));
  return data;
};

const email = `${crypto.randomUUID()}@example.com`;
const { user } = must(await supabase.auth.signUp({ email, password: "correct horse battery" }));
await supabase.realtime.setAuth();
const session = must(await supabase.from("sessions").insert({ function: fn, title: "named" }).select().single());

const events = [];
const done = (id) =>
  ["id", "reply_to"].every((key) => events.some(({ event, payload }) => event === "message" && payload[key] === id && payload.status === "done"));
async function until(reached) {
  for (const deadline = Date.now() + 20_000; !reached(); await new Promise((resolve) => setTimeout(resolve, 10))) {
    if (Date.now() > deadline) throw new Error(`timed out after 20 s: ${reached}`);
  }
}
const ask = (id, content) => supabase.from("messages").insert({ id, session_id: session.id, content });
const channel = supabase.channel(`session:${session.id}`, { config: { private: true } });
for (const event of ["delta", "message", "file"]) {
  channel.on("broadcast", { event }, ({ payload }) => events.push({ event, payload }));
}
await new Promise((resolve, reject) =>
  channel.subscribe((state, error) => {
    if (state === "SUBSCRIBED") resolve();
    else reject(new Error(`${state} ${error}`));
  }),
);

// a worker joins the topic with its first reply and then stays: ask until a delta arrives
while (!events.some(({ event }) => event === "delta")) {
  const first = crypto.randomUUID();
  must(await ask(first, "[[text=heard]]"));
  await until(() => done(first));
}
events.length = 0;

const id = crypto.randomUUID();
must(await ask(id, text));
// a repeated insert, as after a lost response, fails as a duplicate
const again = await ask(id, text);
await until(() => done(id));
const row = must(await supabase.from("messages").select().eq("reply_to", id).single());
const files = must(await supabase.from("code_files").select());
await supabase.removeAllChannels();
console.log(JSON.stringify({ user: user.id, events, row, files, again: again.error?.code, status: again.status }));
process.exit(0);
