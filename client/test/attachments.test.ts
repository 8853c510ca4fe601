/** Types, names and paths of attachments: what the client sends, the database takes. */

import fc from "fast-check";
import { expect, test } from "vitest";
import { ATTACHMENT_TYPES, attachmentPath, attachmentType, newId } from "../src/index.ts";
import { fitName, newPath } from "../src/attachments.ts";

const PNG = new Uint8Array([0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a, 0]);
const SESSION = newId();
const type = fc.constantFrom(...ATTACHMENT_TYPES);

test.each([
  ["image/png", "a", "image/png"],
  ["IMAGE/PNG", "a", "image/png"],
  ["image/x-png", "a", "image/png"],
  ["image/jpg", "a", "image/jpeg"],
  ["image/pjpeg", "a", "image/jpeg"],
  ["image/gif; x=1", "a", "image/gif"],
  ["application/x-pdf", "a", "application/pdf"],
  ["audio/mp3", "a", "audio/mpeg"],
  ["audio/x-mpeg", "a", "audio/mpeg"],
  ["audio/wave", "a", "audio/wav"],
  ["audio/x-wav", "a", "audio/wav"],
  ["audio/vnd.wave", "a", "audio/wav"],
  ["audio/x-pn-wav", "a", "audio/wav"],
  ["", "a.JPEG", "image/jpeg"],
  ["", "a.b.jpg", "image/jpeg"],
  ["application/octet-stream", "a.webp", "image/webp"],
  ["", "a.mp3", "audio/mpeg"],
  ["", "a.xyz", null],
  ["", "png", null],
  ["", "a.txt", null],
  ["image/heic", "a.png", null],
  ["video/mp4", "a.mp4", null],
  ["text/plain", "a.txt", null],
])("bytes of type %j that are called %s are %s", async (given, name, expected) => {
  expect(await attachmentType(new File([PNG], name, { type: given }))).toBe(expected);
});

test.each([
  ["text/plain", "a.txt"],
  ["text/markdown", "a.md"],
  ["text/csv", "a.csv"],
  ["application/json", "a.json"],
  ["application/x-yaml", "a.yml"],
  ["image/svg+xml", "a.svg"],
  ["video/mp2t", "a.ts"],
  ["video/vnd.dlna.mpeg-tts", "a.ts"],
  ["", "Makefile"],
  ["", "main.rs"],
  ["application/octet-stream", "a.toml"],
])("text of type %j that is called %s is text/plain", async (given, name) => {
  expect(await attachmentType(new File(["é 😀\n"], name, { type: given }))).toBe("text/plain");
});

test.each([
  ["a NUL", [97, 0, 98]],
  ["half a character", [0xc3]],
  ["UTF-16", [0xff, 0xfe, 97, 0]],
])("what contains %s is no text", async (_, bytes) => {
  expect(await attachmentType(new File([new Uint8Array(bytes)], "a.txt", { type: "text/plain" }))).toBeNull();
});

test("without an arrayBuffer, as in React Native, the browser's word counts", async () => {
  const text = Object.assign(new File(["a"], "a.md", { type: "text/markdown" }), { arrayBuffer: undefined });
  expect(await attachmentType(text as unknown as Blob)).toBe("text/plain");
  const other = Object.assign(new File(["a"], "a.zip", { type: "application/zip" }), { arrayBuffer: undefined });
  expect(await attachmentType(other as unknown as Blob)).toBeNull();
});

test("every type has a path that the database takes, and that is found in every URL of it", () => {
  fc.assert(
    fc.property(type, fc.constantFrom("attachments/", "http://x/storage/v1/object/sign/attachments/"), fc.constantFrom("", "?token=a.b"), (type, start, end) => {
      const path = newPath(SESSION, newId(), type);
      expect(path).toMatch(/^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\/[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\.[a-z0-9]{1,8}$/);
      expect(path.startsWith(`${SESSION}/`)).toBe(true);
      expect(attachmentPath(start + path + end)).toBe(path);
    }),
  );
});

test.each(["", "https://example.com/a.png", "attachments/a.png", `data:text/plain,/attachments/${SESSION}/${SESSION}.png`, `my-attachments/${SESSION}/${SESSION}.png`])(
  "there is no path in %s",
  (url) => expect(attachmentPath(url)).toBeNull(),
);

/** The rules of `bridge.check_attachment`. */
const EXTENSIONS: Record<string, string[]> = {
  "image/png": ["png"],
  "image/jpeg": ["jpg", "jpeg"],
  "image/gif": ["gif"],
  "image/webp": ["webp"],
  "application/pdf": ["pdf"],
  "audio/mpeg": ["mp3", "mpeg"],
  "audio/wav": ["wav"],
  "text/plain": ["txt"],
};
function isTaken(name: string, type: string): boolean {
  if (/[\ud800-\udfff]/u.test(name)) return false;
  if (new TextEncoder().encode(name).length > 255 || !/[^\s.]/.test(name) ) return false;
  if (/[/\\\u0000-\u001f\u007f-\u009f\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff]/.test(name)) return false;
  const extension = /\.([^.]*)$/.exec(name)?.[1]?.toLowerCase() ?? "";
  const known = Object.values(EXTENSIONS).flat().filter((one) => one !== "txt");
  return !known.includes(extension) || EXTENSIONS[type]!.includes(extension);
}

const character = fc.oneof(
  fc.string({ unit: "binary", minLength: 1, maxLength: 1 }),
  fc.constantFrom(..."/\\.. \u0000\t\u0085\u00a0\u200b\u200d\u202e\u2060\ufeff\u3000", "\ud83d", "\ude00", "😀", "é", "字"),
);
const extension = fc.constantFrom("", ".png", ".PDF", ".jpeg", ".mpeg", ".txt", ".md", ".tar.gz", ".", `.${"x".repeat(30)}`);
const name = fc
  .tuple(fc.array(character, { maxLength: 20 }), fc.constantFrom(1, 1, 1, 20), extension)
  .map(([characters, times, end]) => characters.join("").repeat(times) + end);

test("every name becomes one that the database takes, and one that it takes stays", () => {
  fc.assert(
    fc.property(name, type, (name, type) => {
      const fitted = fitName(name, newPath(SESSION, newId(), type));
      expect(isTaken(fitted, type), JSON.stringify(fitted)).toBe(true);
      const isText = /\.txt$/i.test(name) === (type === "text/plain");
      if (isTaken(name, type) && name === name.trim() && isText) expect(fitted).toBe(name);
      expect(fitName(fitted, newPath(SESSION, newId(), type))).toBe(fitted);
    }),
    { numRuns: 2_000 },
  );
});

test.each([
  ["../../etc/passwd.png", "image/png", "....etcpasswd.png"],
  ["", "image/png", "attachment.png"],
  [" . ", "text/plain", "attachment.txt"],
  ["photo.png", "image/jpeg", "photo.png.jpg"],
  ["photo.jpeg", "image/jpeg", "photo.jpeg"],
  ["notes.pdf", "text/plain", "notes.pdf.txt"],
  ["main.rs", "text/plain", "main.rs"],
  [`${"é".repeat(200)}.png`, "image/png", `${"é".repeat(125)}.png`],
])("%j of type %s is called %j", (name, type, expected) => {
  expect(fitName(name, newPath(SESSION, newId(), type))).toBe(expected);
});
