import { useContext, useEffect, useRef, useState, type RefObject } from "react";
import { useAttachmentUrl } from "supabase-baml-bridge-client/react";
import { useAction } from "./action.ts";
import { shownSize } from "./attachable.ts";
import { SupabaseClient } from "./catalogue.ts";
import { Icon } from "./Icon.tsx";
import { downloadName, saveAs, shownPath } from "./paths.ts";
import type { Client } from "./supabase.ts";
import { uploadsOf } from "./uploads.ts";

/** An attachment of a question or a reply. */
export interface Attached {
  /** The object's path. Of one that is not uploaded, its id in `Uploads`. */
  path: string;
  name: string;
  type: string;
  /** In bytes; null: not known. */
  size: number | null;
}

interface Props {
  sessionId: string;
  attachments: readonly Attached[];
}

const BUCKET = "attachments";

/** Attachments as they are shown in the conversation: pictures, players, and files to download. */
export function Attachments({ sessionId, attachments }: Props) {
  return (
    <ul className="attachments" aria-label="Attachments">
      {attachments.map((attachment, place) => (
        // by its place: its path changes when it is uploaded
        <li key={place}>
          <AttachmentItem sessionId={sessionId} attachment={attachment} />
        </li>
      ))}
    </ul>
  );
}

function AttachmentItem({ sessionId, attachment }: { sessionId: string; attachment: Attached }) {
  if (attachment.type.startsWith("image/")) return <Picture sessionId={sessionId} attachment={attachment} />;
  if (attachment.type.startsWith("audio/")) return <Player attachment={attachment} />;
  return <Download attachment={attachment} />;
}

function Picture({ sessionId, attachment }: { sessionId: string; attachment: Attached }) {
  const frame = useRef<HTMLDivElement>(null);
  const [isEnlarged, setEnlarged] = useState(false);
  const signed = useUrl(attachment, frame);
  const [broken, setBroken] = useState<string | null>(null);
  const last = useRef<string | null>(null);
  // what the page has itself is shown until the other is there
  const url = signed ?? uploadsOf(sessionId).preview(attachment.path) ?? last.current;
  last.current = url;
  const name = shownPath({ path: attachment.name });
  if (signed === null) return <Gone name={name} />;
  if (url !== null && url === broken) return <Download attachment={attachment} />; // a click says what is wrong
  return (
    <div ref={frame} className="picture">
      {url !== null && (
        <>
          <button aria-label={`Enlarge ${name}`} onClick={() => setEnlarged(true)}>
            <img src={url} alt={name} loading="lazy" onError={() => setBroken(url)} />
          </button>
          {isEnlarged && <Enlarged url={url} attachment={attachment} onClose={() => setEnlarged(false)} />}
        </>
      )}
    </div>
  );
}

function Enlarged({ url, attachment, onClose }: { url: string; attachment: Attached; onClose(): void }) {
  const name = shownPath({ path: attachment.name });
  return (
    <dialog ref={open} aria-label={name} onClick={closeBeside} onClose={onClose}>
      <img src={url} alt={name} />
      <form method="dialog">
        <Download attachment={attachment} />
        <button>Close</button>
      </form>
    </dialog>
  );
}

function Player({ attachment }: { attachment: Attached }) {
  const frame = useRef<HTMLDivElement>(null);
  const url = useUrl(attachment, frame);
  const [broken, setBroken] = useState<string | null>(null);
  const name = shownPath({ path: attachment.name });
  if (url === null) return <Gone name={name} />;
  if (url !== undefined && url === broken) return <Download attachment={attachment} />; // a click says what is wrong
  return (
    <div ref={frame} className="player">
      <audio controls preload="none" aria-label={name} src={url} onError={() => setBroken(url ?? null)} />
      <Download attachment={attachment} />
    </div>
  );
}

/** A button that saves an attachment under its name. */
function Download({ attachment }: { attachment: Attached }) {
  const client = useContext(SupabaseClient);
  const { run, busy, error } = useAction();
  const name = shownPath({ path: attachment.name });
  const size = attachment.size === null ? null : shownSize(attachment.size);
  return (
    <>
      <button
        type="button"
        className="download"
        disabled={busy}
        onClick={() => void run(() => download(client, attachment))}
      >
        <Icon name="download" />
        <span className="visually-hidden">Download</span>
        <span className="name" dir="auto">
          {name}
        </span>
        {size && <span className="muted">{size}</span>}
      </button>
      {error && (
        <span className="muted" role="alert">
          {error}
        </span>
      )}
    </>
  );
}

function Gone({ name }: { name: string }) {
  return (
    <span className="gone">
      <span className="name" dir="auto">
        {name}
      </span>
      <span className="muted">no longer there</span>
    </span>
  );
}

/**
 * A URL for an attachment from when its element comes near the visible part of the page: undefined until it is there,
 * null if the attachment is not there any more.
 */
function useUrl({ path }: Attached, element: RefObject<HTMLElement | null>): string | null | undefined {
  const [isNear, setNear] = useState(false);
  const isUploaded = path.includes("/");
  const client = useContext(SupabaseClient);
  useEffect(() => {
    const observer = new IntersectionObserver(
      (entries) => {
        if (!entries.some(({ isIntersecting }) => isIntersecting)) return;
        setNear(true);
        observer.disconnect();
      },
      { root: element.current?.closest(".log") ?? null, rootMargin: "100%" },
    );
    if (element.current) observer.observe(element.current);
    return () => observer.disconnect();
  }, []);
  const url = useAttachmentUrl(client, isNear && isUploaded ? path : null);
  return isNear && isUploaded ? url : undefined;
}

function open(dialog: HTMLDialogElement | null): void {
  if (dialog?.isConnected && !dialog.open) dialog.showModal();
}

/** A click beside the picture closes it. */
function closeBeside({ target, currentTarget }: { target: EventTarget; currentTarget: HTMLDialogElement }): void {
  if (target === currentTarget) currentTarget.close();
}

async function download(client: Client, { path, name }: Attached): Promise<void> {
  const { data, error } = await client.storage.from(BUCKET).download(path);
  if (data !== null) return saveAs(data, downloadName({ path: name }));
  if (error.statusCode === "404") throw new Error("It is no longer there.");
  throw new Error(error.status === undefined ? "Could not reach the server." : `It was not downloaded: ${error.message}`);
}
