import type { Source } from "./items.ts";
import { webUrl } from "./links.ts";
import { WebLink } from "./WebLink.tsx";

/** The pages that a reply relies on. */
export function Sources({ sources }: { sources: readonly Source[] }) {
  return (
    <ul className="links" aria-label="Sources">
      {sources.map(({ url, title }) => (
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
    </ul>
  );
}
