import { StrictMode } from "react";
import { createRoot } from "react-dom/client";
import { App } from "./App.tsx";
import { connect } from "./supabase.ts";
import "./styles.css";

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
