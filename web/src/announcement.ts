/** What a screen reader is told of what a draft brings along. */

import { useEffect, useRef, useState } from "react";
import { shownPath } from "./paths.ts";
import type { Pasted } from "./pasted.ts";
import type { Upload } from "./uploads.ts";

/** Which files were added last, or what became of their uploads. */
export function useAnnouncement(pasted: readonly Pasted[], uploads: readonly Upload[]): string {
  const before = useRef({ pasted, uploads });
  const [announcement, announce] = useState("");
  useEffect(() => {
    const { current } = before;
    before.current = { pasted, uploads };
    const changes = [...addedSince(current.pasted, pasted), ...changesSince(current.uploads, uploads)];
    const isRemoved = pasted.length < current.pasted.length || uploads.length < current.uploads.length;
    if (changes.length > 0 || isRemoved) announce(changes.join(" "));
  }, [pasted, uploads]);
  return announcement;
}

function addedSince(before: readonly Pasted[], now: readonly Pasted[]): string[] {
  const added = now.filter(({ path }) => !before.some((file) => file.path === path));
  return added.map(({ path }) => `${path} was added as a file.`);
}

function changesSince(before: readonly Upload[], now: readonly Upload[]): string[] {
  return now.flatMap((upload) => {
    const old = before.find(({ id }) => id === upload.id);
    const name = shownPath({ path: upload.name });
    if (old === undefined) return `${name} was attached.`;
    if (old.state === upload.state) return [];
    if (upload.state === "done") return `${name} is uploaded.`;
    return upload.state === "failed" ? `${name} could not be uploaded: ${upload.error}` : [];
  });
}
