/** Files that are dragged over the page. */

import { useEffect, useState, type DragEvent as ReactDragEvent } from "react";

/** Files, and the names of folders among them: a folder cannot be read as one. */
export interface Dropped {
  files: File[];
  folders: string[];
}

/** Whether files are dragged over an element, and the element's handlers. `onDrop` null: it takes none. */
export function useDrop(onDrop: (dropped: Dropped) => void) {
  const [isOver, setOver] = useState(false);
  return {
    isOver,
    handlers: {
      onDragOver(event: ReactDragEvent): void {
        if (!hasFiles(event.dataTransfer)) return;
        event.preventDefault();
        event.dataTransfer.dropEffect = "copy";
        setOver(true);
      },
      onDragLeave({ currentTarget, relatedTarget }: ReactDragEvent): void {
        if (!(relatedTarget instanceof Node && currentTarget.contains(relatedTarget))) setOver(false);
      },
      onDrop(event: ReactDragEvent): void {
        setOver(false);
        if (!hasFiles(event.dataTransfer)) return;
        event.preventDefault();
        onDrop(filesOf(event.dataTransfer));
      },
    },
  };
}

/** Keeps the browser from leaving the page for a file that is dropped beside what takes it. */
export function useNoStrayDrops(): void {
  useEffect(() => {
    function refuse(event: DragEvent): void {
      if (event.defaultPrevented || event.dataTransfer === null || !hasFiles(event.dataTransfer)) return;
      event.preventDefault();
      event.dataTransfer.dropEffect = "none";
    }
    addEventListener("dragover", refuse);
    addEventListener("drop", refuse);
    return () => {
      removeEventListener("dragover", refuse);
      removeEventListener("drop", refuse);
    };
  }, []);
}

/** The files of a paste that is to be one of files; none: it is text, such as a table's, which comes with a picture. */
export function pastedFiles(data: DataTransfer): File[] {
  const files = [...data.files];
  const lines = data.getData("text/plain").split(/\r?\n/).filter((line) => line.trim() !== "");
  // the text of files that were copied in a file manager is their names
  const isNames = lines.every((line) => files.some(({ name }) => name === line.trim().split(/[/\\]/).at(-1)));
  return isNames ? files : [];
}

function hasFiles(data: DataTransfer): boolean {
  return data.types.includes("Files");
}

function filesOf(data: DataTransfer): Dropped {
  const dropped: Dropped = { files: [], folders: [] };
  for (const item of data.items) {
    const file = item.kind === "file" ? item.getAsFile() : null;
    if (file === null) continue;
    if (item.webkitGetAsEntry()?.isDirectory) dropped.folders.push(file.name);
    else dropped.files.push(file);
  }
  return dropped;
}
