// A frontend in JavaScript with nothing but the official client: uploads files, and names them in a question. Arguments:
// URL, publishable key, function, then for each file its path and its type. Prints the id of the question.
import { readFile } from "node:fs/promises";
import { basename, extname } from "node:path";
import { createClient } from "@supabase/supabase-js";
import WebSocket from "ws";

const [url, key, fn, ...files] = process.argv.slice(2);
// Node 20 has no WebSocket
const supabase = createClient(url, key, { auth: { persistSession: false }, realtime: { transport: WebSocket } });
const must = ({ data, error }) => {
  if (error) throw new Error(JSON.stringify(error));
  return data;
};

must(await supabase.auth.signUp({ email: `${crypto.randomUUID()}@example.com`, password: "correct horse battery" }));
const session = must(await supabase.from("sessions").insert({ function: fn, title: "named" }).select().single());
const attachments = [];
for (let at = 0; at < files.length; at += 2) {
  const [file, type] = [files[at], files[at + 1]];
  const path = `${session.id}/${crypto.randomUUID()}${extname(file)}`;
  must(await supabase.storage.from("attachments").upload(path, new Blob([await readFile(file)], { type })));
  attachments.push({ path, name: basename(file) });
}
const id = crypto.randomUUID();
must(await supabase.from("messages").insert({ id, session_id: session.id, content: "what is this?", attachments }));
console.log(JSON.stringify({ id }));
