/**
 * One subscription to a private topic, however many listen to it, that lasts until the last one leaves.
 *
 * realtime-js joins again by itself after a lost connection and a refused join, but not after the server closed the
 * channel (an expired token, a limit): then the channel is made anew.
 */

import type { RealtimeChannel } from "@supabase/supabase-js";
import { backoff } from "./reading.ts";
import type { AnySupabaseClient, Connection } from "./types.ts";
import { watchForSleep } from "./wake.ts";

export interface TopicListener {
  /** The payload is whatever came: judge it before use. */
  onEvent(event: string, payload: unknown): void;
  /** Each `live` begins a time without a gap: what came before it must be read. */
  onConnection(connection: Connection): void;
}

const FIRST_DELAY_MS = 500;
/** How long a socket may take to answer a heartbeat after a sleep. */
const ANSWER_MS = 2_000;

// realtime-js has one channel a topic and client, and a second subscriber to it would hear nothing
const topics = new WeakMap<AnySupabaseClient, Topics>();

/** Listens to the broadcasts of a private topic until the returned function is called. */
export function listen(client: AnySupabaseClient, name: string, listener: TopicListener): () => void {
  const ofClient = topics.get(client) ?? new Topics(client);
  topics.set(client, ofClient);
  return ofClient.listen(name, listener);
}

/** The topics of one client, which share its socket. */
class Topics {
  readonly #client: AnySupabaseClient;
  readonly #byName = new Map<string, PrivateTopic>();
  #leave: (() => void) | null = null;
  #timer: ReturnType<typeof setTimeout> | undefined;

  constructor(client: AnySupabaseClient) {
    this.#client = client;
  }

  listen(name: string, listener: TopicListener): () => void {
    this.#leave ??= watchForSleep({ onWake: () => void this.#wake(), onOffline: () => this.#offline() });
    const topic = this.#byName.get(name) ?? new PrivateTopic(this.#client, name);
    this.#byName.set(name, topic);
    topic.add(listener);
    return () => {
      if (!topic.remove(listener)) return;
      this.#byName.delete(name);
      if (this.#byName.size > 0) return;
      clearTimeout(this.#timer);
      this.#leave?.();
      this.#leave = null;
    };
  }

  #offline(): void {
    for (const topic of this.#byName.values()) topic.lost();
  }

  async #wake(): Promise<void> {
    const { realtime } = this.#client;
    clearTimeout(this.#timer);
    if (realtime.isConnected()) {
      // it may be dead and not know: realtime-js gives a socket up when a heartbeat finds the last one unanswered
      await realtime.sendHeartbeat();
      this.#timer = setTimeout(() => void realtime.sendHeartbeat(), ANSWER_MS);
      for (const topic of this.#byName.values()) topic.found();
    } else {
      await realtime.disconnect(); // forgets the delay before the next attempt
      realtime.connect();
    }
  }
}

class PrivateTopic {
  readonly #client: AnySupabaseClient;
  readonly #name: string;
  readonly #listeners = new Set<TopicListener>();
  #channel: RealtimeChannel | null = null;
  #connection: Connection = "connecting";
  #closures = 0;
  #timer: ReturnType<typeof setTimeout> | undefined;
  #stopped = false;

  constructor(client: AnySupabaseClient, name: string) {
    this.#client = client;
    this.#name = name;
    void this.#join();
  }

  add(listener: TopicListener): void {
    this.#listeners.add(listener);
    if (this.#connection !== "connecting") {
      queueMicrotask(() => this.#listeners.has(listener) && listener.onConnection(this.#connection));
    }
  }

  /** Returns whether that was the last listener; the topic is left then. */
  remove(listener: TopicListener): boolean {
    this.#listeners.delete(listener);
    if (this.#stopped || this.#listeners.size > 0) return false;
    this.#stopped = true;
    clearTimeout(this.#timer);
    const channel = this.#channel;
    this.#channel = null;
    if (channel !== null) this.#client.removeChannel(channel).catch(() => undefined); // the socket may be gone
    return true;
  }

  /** Nothing arrives at present. */
  lost(): void {
    this.#tell("offline");
  }

  /** What came meanwhile may have been missed, if events arrive again. */
  found(): void {
    if (this.#channel?.state === "joined") this.#tell("live");
  }

  async #join(): Promise<void> {
    await this.#authorise();
    if (this.#stopped) return;
    const channel = this.#client.channel(this.#name, { config: { private: true } });
    this.#channel = channel;
    channel.on("broadcast", { event: "*" }, ({ event, payload }) => {
      if (this.#channel === channel) for (const listener of [...this.#listeners]) listener.onEvent(event, payload);
    });
    channel.subscribe((status) => {
      if (this.#channel !== channel) return;
      if (status === "SUBSCRIBED") {
        this.#closures = 0;
        this.#tell("live");
        return;
      }
      this.#tell("offline");
      if (status === "CLOSED") {
        this.#channel = null;
        const delay = backoff(++this.#closures, FIRST_DELAY_MS);
        this.#timer = setTimeout(() => void this.#join(), delay * (0.5 + Math.random() / 2));
      } else {
        void this.#authorise(); // the token may have expired: the next join takes the new one
      }
    });
  }

  /** Gives Realtime the user's present token. */
  async #authorise(): Promise<void> {
    try {
      await this.#client.realtime.setAuth();
    } catch {
      // no new token at present: the join is refused and tried again
    }
  }

  #tell(connection: Connection): void {
    if (connection === this.#connection && connection !== "live") return;
    this.#connection = connection;
    for (const listener of [...this.#listeners]) listener.onConnection(connection);
  }
}
