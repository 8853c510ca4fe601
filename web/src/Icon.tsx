const PATHS = {
  check: "M3 8.5l3.2 3.2L13 5",
  cross: "M4 4l8 8M12 4l-8 8",
  stop: "M4.5 4.5h7v7h-7z",
  question: "M5.8 6a2.2 2.2 0 1 1 3.1 2c-.6.3-.9.7-.9 1.4M8 12.3v.1",
  chevron: "M6 4l4 4-4 4",
  clip: "M12.5 7.3l-4.9 4.9a3 3 0 0 1-4.2-4.2l5.3-5.3a2 2 0 0 1 2.8 2.8l-5.2 5.2a1 1 0 0 1-1.4-1.4l4.5-4.5",
  download: "M8 3v7M5 7.5l3 3 3-3M3.5 13h9",
  file: "M4 2.5h5l3 3v8H4zM9 2.5v3h3",
} as const;

/** A small picture beside a word that says the same. */
export function Icon({ name }: { name: keyof typeof PATHS }) {
  return (
    <svg className={`icon-${name}`} viewBox="0 0 16 16" width="16" height="16" aria-hidden="true">
      <path d={PATHS[name]} />
    </svg>
  );
}
