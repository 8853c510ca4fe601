import { defaultClientConditions, defineConfig } from "vite";

export default defineConfig({
  root: import.meta.dirname,
  base: "./",
  resolve: { conditions: ["supabase-baml-bridge-source", ...defaultClientConditions] },
  build: { rolldownOptions: { input: ["plain.html", "react.html", "use-chat.html"].map((name) => `${import.meta.dirname}/${name}`) } },
});
