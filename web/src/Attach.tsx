import { useRef } from "react";
import { Icon } from "./Icon.tsx";

interface Props {
  /** Media types to choose from. */
  accepts: readonly string[];
  onFiles(files: File[]): void;
}

/** The button that opens the browser's dialog for files. */
export function AttachButton({ accepts, onFiles }: Props) {
  const input = useRef<HTMLInputElement>(null);
  // a browser has names of its own for kinds of text
  const types = accepts.map((type) => (type === "text/plain" ? "text/*,.md,.csv,.json,.yaml,.log" : type));
  return (
    <>
      <button
        type="button"
        className="quiet attach"
        aria-label="Attach files"
        title="Attach files"
        onClick={() => input.current?.click()}
      >
        <Icon name="clip" />
      </button>
      <input
        ref={input}
        type="file"
        hidden
        multiple
        accept={types.join(",")}
        onChange={({ target }) => {
          onFiles([...(target.files ?? [])]);
          target.value = ""; // so that the same file can be chosen again
        }}
      />
    </>
  );
}
