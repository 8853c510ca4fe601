/**
 * Private Realtime topics. All listeners of a topic share one subscription, which ends with the last of them.
 *
 * realtime-js rejoins after a lost connection and a refused join, but not after the server closes the channel (an
 * expired token, a limit). In that case the channel is replaced by a new one.
 */

import type { RealtimeChannel } from "@supabase/supabase-js";
import { focusManager, onlineManager } from "./online.ts";
import { backoff } from "./poller.ts";
import type { AnySupabaseClient, Connection } from "./types.ts";

export interface TopicListener {
  /** The payload is unchecked: validate it before use. */
  onEvent(event: string, payload: unknown): void;
  /** Each `live` starts a period without gaps. Read the rows for anything earlier. */
  onConnection(connection: Connection): void;
}

const FIRST_DELAY_MS = 500;
/** How long a socket may take to answer a heartbeat after a sleep. */
const ANSWER_MS = 2_000;

// realtime-js has one channel per topic and client: a second subscriber to it would receive nothing
const topics = new WeakMap<AnySupabaseClient, Topics>();

/** Listens to the broadcasts of a private topic. Returns a function that stops listening. */
export function listen(client: AnySupabaseClient, name: string, listener: TopicListener): () => void {
  const ofClient = topics.get(client) ?? new Topics(client);
  topics.set(client, ofClient);
  return ofClient.listen(name, listener);
}

/** The topics of one client, which share its socket. */
class Topics {
  readonly #client: AnySupabaseClient;
  readonly #byName = new Map<string, PrivateTopic>();
  #unsubscribe: (() => void)[] = [];
  #timer: ReturnType<typeof setTimeout> | undefined;

  constructor(client: AnySupabaseClient) {
    this.#client = client;
  }

  listen(name: string, listener: TopicListener): () => void {
    if (this.#byName.size === 0) {
      this.#unsubscribe = [
        onlineManager.subscribe((online) => void (online ? this.#reconnect() : this.#offline())),
        focusManager.subscribe((focused) => void (focused && this.#reconnect())),
      ];
    }
    const topic = this.#byName.get(name) ?? new PrivateTopic(this.#client, name);
    this.#byName.set(name, topic);
    topic.add(listener);
    return () => {
      if (!topic.remove(listener)) return;
      this.#byName.delete(name);
      if (this.#byName.size > 0) return;
      clearTimeout(this.#timer);
      for (const unsubscribe of this.#unsubscribe) unsubscribe();
    };
  }

  #offline(): void {
    for (const topic of this.#byName.values()) topic.setOffline();
  }

  async #reconnect(): Promise<void> {
    const { realtime } = this.#client;
    clearTimeout(this.#timer);
    try {
      if (realtime.isConnected()) {
        // the socket may be dead: realtime-js drops it when a second heartbeat finds the first one unanswered
        await realtime.sendHeartbeat();
        this.#timer = setTimeout(() => void realtime.sendHeartbeat().catch(() => undefined), ANSWER_MS);
        for (const topic of this.#byName.values()) topic.setLive();
      } else {
        await realtime.disconnect(); // resets the reconnection delay
        realtime.connect();
      }
    } catch {
      // realtime-js goes on trying by itself
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
      setTimeout(() => this.#listeners.has(listener) && listener.onConnection(this.#connection));
    }
  }

  /** Returns true, and leaves the topic, if that was the last listener. */
  remove(listener: TopicListener): boolean {
    this.#listeners.delete(listener);
    if (this.#stopped || this.#listeners.size > 0) return false;
    this.#stopped = true;
    clearTimeout(this.#timer);
    const channel = this.#channel;
    this.#channel = null;
    if (channel !== null) this.#client.removeChannel(channel).catch(() => undefined); // the socket may be closed
    return true;
  }

  setOffline(): void {
    this.#setConnection("offline");
  }

  /** Announces `live` again if the channel is joined, so that listeners read what they may have missed. */
  setLive(): void {
    if (this.#channel?.state === "joined") this.#setConnection("live");
  }

  async #join(): Promise<void> {
    await this.#authorise();
    try {
      if (!this.#stopped) this.#subscribe();
    } catch {
      this.#rejoin(); // there is no WebSocket, or none can be opened
    }
  }

  #subscribe(): void {
    const channel = this.#client.channel(this.#name, { config: { private: true } });
    this.#channel = channel;
    channel.on("broadcast", { event: "*" }, ({ event, payload }) => {
      if (this.#channel === channel) for (const listener of [...this.#listeners]) listener.onEvent(event, payload);
    });
    channel.subscribe((status) => {
      if (this.#channel !== channel) return;
      if (status === "SUBSCRIBED") {
        this.#closures = 0;
        this.#setConnection("live");
        return;
      }
      if (status === "CLOSED") return this.#rejoin();
      this.#setConnection("offline");
      void this.#authorise(); // the token may have expired: the next join uses a new one
    });
  }

  /** Replaces the channel after a while. */
  #rejoin(): void {
    this.#setConnection("offline");
    this.#channel = null;
    const delay = backoff(++this.#closures, FIRST_DELAY_MS);
    this.#timer = setTimeout(() => void this.#join(), delay * (0.5 + Math.random() / 2));
  }

  /** Passes the user's current token to Realtime. */
  async #authorise(): Promise<void> {
    try {
      await this.#client.realtime.setAuth();
    } catch {
      // no token at the moment: the join is refused and retried
    }
  }

  #setConnection(connection: Connection): void {
    if (connection === this.#connection && connection !== "live") return;
    this.#connection = connection;
    for (const listener of [...this.#listeners]) listener.onConnection(connection);
  }
}
