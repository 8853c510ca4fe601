import { useContext } from "react";
import { useAttachmentUrl } from "supabase-baml-bridge-client/react";
import { shownSize } from "./attachable.ts";
import { SupabaseClient } from "./catalogue.ts";
import { Icon } from "./Icon.tsx";
import { shownPath } from "./paths.ts";
import { uploadsOf, type Upload } from "./uploads.ts";

interface Props {
  sessionId: string;
  /** The draft's. */
  uploads: readonly Upload[];
  /** Called when one was removed, and with it the button that had the focus. */
  onRemoved(): void;
}

/** The attachments of a draft, with the progress of their uploads. */
export function UploadList({ sessionId, uploads, onRemoved }: Props) {
  const own = uploadsOf(sessionId);
  if (uploads.length === 0) return null;
  return (
    <ul className="uploads" aria-label="Attachments">
      {uploads.map((upload) => (
        <UploadItem
          key={upload.id}
          upload={upload}
          preview={own.preview(upload.id)}
          onRetry={() => own.retry(upload.id)}
          onRemove={() => {
            own.remove(upload.id);
            onRemoved();
          }}
        />
      ))}
    </ul>
  );
}

interface ItemProps {
  upload: Upload;
  preview: string | null;
  onRetry(): void;
  onRemove(): void;
}

function UploadItem({ upload, preview, onRetry, onRemove }: ItemProps) {
  const { type, size, state, progress, error, attachment } = upload;
  const name = shownPath({ path: upload.name });
  const isImage = type.startsWith("image/");
  // after a reload the page has only what it has uploaded
  const unseen = isImage && preview === null ? attachment : null;
  const signed = useAttachmentUrl(useContext(SupabaseClient), unseen?.path ?? null);
  const picture = preview ?? signed ?? null;
  return (
    <li data-state={state}>
      {picture === null ? <Icon name="file" /> : <img src={picture} alt="" />}
      <span className="about">
        <span className="name" dir="auto" title={name}>
          {name}
        </span>
        {state === "uploading" ? (
          <progress value={progress} aria-label={`Uploading ${name}`} />
        ) : (
          <span className={state === "failed" ? "reason" : "muted"}>{error ?? shownSize(size)}</span>
        )}
      </span>
      {state === "failed" && (
        <button type="button" className="quiet small" aria-label={`Try again to upload ${name}`} onClick={onRetry}>
          Try again
        </button>
      )}
      <button
        type="button"
        className="quiet small"
        aria-label={`${state === "uploading" ? "Cancel" : "Remove"} ${name}`}
        onClick={onRemove}
      >
        {state === "uploading" ? "Cancel" : "Remove"}
      </button>
    </li>
  );
}
