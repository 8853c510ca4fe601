// A frontend in JavaScript with the official client and its default serializer. Prints what it saw as JSON.
import { createClient } from "@supabase/supabase-js";
import WebSocket from "ws";

const [url, key, fn, text] = process.argv.slice(2);
// Node 20 has no WebSocket of its own; a browser has
const supabase = createClient(url, key, { auth: { persistSession: false }, realtime: { transport: WebSocket } });
const must = ({ data, error }) => {
  if (error) throw new Error(JSON.stringify(error));
  return data;
};

const email = `${crypto.randomUUID()}@example.com`;
const { user } = must(await supabase.auth.signUp({ email, password: "correct horse battery" }));
await supabase.realtime.setAuth();
const session = must(await supabase.from("sessions").insert({ function: fn, title: "named" }).select().single());

const heard = [];
let ended;
const done = new Promise((resolve) => (ended = resolve));
const channel = supabase.channel(`session:${session.id}`, { config: { private: true } });
for (const event of ["delta", "message", "file"]) {
  channel.on("broadcast", { event }, ({ payload }) => {
    heard.push({ event, payload });
    if (event === "message" && payload.role === "assistant" && payload.status === "done") ended();
  });
}
await new Promise((resolve, reject) =>
  channel.subscribe((state, error) => {
    if (state === "SUBSCRIBED") resolve();
    else reject(new Error(`${state} ${error}`));
  }),
);

const id = crypto.randomUUID();
must(await supabase.from("messages").insert({ id, session_id: session.id, content: text }));
// a repeated insert, as after a lost response, is told that it had arrived
const again = await supabase.from("messages").insert({ id, session_id: session.id, content: text });
await Promise.race([
  done,
  new Promise((_, reject) => setTimeout(() => reject(new Error("no reply within 15 s")), 15_000).unref()),
]);
const row = must(await supabase.from("messages").select().eq("reply_to", id).single());
const files = must(await supabase.from("code_files").select());
await supabase.removeAllChannels();
console.log(JSON.stringify({ user: user.id, heard, row, files, again: again.error?.code, status: again.status }));
process.exit(0);
