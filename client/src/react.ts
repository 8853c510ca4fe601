/** React hooks for a session and for the list of sessions. */

import { useEffect, useState, useSyncExternalStore } from "react";
import { canonicalId } from "./id.ts";
import { openSession, type ChatSession, type SessionOptions } from "./session.ts";
import { openSessionList, type SessionList } from "./sessions.ts";
import { keepSigned } from "./sign.ts";
import type { AnySupabaseClient, Json, SessionListSnapshot, SessionSnapshot } from "./types.ts";

interface Opened<T> {
  subscribe(listener: () => void): () => void;
  getSnapshot(): T;
  close(): void;
}

/** The current snapshot of a session or session list. Re-renders when it changes. */
export function useSnapshot<T>(source: Pick<Opened<T>, "subscribe" | "getSnapshot">): T {
  return useSyncExternalStore(source.subscribe, source.getSnapshot, source.getSnapshot);
}

/** The result of `useSession`: the session's snapshot, and the session itself (null until it is open). */
export interface UseSession<Data = Json> extends SessionSnapshot<Data> {
  readonly session: ChatSession<Data> | null;
}

const NO_SESSION = {
  messages: [],
  files: [],
  connection: "connecting",
  ready: false,
  hasOlder: false,
  busy: false,
  asks: [],
  error: null,
} satisfies SessionSnapshot;

/**
 * Opens a session while the component is mounted, or none if `id` is null. If the BAML function returns a class, pass
 * it as `Data`. Options apply when the session is opened. When the signed-in user changes the session is opened again,
 * so nobody sees the previous user's messages.
 */
export function useSession<Data = Json>(
  client: AnySupabaseClient,
  id: string | null,
  options?: SessionOptions,
): UseSession<Data> {
  const userChanges = useUserChanges(client);
  const own = id === null ? null : canonicalId(id);
  const [session, snapshot] = useOpened<SessionSnapshot<Data>, ChatSession<Data>>(
    () => (own === null ? null : openSession<Data>(client, own, options)),
    NO_SESSION,
    [client, own, userChanges],
  );
  return { ...snapshot, session };
}

/** The result of `useSessions`: the list's snapshot, and the list itself (null until it is open). */
export interface UseSessions extends SessionListSnapshot {
  readonly list: SessionList | null;
}

const NO_LIST: SessionListSnapshot = { sessions: [], connection: "connecting", ready: false, error: null };

/** Opens the list of the signed-in user's sessions while the component is mounted, or none if `userId` is null. */
export function useSessions(client: AnySupabaseClient, userId: string | null): UseSessions {
  const own = userId === null ? null : canonicalId(userId);
  const [list, snapshot] = useOpened<SessionListSnapshot, SessionList>(
    () => (own === null ? null : openSessionList(client, own)),
    NO_LIST,
    [client, own],
  );
  return { ...snapshot, list };
}

/**
 * A URL for an attachment's path, which a browser can load: undefined until it is there, null if the object was deleted.
 * It is renewed before it expires.
 */
export function useAttachmentUrl(client: AnySupabaseClient, path: string | null): string | null | undefined {
  const [signed, setSigned] = useState<{ path: string; url: string | null } | null>(null);
  useEffect(() => {
    if (path !== null) return keepSigned(client, path, (url) => setSigned({ path, url }));
  }, [client, path]);
  return path === null ? null : signed?.path === path ? signed.url : undefined;
}

/** Counts changes of the signed-in user since the component was mounted. */
function useUserChanges(client: AnySupabaseClient): number {
  const [changes, setChanges] = useState(0);
  useEffect(() => {
    let last: string | null | undefined;
    try {
      const { data } = client.auth.onAuthStateChange((_event, session) => {
        const next = session?.user.id ?? null;
        if (last !== undefined && next !== last) setChanges((count) => count + 1);
        last = next;
      });
      return () => data.subscription.unsubscribe();
    } catch {
      return undefined; // a client with `accessToken` has no `auth`: the application has to handle this
    }
  }, [client]);
  return changes;
}

const neverChanges = (): (() => void) => () => undefined;

function useOpened<T, O extends Opened<T>>(open: () => O | null, empty: T, keys: readonly unknown[]): [O | null, T] {
  // stored with its keys, so that the value of old keys is not shown while the next one opens
  const [state, setState] = useState<{ opened: O; keys: readonly unknown[] } | null>(null);
  useEffect(() => {
    const opened = open();
    if (opened === null) return;
    setState({ opened, keys });
    return () => {
      setState(null);
      opened.close();
    };
  }, keys);
  const current = state?.keys.every((key, at) => Object.is(key, keys[at])) ? state.opened : null;
  const snapshot = useSyncExternalStore(
    current?.subscribe ?? neverChanges,
    current?.getSnapshot ?? (() => empty),
    () => empty,
  );
  return [current, snapshot];
}
