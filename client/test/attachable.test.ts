/** Which files the page attaches, and what it says of the others. */

import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { attachable, freeName, shownSize, unsendable, wordsOf, type Typed } from "../../web/src/attachable.ts";
import type { Upload } from "../../web/src/uploads.ts";
import { ATTACHMENT_TYPES, MAX_ATTACHMENT_BYTES, MAX_ATTACHMENTS } from "../src/index.ts";

const MB = 1024 * 1024;
const chat = { title: "Chat", accepts: ["image/png", "image/jpeg", "application/pdf", "text/plain"] };

/** A file of so many bytes, which are not there. */
function file(name: string, type: string | null = "image/png", size = 10): Typed {
  return { file: Object.defineProperty(new File([], name), "size", { value: size }), type };
}

const names = ({ taken }: ReturnType<typeof attachable>): string[] => taken.map((one) => one.file.name);

describe("files", () => {
  test("of a type that the function reads are taken", () => {
    const result = attachable([file("a.png"), file("b.zip", null), file("c.wav", "audio/wav")], [], chat);
    expect(names(result)).toEqual(["a.png"]);
    expect(result.refused).toBe(
      "b.zip and c.wav were not added: Chat reads images (PNG, JPEG), PDF files and text files.",
    );
  });

  test("of a function that reads none are refused", () => {
    const result = attachable([file("a.png")], [], { title: "Code", accepts: [] });
    expect(result).toEqual({ taken: [], refused: "a.png was not added: Code reads no attachments." });
  });

  test("that are empty are refused", () => {
    const { refused } = attachable([file("a.png", "image/png", 0)], [], chat);
    expect(refused).toBe("a.png was not added: there is nothing in it.");
  });

  test("of more than 10 MB together are refused, and smaller ones after them are not", () => {
    const held = [{ size: 4 * MB }];
    const result = attachable([file("b.png", "image/png", 7 * MB), file("c.png", "image/png", 6 * MB)], held, chat);
    expect(names(result)).toEqual(["c.png"]);
    expect(result.refused).toBe(
      "b.png was not added: the attachments of a message take 10 MB together at most.",
    );
  });

  test("of one call have a sentence for each reason", () => {
    const many = Array.from({ length: 11 }, (_, place) => file(`${place}.png`));
    const result = attachable([...many, file("b\u202egnp.exe", null)], [], chat);
    expect(result.refused).toBe(
      "8.png and 2 others were not added: a message takes 8 attachments at most." +
        " b\ufffdgnp.exe was not added: Chat reads images (PNG, JPEG), PDF files and text files.",
    );
  });

  test("that are taken fit in a message, and every other one is refused for a reason", () => {
    const size = fc.oneof(fc.constant(0), fc.nat(100), fc.nat(MAX_ATTACHMENT_BYTES + 1));
    const typed = fc.record({ type: fc.constantFrom(null, ...ATTACHMENT_TYPES), size });
    fc.assert(
      fc.property(fc.array(typed), fc.array(fc.record({ size: fc.nat(MB) }), { maxLength: 8 }), (all, held) => {
        const files = all.map(({ type, size }, place) => file(`${place}`, type, size));
        const { taken, refused } = attachable(files, held, chat);
        const bytes = [...held, ...taken.map((one) => one.file)].reduce((sum, { size }) => sum + size, 0);
        expect(held.length + taken.length).toBeLessThanOrEqual(MAX_ATTACHMENTS);
        expect(bytes).toBeLessThanOrEqual(MAX_ATTACHMENT_BYTES);
        expect(taken.every(({ type, file }) => chat.accepts.includes(type) && file.size > 0)).toBe(true);
        expect(refused === null).toBe(taken.length === files.length);
        const others = [...(refused ?? "").matchAll(/(?:(\d+) and (?:(\d+) others|\d+) were|\d+ was) not added/g)];
        const count = others.reduce((sum, [, first, more]) => sum + (first ? Number(more ?? 1) : 0) + 1, 0);
        expect(count).toBe(files.length - taken.length);
      }),
    );
  });
});

test("a draft is not sent with a file that is not uploaded, or that another function does not read", () => {
  const upload = { name: "a.png", type: "image/png", state: "done" } as Upload;
  expect(unsendable([upload], chat)).toBeNull();
  expect(unsendable([{ ...upload, state: "uploading" }], chat)).toBeNull();
  expect(unsendable([upload, { ...upload, state: "failed" }], chat)).toBe("a.png is not uploaded. Try again, or remove it.");
  expect(unsendable([upload], { title: "Code", accepts: [] })).toBe("a.png cannot be sent: Code reads no attachments.");
});

test.each([
  ["image.png", [], "image.png"],
  ["image.png", ["image.png", "image (2).png"], "image (3).png"],
  ["a.tar.gz", ["a.tar.gz"], "a.tar (2).gz"],
  ["README", ["README"], "README (2)"],
  [".env", [".env"], ".env (2)"],
])("another %j beside %j is called %j", (name, taken, free) => {
  expect(freeName(name, taken)).toBe(free);
});

test.each([
  [1, "1 KB"],
  [1025, "2 KB"],
  [1.26 * MB, "1.3 MB"],
  [10 * MB, "10 MB"],
])("%d bytes are %s", (bytes, shown) => {
  expect(shownSize(bytes)).toBe(shown);
});

test("every type that can be stored has a word", () => {
  expect(wordsOf(ATTACHMENT_TYPES)).toBe("images (PNG, JPEG, GIF, WebP), audio (MP3, WAV), PDF files and text files");
});
