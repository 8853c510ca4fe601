import type { SessionList, SessionListSnapshot } from "supabase-baml-bridge-client";
import { useAction } from "./action.ts";
import { SessionItem } from "./SessionItem.tsx";
import { useTheme } from "./theme.ts";

interface Props {
  list: SessionList;
  snapshot: SessionListSnapshot;
  email: string;
  selectedId: string | null;
  open: boolean;
  onSelect(id: string): void;
  onNew(): void;
  onSignOut(): Promise<void>;
}

/** The button for a new session, the list of sessions, and the account. */
export function Sidebar({ list, snapshot, email, selectedId, open, onSelect, onNew, onSignOut }: Props) {
  const { run, error } = useAction();
  const [theme, nextTheme] = useTheme();

  return (
    <nav className={open ? "sidebar open" : "sidebar"} aria-label="Sessions">
      <button className="primary new-session" onClick={onNew}>
        New session
      </button>
      {(error ?? snapshot.error) && (
        <p className="error" role="alert">
          {error ?? snapshot.error}
        </p>
      )}
      <ul className="sessions" data-testid="sessions">
        {snapshot.sessions.map((session) => (
          <SessionItem
            key={session.id}
            session={session}
            selected={session.id === selectedId}
            onSelect={() => onSelect(session.id)}
            onRename={(title) => run(() => list.rename(session.id, title))}
            onDelete={() => void run(() => list.remove(session.id))}
          />
        ))}
      </ul>
      {snapshot.ready && snapshot.sessions.length === 0 && <p className="muted hint">No sessions yet.</p>}
      <footer className="account">
        <span className="email" title={email}>
          {email}
        </span>
        <button className="quiet" onClick={nextTheme} aria-label={`Theme: ${theme}`} title={`Theme: ${theme}`}>
          <svg viewBox="0 0 16 16" width="16" height="16" aria-hidden="true">
            <circle cx="8" cy="8" r="5.5" />
            <path d="M8 2.5a5.5 5.5 0 0 1 0 11z" className="filled" />
          </svg>
        </button>
        <button className="quiet" onClick={() => void onSignOut()}>
          Sign out
        </button>
      </footer>
    </nav>
  );
}
