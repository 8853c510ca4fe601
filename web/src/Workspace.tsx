import { useEffect, useState } from "react";
import type { User } from "@supabase/supabase-js";
import { useSessions } from "supabase-baml-bridge-client/react";
import { Chat } from "./Chat.tsx";
import { Sidebar } from "./Sidebar.tsx";
import { preloadText } from "./Text.tsx";
import { useHash } from "./hooks.ts";
import type { Client } from "./supabase.ts";

interface Props {
  client: Client;
  user: User;
}

/** The page of a signed-in user: the list of sessions, and the selected session. */
export function Workspace({ client, user }: Props) {
  const { list, ...snapshot } = useSessions(client, user.id);
  const [selectedId, select] = useHash();
  const [menuOpen, setMenuOpen] = useState(false);
  const [creating, setCreating] = useState(false);
  const selected = snapshot.sessions.find(({ id }) => id === selectedId);
  useEffect(preloadText, []);
  if (list === null) return null;

  return (
    <div className="workspace" onKeyDown={({ key }) => key === "Escape" && setMenuOpen(false)}>
      <Sidebar
        list={list}
        snapshot={snapshot}
        email={user.email ?? ""}
        selectedId={selected?.id ?? null}
        open={menuOpen}
        onSelect={(id) => {
          select(id);
          setMenuOpen(false);
        }}
        onCreating={setCreating}
        onSignOut={() => client.auth.signOut({ scope: "local" }).then(() => select(""))}
      />
      {menuOpen && <div className="scrim" onClick={() => setMenuOpen(false)} />}
      <main className="main">
        {selected ? (
          // hidden while a session is created: text typed then is meant for the new one, and if there is none, what was
          // typed before is still here
          <div hidden={creating}>
            <Chat
              key={selected.id}
              client={client}
              row={selected}
              menuOpen={menuOpen}
              onMenu={() => setMenuOpen(!menuOpen)}
            />
          </div>
        ) : creating ? null : (
          <div className="welcome">
            <button className="menu" aria-expanded={menuOpen} onClick={() => setMenuOpen(!menuOpen)}>
              Sessions
            </button>
            {snapshot.ready && (
              <>
                <img src="./icon.svg" alt="" width="56" height="56" />
                <h1>What would you like to talk about?</h1>
                <p className="muted">Start a new session, or choose one from the list.</p>
              </>
            )}
          </div>
        )}
      </main>
    </div>
  );
}
