import { useState } from "react";
import type { Source } from "./items.ts";
import { webUrl } from "./links.ts";
import { WebLink } from "./WebLink.tsx";

/** The most sources that are shown without being asked for. */
const MOST = 20;

/** The pages that a reply relies on. */
export function Sources({ sources }: { sources: readonly Source[] }) {
  const [most, setMost] = useState(MOST);
  return (
    <ul className="links" aria-label="Sources">
      {sources.slice(0, most).map(({ url, title }) => (
        <li key={url}>
          <WebLink url={url}>
            {title && (
              <span className="name" dir="auto">
                {title}
              </span>
            )}
            <span className="muted">{webUrl(url)?.host ?? url}</span>
          </WebLink>
        </li>
      ))}
      {sources.length > most && (
        <li>
          <button className="quiet small" onClick={() => setMost(most + 5 * MOST)}>
            More sources
          </button>
        </li>
      )}
    </ul>
  );
}
