/** A fake Supabase Storage in memory, below supabase-js: the answers are those of the hosted one. */

import { createClient } from "@supabase/supabase-js";
import { vi } from "vitest";
import type { AnySupabaseClient } from "../src/types.ts";

/** What happens to a request: an answer, none, none although it has arrived, or a gateway's page. */
export type Fate = "ok" | "lost" | "unanswered" | "502";

interface Answer {
  status: number;
  body: unknown;
}

export class Objects {
  /** The stored files, by path. */
  readonly stored = new Map<string, { type: string; bytes: Uint8Array }>();
  /** The method and path of each request, oldest first. */
  requests: string[] = [];
  /** What happens to the next requests. */
  fates: Fate[] = [];
  /** Refuses whatever is stored. */
  refusal: Answer | null = null;
  /** Answers only when it resolves. */
  gate: Promise<void> | null = null;
  /** The number of tokens so far. */
  #tokens = 0;

  client(): AnySupabaseClient {
    return createClient("http://localhost", "key", {
      global: { fetch: async (input, init) => respond(await this.handle(`${init?.method}`, String(input), init?.body)) },
      accessToken: () => Promise.resolve("token"),
      realtime: { transport: class { close(): void {} } as never },
    });
  }

  /** Null: there is no answer. */
  async handle(method: string, address: string, body: unknown, type?: string): Promise<Answer | null> {
    const path = new URL(address).pathname.replace("/storage/v1/object/", "");
    this.requests.push(`${method} ${path}`);
    const fate = this.fates.shift() ?? "ok";
    if (fate === "lost") return null;
    if (fate === "502") return { status: 502, body: "<html>Bad gateway</html>" };
    await this.gate;
    const answer = await this.#answer(method, path, body, type);
    return fate === "unanswered" ? null : answer;
  }

  async #answer(method: string, path: string, body: unknown, type?: string): Promise<Answer> {
    if (path === "sign/attachments") {
      const { paths, expiresIn } = JSON.parse(body as string) as { paths: string[]; expiresIn: number };
      return { status: 200, body: paths.map((one) => this.#sign(one, expiresIn)) };
    }
    const [, isSigned, key] = /^(upload\/sign\/)?attachments\/(.*)$/.exec(path)!;
    if (this.refusal) return this.refusal;
    if (this.stored.has(key!)) return failure(409, "Duplicate", "KeyAlreadyExists", "The resource already exists");
    if (isSigned && method === "POST") {
      return { status: 200, body: { url: `/object/upload/sign/attachments/${key}?token=t`, token: "t" } };
    }
    const file = body instanceof FormData ? (body.get("") as Blob) : (body as Blob);
    this.stored.set(key!, { type: type ?? file.type, bytes: new Uint8Array(await file.arrayBuffer()) });
    return { status: 200, body: { Id: "1", Key: `attachments/${key}` } };
  }

  #sign(path: string, seconds: number): object {
    if (!this.stored.has(path)) return { error: "Either the object does not exist or you do not have access to it", path, signedURL: null };
    return { error: null, path, signedURL: `/object/sign/attachments/${path}?token=${++this.#tokens}-${seconds}` };
  }
}

export function failure(code: number, error: string, name: string, message: string): Answer {
  return { status: 400, body: { statusCode: `${code}`, code: name, error, message } };
}

function respond(answer: Answer | null): Response {
  if (answer === null) throw new TypeError("fetch failed");
  const body = typeof answer.body === "string" ? answer.body : JSON.stringify(answer.body);
  return new Response(body, { status: answer.status });
}

/** Gives the runtime an `XMLHttpRequest` that sends to `objects`. */
export function stubXMLHttpRequest(objects: Objects): void {
  class Request {
    upload: { onprogress?: (event: { loaded: number; total: number }) => void } = {};
    onloadend = (): void => undefined;
    status = 0;
    responseText = "";
    #target: [method: string, url: string] = ["", ""];
    readonly #headers = new Map<string, string>();
    #isOver = false;

    open(...target: [string, string]): void {
      this.#target = target;
    }

    setRequestHeader(name: string, value: string): void {
      this.#headers.set(name, value);
    }

    send(file: Blob): void {
      void this.#send(file);
    }

    async #send(file: Blob): Promise<void> {
      this.upload.onprogress?.({ loaded: file.size / 2, total: file.size });
      const answer = await objects.handle(...this.#target, file, this.#headers.get("content-type"));
      if (this.#isOver) return;
      if (answer) Object.assign(this, { status: answer.status, responseText: JSON.stringify(answer.body) });
      this.#end();
    }

    abort(): void {
      if (!this.#isOver) this.#end();
    }

    #end(): void {
      this.#isOver = true;
      this.onloadend();
    }
  }
  vi.stubGlobal("XMLHttpRequest", Request);
}
