import { readFileSync, unwatchFile, watchFile } from "node:fs";
import type { Plugin } from "vite";

const EVENT = "problems";

/** Sends the page what `make dev` finds wrong in the functions: the content of the JSON file DEV_STATUS. */
export function problems(file = process.env["DEV_STATUS"]): Plugin {
  return {
    name: "problems",
    apply: "serve",
    configureServer(server) {
      if (!file) return;
      const send = () => server.ws.send(EVENT, read(file));
      watchFile(file, { interval: 150 }, send);
      server.ws.on(`${EVENT}:now`, (_, client) => client.send(EVENT, read(file))); // a page has loaded
      server.httpServer?.on("close", () => unwatchFile(file, send));
    },
  };
}

function read(file: string): unknown[] {
  try {
    const found: unknown = JSON.parse(readFileSync(file, "utf8"));
    return Array.isArray(found) ? found : [];
  } catch {
    return []; // `make dev` has not written it yet, or has stopped
  }
}
