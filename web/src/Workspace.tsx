import { useEffect, useLayoutEffect, useRef, useState } from "react";
import type { User } from "@supabase/supabase-js";
import { newId } from "supabase-baml-bridge-client";
import { useSessions } from "supabase-baml-bridge-client/react";
import { Catalogue, SupabaseClient, useCatalogue } from "./catalogue.ts";
import { Chat } from "./Chat.tsx";
import { Sidebar } from "./Sidebar.tsx";
import { preloadText } from "./Text.tsx";
import { keptSessionId } from "./draft.ts";
import { useNoStrayDrops } from "./drop.ts";
import { useSelectedId } from "./hooks.ts";
import { useModels } from "./models.ts";
import type { Client } from "./supabase.ts";

interface Props {
  client: Client;
  user: User;
}

/** The page of a signed-in user: the list of sessions, and the selected session or the start of a new one. */
export function Workspace({ client, user }: Props) {
  const functions = useCatalogue(client);
  const models = useModels(client);
  const { list, ...snapshot } = useSessions(client, user.id);
  const [selectedId, select] = useSelectedId();
  /** The id that the next new session gets. */
  const [nextId, setNextId] = useState(() => keptSessionId() ?? newId());
  /** The sessions with messages that wait. They stay open until these are sent, though another one is shown. */
  const [waitingIds, setWaitingIds] = useState<readonly string[]>([]);
  const [menuOpen, setMenuOpen] = useState(false);
  const main = useRef<HTMLElement>(null);
  const rowOf = (id: string) => snapshot.sessions.find((session) => session.id === id) ?? null;
  const selected = rowOf(selectedId);
  const isCreated = rowOf(nextId) !== null;
  useEffect(preloadText, []);
  useNoStrayDrops();

  // the new session exists: show it, unless the user has gone elsewhere, and prepare for the next one
  useLayoutEffect(() => {
    if (!isCreated) return;
    if (selected === null) select(nextId);
    if (selected?.id === nextId || !waitingIds.includes(nextId)) setNextId(newId());
  }, [isCreated, selected, nextId, waitingIds]);
  if (list === null) return null;

  const shownId = selected?.id ?? nextId;
  // not one that was deleted meanwhile
  const hidden = waitingIds.filter((id) => id !== shownId && (id === nextId || rowOf(id) !== null));
  /** The session of the address may be one of the list, which has not arrived. */
  const isLoading = !snapshot.ready && selected === null && selectedId !== "";
  const onWaiting = (of: string, isWaiting: boolean) =>
    setWaitingIds((now) => [...now.filter((other) => other !== of), ...(isWaiting ? [of] : [])]);
  const toggleMenu = () => setMenuOpen(!menuOpen);
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
        onNew={() => {
          select("");
          setMenuOpen(false);
          main.current?.querySelector("textarea")?.focus();
        }}
        onSignOut={() => client.auth.signOut({ scope: "local" }).then(() => select(""))}
      />
      {menuOpen && <div className="scrim" onClick={() => setMenuOpen(false)} />}
      <main ref={main} className="main">
        {isLoading ? (
          <header className="chat-header">
            <button className="menu" aria-expanded={menuOpen} onClick={toggleMenu}>
              Sessions
            </button>
          </header>
        ) : (
          <SupabaseClient value={client}>
            <Catalogue value={functions}>
              {[...hidden, shownId].map((id) => (
                <div key={id} hidden={id !== shownId}>
                  <Chat
                    client={client}
                    list={list}
                    id={id}
                    row={rowOf(id)}
                    models={models}
                    shown={id === shownId}
                    menuOpen={menuOpen}
                    onMenu={toggleMenu}
                    onWaiting={onWaiting}
                  />
                </div>
              ))}
            </Catalogue>
          </SupabaseClient>
        )}
      </main>
    </div>
  );
}
