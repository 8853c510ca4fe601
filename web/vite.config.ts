import react from "@vitejs/plugin-react";
import { defineConfig } from "vite";

export default defineConfig({
  base: "./", // the built page works under any path of any static host
  plugins: [react()],
  server: { strictPort: true },
  preview: { strictPort: true },
});
