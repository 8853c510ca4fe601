import react from "@vitejs/plugin-react";
import { defaultClientConditions, defineConfig, loadEnv, type Plugin } from "vite";
import { problems } from "./problems.ts";

export default defineConfig(({ mode }) => ({
  base: "./", // so that the built page works under any path
  // a font in the style sheet would be refused by the page's policy
  build: { assetsInlineLimit: (file) => (file.endsWith(".woff2") ? false : undefined) },
  plugins: [
    react(),
    onlyModernFonts(),
    problems(),
    contentSecurityPolicy(loadEnv(mode, import.meta.dirname)["VITE_SUPABASE_URL"]),
  ],
  // the client's sources, not its last build
  resolve: { conditions: ["supabase-baml-bridge-source", ...defaultClientConditions] },
  server: { strictPort: true },
  preview: { strictPort: true },
}));

/** A second line of defence behind React's escaping: only the page's own scripts, and only its own Supabase. */
function contentSecurityPolicy(supabaseUrl = ""): Plugin {
  const origin = URL.canParse(supabaseUrl) ? new URL(supabaseUrl).origin : null;
  const content = [
    "default-src 'none'",
    "script-src 'self'",
    "style-src 'self'",
    "font-src 'self'",
    `img-src 'self' blob:${origin ? ` ${origin}` : ""}`,
    `media-src ${origin ?? "'none'"}`,
    `connect-src ${origin ? `${origin} ${origin.replace(/^http/, "ws")}` : "'none'"}`,
    "base-uri 'none'",
    "form-action 'none'",
  ].join("; ");
  return {
    name: "content-security-policy",
    apply: "build",
    transformIndexHtml: () => [
      { tag: "meta", attrs: { "http-equiv": "Content-Security-Policy", content }, injectTo: "head-prepend" },
    ],
  };
}

/** Of each font of KaTeX only the format that every browser of today takes. */
function onlyModernFonts(): Plugin {
  return {
    name: "only-modern-fonts",
    enforce: "pre",
    transform: (code, id) =>
      id.endsWith("katex.min.css") ? code.replace(/,url\([^)]*\) format\("(?:woff|truetype)"\)/g, "") : undefined,
  };
}
