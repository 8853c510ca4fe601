import { StrictMode, Suspense, lazy } from "react";
import { createRoot } from "react-dom/client";
import { App } from "./App.tsx";
import { connect } from "./supabase.ts";
import { restoreTheme } from "./theme.ts";
import "./base.css";
import "./workspace.css";
import "./conversation.css";
import "./parameters.css";
import "./prose.css";
import "./parts.css";
import "./files.css";
import "./attachments.css";
import "./narrow.css";

restoreTheme();

// only while it is developed: a build leaves it out
const Problems = import.meta.env.DEV ? lazy(() => import("./Problems.tsx")) : null;

const client = connect(import.meta.env);

createRoot(document.getElementById("root")!).render(
  <StrictMode>
    {Problems && (
      <Suspense fallback={null}>
        <Problems />
      </Suspense>
    )}
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
