import type { ReactNode } from "react";
import { webUrl } from "./links.ts";

/** A link to a page of the web, in a new tab. Any other URL is not linked. */
export function WebLink({ url, children }: { url: string; children: ReactNode }) {
  const safe = webUrl(url);
  if (safe === null) return <span className="link">{children}</span>;
  return (
    <a className="link" href={safe.href} target="_blank" rel="noopener noreferrer nofollow">
      {children}
    </a>
  );
}
