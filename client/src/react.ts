/** React hooks: a session and the list of sessions as values that change. */

import { useEffect, useState, useSyncExternalStore } from "react";
import { openSession, type ChatSession, type SessionOptions } from "./session.ts";
import { openSessionList, type SessionList } from "./sessions.ts";
import type { AnySupabaseClient, Json, SessionListSnapshot, SessionSnapshot } from "./types.ts";

interface Opened<T> {
  subscribe(listener: () => void): () => void;
  getSnapshot(): T;
  close(): void;
}

/** The present value of something of this package, and again whenever it changes. */
export function useSnapshot<T>(observable: Pick<Opened<T>, "subscribe" | "getSnapshot">): T {
  return useSyncExternalStore(observable.subscribe, observable.getSnapshot, observable.getSnapshot);
}

/** What `useSession` gives: the session's state, and the session to act on (null until it is open). */
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
  error: null,
} satisfies SessionSnapshot;

/**
 * A session for as long as the component is shown; `id` null: none. `Data` is the result of its BAML function, if
 * that is a class. The options count when the session is opened. It is opened anew when somebody else signs in: nobody
 * is shown what the last user was.
 */
export function useSession<Data = Json>(
  client: AnySupabaseClient,
  id: string | null,
  options?: SessionOptions,
): UseSession<Data> {
  const users = useUsers(client);
  const [session, snapshot] = useOpened<SessionSnapshot<Data>, ChatSession<Data>>(
    () => (id === null ? null : openSession<Data>(client, id, options)),
    NO_SESSION,
    [client, id, users],
  );
  return { ...snapshot, session };
}

/** What `useSessions` gives: the list's state, and the list to act on (null until it is open). */
export interface UseSessions extends SessionListSnapshot {
  readonly list: SessionList | null;
}

const NO_LIST: SessionListSnapshot = { sessions: [], connection: "connecting", ready: false, error: null };

/** The list of the signed-in user's sessions for as long as the component is shown; `userId` null: none. */
export function useSessions(client: AnySupabaseClient, userId: string | null): UseSessions {
  const [list, snapshot] = useOpened<SessionListSnapshot, SessionList>(
    () => (userId === null ? null : openSessionList(client, userId)),
    NO_LIST,
    [client, userId],
  );
  return { ...snapshot, list };
}

/** Counts how often somebody else signed in, or out, since the component is shown. */
function useUsers(client: AnySupabaseClient): number {
  const [users, setUsers] = useState(0);
  useEffect(() => {
    let last: string | null | undefined;
    try {
      const { data } = client.auth.onAuthStateChange((_event, session) => {
        const next = session?.user.id ?? null;
        if (last !== undefined && next !== last) setUsers((count) => count + 1);
        last = next;
      });
      return () => data.subscription.unsubscribe();
    } catch {
      return undefined; // a client with `accessToken` has no `auth`: the application knows who signs in
    }
  }, [client]);
  return users;
}

const neverChanges = (): (() => void) => () => undefined;

function useOpened<T, O extends Opened<T>>(open: () => O | null, empty: T, keys: readonly unknown[]): [O | null, T] {
  // with the keys it was opened for: a value of other keys is not shown while its successor is opened
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
