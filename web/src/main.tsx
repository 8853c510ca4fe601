import { StrictMode } from "react";
import { createRoot } from "react-dom/client";
import { App } from "./App.tsx";
import { connect } from "./supabase.ts";
import { restoreTheme } from "./theme.ts";
import "./base.css";
import "./workspace.css";
import "./conversation.css";
import "./prose.css";
import "./files.css";
import "./narrow.css";

restoreTheme();

const client = connect(import.meta.env);

createRoot(document.getElementById("root")!).render(
  <StrictMode>
    {typeof client === "string" ? (
      <main className="notice" role="alert">
        <h1>Not configured</h1>
        <p>{client}</p>
      </main>
    ) : (
      <App client={client} />
    )}
  </StrictMode>,
);
