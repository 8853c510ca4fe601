// npx expo install react-native-url-polyfill @react-native-async-storage/async-storage @react-native-community/netinfo
import "react-native-url-polyfill/auto";
import AsyncStorage from "@react-native-async-storage/async-storage";
import NetInfo from "@react-native-community/netinfo";
import { createClient } from "@supabase/supabase-js";
import { useEffect, useState } from "react";
import { AppState, Button, FlatList, KeyboardAvoidingView, Text, TextInput } from "react-native";
import { focusManager, onlineManager } from "supabase-baml-bridge-client/online";
import { useSession, useSessions } from "supabase-baml-bridge-client/react";
import type { Database, Message } from "supabase-baml-bridge-client";

const supabase = createClient<Database>(
  process.env["EXPO_PUBLIC_SUPABASE_URL"]!,
  process.env["EXPO_PUBLIC_SUPABASE_PUBLISHABLE_KEY"]!,
  { auth: { storage: AsyncStorage, detectSessionInUrl: false } },
);

// there is no `document` and no `online` event here: these say when the app is back, and sockets may be dead
onlineManager.setEventListener((setOnline) => NetInfo.addEventListener((state) => setOnline(state.isConnected !== false)));
focusManager.setEventListener((setFocused) => {
  const subscription = AppState.addEventListener("change", (state) => setFocused(state === "active"));
  return () => subscription.remove();
});
// as Supabase's guide says: tokens are refreshed while the app is in front
AppState.addEventListener("change", (state) => {
  void (state === "active" ? supabase.auth.startAutoRefresh() : supabase.auth.stopAutoRefresh());
});

export default function App() {
  const [userId, setUserId] = useState<string | null>(null);
  useEffect(() => {
    const { data } = supabase.auth.onAuthStateChange((_event, session) => setUserId(session?.user.id ?? null));
    return () => data.subscription.unsubscribe();
  }, []);
  return userId === null ? <SignIn /> : <Sessions key={userId} userId={userId} />;
}

function SignIn() {
  const [email, setEmail] = useState("");
  const [password, setPassword] = useState("");
  const [error, setError] = useState("");
  async function submit(isNew: boolean): Promise<void> {
    const credentials = { email, password };
    const result = await (isNew ? supabase.auth.signUp(credentials) : supabase.auth.signInWithPassword(credentials));
    const unconfirmed = result.data.session === null ? "Check your email to confirm your account, then sign in." : "";
    setError(result.error?.message ?? unconfirmed);
  }
  return (
    <KeyboardAvoidingView style={{ flex: 1, padding: 24 }} behavior="padding">
      <TextInput value={email} onChangeText={setEmail} placeholder="Email" autoCapitalize="none" />
      <TextInput value={password} onChangeText={setPassword} placeholder="Password" secureTextEntry />
      <Button title="Sign in" onPress={() => void submit(false)} />
      <Button title="Sign up" onPress={() => void submit(true)} />
      <Text accessibilityRole="alert">{error}</Text>
    </KeyboardAvoidingView>
  );
}

/** Opens the newest session, or a new one, and keeps to it: another that is used meanwhile becomes the newest. */
function Sessions({ userId }: { userId: string }) {
  const { list, sessions, ready, error } = useSessions(supabase, userId);
  const [failure, setFailure] = useState<string | null>(null);
  const [opened, setOpened] = useState<string | null>(null);
  const newest = ready ? sessions[0] : undefined;
  const id = (sessions.find((session) => session.id === opened) ?? newest)?.id ?? null;
  useEffect(() => setOpened(id), [id]);
  useEffect(() => {
    if (!list || !ready || id !== null) return;
    list.create({ title: "Expo", function: "Chat" }).catch((reason: Error) => setFailure(reason.message));
  }, [list, ready, id]);
  if (id !== null) return <Chat key={id} id={id} />;
  return <Text>{failure ?? error ?? "Loading…"}</Text>;
}

function Chat({ id }: { id: string }) {
  const { session, messages, busy, connection, hasOlder } = useSession(supabase, id);
  const [text, setText] = useState("");
  function send(): void {
    if (text.trim() === "") return;
    void session?.send(text); // without a connection it is sent later: see its status
    setText("");
  }
  const asked = messages.filter(({ role }) => role === "user").pop();
  return (
    <KeyboardAvoidingView style={{ flex: 1, padding: 24 }} behavior="padding">
      {connection === "offline" && <Text>Connection lost. Reconnecting…</Text>}
      <FlatList
        style={{ flex: 1 }}
        inverted
        data={[...messages].reverse()}
        keyExtractor={(message) => message.id}
        renderItem={({ item }) => <Text style={{ marginVertical: 8 }}>{shown(item)}</Text>}
        onEndReached={() => hasOlder && void session?.loadOlder().catch(() => undefined)}
      />
      <TextInput value={text} onChangeText={setText} accessibilityLabel="Message" placeholder="Message" multiline />
      <Button title="Send" onPress={send} />
      {busy && asked && <Button title="Stop" onPress={() => void session?.cancel(asked.id).catch(() => undefined)} />}
      <Button title="Sign out" onPress={() => void supabase.auth.signOut()} />
    </KeyboardAvoidingView>
  );
}

function shown({ role, content, status, error }: Message): string {
  const state = status === "done" ? "" : ` (${error?.message ?? status.replace("_", " ")})`;
  return `${role === "user" ? "You" : "Reply"}: ${content}${state}`;
}
