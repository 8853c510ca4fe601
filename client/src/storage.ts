/** The requests to Supabase Storage, over supabase-js. Each has a timeout and throws `RequestError`. */

import { refusal, unreachable } from "./errors.ts";
import { withTimeout } from "./timeout.ts";
import { RequestError, type AnySupabaseClient, type AttachOptions } from "./types.ts";

const BUCKET = "attachments";
const REQUEST_TIMEOUT_MS = 15_000;
/** How long an upload may send nothing. */
const STALL_MS = 30_000;
/** How long an upload may take where its progress is not known: 10 MiB at 50 kB a second. */
const UPLOAD_TIMEOUT_MS = 210_000;
/** What a signed upload caches as, like any other of storage-js. */
const CACHE = "max-age=3600";

/** An error of storage-js, or the body of one of Storage's. Its HTTP status is often 400, whatever `statusCode` says. */
interface StorageError {
  message?: string | undefined;
  status?: number | undefined;
  statusCode?: string | undefined;
  code?: string | undefined;
}

const CODES: Record<number, readonly [code: string, sentence: string]> = {
  403: ["403", "You cannot attach files here: this session is not yours, was deleted, or has too many files."],
  404: ["404", "The server is not set up for attachments."],
  413: ["too_large", "This file is too large."],
  415: ["unsupported_type", "Files of this type cannot be attached."],
};
const DUPLICATE = 409;

/**
 * Stores a file under a type. Succeeds as well if there is an object at the path: paths are not guessed, so that is
 * the same file, whose answer was lost. If `signal` is aborted, it throws the signal's reason.
 */
export async function upload(
  client: AnySupabaseClient,
  path: string,
  file: Blob,
  type: string,
  options: AttachOptions,
): Promise<void> {
  const { signal } = options;
  // `fetch` reports no progress, and in React Native it cannot send a file
  const run = typeof XMLHttpRequest === "function" ? uploadWithProgress : uploadByFetch;
  const error = await unlessAborted(signal, () => run(client, path, file, type, options));
  if (error !== null && statusOf(error) !== DUPLICATE) throw refused(error);
  options.onProgress?.(1);
}

/** Returns a signed URL for each path, without those that there is no object at. */
export async function sign(
  client: AnySupabaseClient,
  paths: readonly string[],
  seconds: number,
): Promise<Map<string, string>> {
  const outcome = await within(REQUEST_TIMEOUT_MS, client.storage.from(BUCKET).createSignedUrls([...paths], seconds));
  if (outcome.error) throw refused(outcome.error);
  if (!Array.isArray(outcome.data)) throw unreachable();
  const signed = outcome.data.filter(({ path, signedUrl }) => path && signedUrl);
  return new Map(signed.map(({ path, signedUrl }) => [path!, signedUrl!]));
}

async function uploadByFetch(
  client: AnySupabaseClient,
  path: string,
  file: Blob,
  type: string,
): Promise<StorageError | null> {
  const body = file.slice(0, file.size, type); // storage-js sends a blob under its own type
  return (await within(UPLOAD_TIMEOUT_MS, client.storage.from(BUCKET).upload(path, body))).error;
}

async function uploadWithProgress(
  client: AnySupabaseClient,
  path: string,
  file: Blob,
  type: string,
  options: AttachOptions,
): Promise<StorageError | null> {
  const target = await within(REQUEST_TIMEOUT_MS, client.storage.from(BUCKET).createSignedUploadUrl(path));
  if (target.error) return target.error;
  return options.signal?.aborted ? null : put(target.data.signedUrl, file, type, options);
}

function put(url: string, file: Blob, type: string, { signal, onProgress }: AttachOptions): Promise<StorageError | null> {
  return new Promise((resolve) => {
    const request = new XMLHttpRequest();
    const abort = (): void => request.abort();
    let stalled: ReturnType<typeof setTimeout>;
    const wait = (): void => {
      clearTimeout(stalled);
      stalled = setTimeout(abort, STALL_MS);
    };
    request.upload.onprogress = ({ loaded, total }) => {
      wait();
      if (total > 0) onProgress?.(loaded / total);
    };
    request.onloadend = () => {
      clearTimeout(stalled);
      signal?.removeEventListener("abort", abort);
      resolve(outcomeOf(request));
    };
    request.open("PUT", url);
    request.setRequestHeader("content-type", type);
    request.setRequestHeader("cache-control", CACHE);
    signal?.addEventListener("abort", abort);
    wait();
    request.send(file);
  });
}

/** Null if the file was stored. */
function outcomeOf({ status, responseText }: XMLHttpRequest): StorageError | null {
  let body: StorageError & { Key?: unknown } = {};
  try {
    body = Object(JSON.parse(responseText)) as typeof body;
  } catch {
    // a gateway's page, or that of a network that wants a sign-in
  }
  if (status >= 400) return { ...body, status };
  return body.Key ? null : { status: 0 };
}

function statusOf({ status = 0, statusCode }: StorageError): number {
  return status >= 400 && status < 500 ? Number(statusCode) || status : status;
}

function refused(error: StorageError): RequestError {
  const { code, message = "" } = error;
  // what says 403 may also be an expired token
  const status = /jw[st]|claim/i.test(message) ? 401 : statusOf(error);
  const known = CODES[status];
  if (known) return new RequestError(known[1], known[0]);
  const { message: sentence, isRetryable } = refusal(status === 400 ? { message } : null, status);
  return new RequestError(sentence, status ? (code ?? `${status}`) : null, isRetryable);
}

/** The outcome, or that of no answer. storage-js takes no signal, so the request goes on. */
function within<T>(ms: number, request: Promise<T>): Promise<T | { data: null; error: StorageError }> {
  return withTimeout(ms, () => request).catch(() => ({ data: null, error: { status: 0 } }));
}

/** Runs `run`. Rejects as soon as `signal` is aborted, with its reason. */
export async function unlessAborted<T>(signal: AbortSignal | undefined, run: () => Promise<T>): Promise<T> {
  let abort: () => void = () => undefined;
  const aborted = new Promise<never>((_, reject) => {
    // React Native's signals have no reason
    abort = () => reject(signal?.reason ?? new Error("Aborted."));
  });
  signal?.addEventListener("abort", abort);
  if (signal?.aborted) abort();
  try {
    return await Promise.race([aborted, signal?.aborted ? aborted : run()]);
  } finally {
    signal?.removeEventListener("abort", abort);
  }
}
