import { memo, useState } from "react";
import { attachmentPath, hasEnded, type MessageStatus } from "supabase-baml-bridge-client";
import { AskCard } from "./Ask.tsx";
import type { Answer } from "./asks.ts";
import { Attachments, type Attached } from "./Attachments.tsx";
import { groupsOf, type CallItem, type FileItem, type Group, type Item } from "./items.ts";
import { shownPath } from "./paths.ts";
import { Reasoning } from "./Reasoning.tsx";
import { Text } from "./Text.tsx";
import { ToolCall } from "./ToolCall.tsx";
import { WebLink } from "./WebLink.tsx";

interface Props {
  sessionId: string;
  items: readonly Item[];
  /** The reply's. */
  status: MessageStatus;
  /** Must stay the same function. */
  onAnswer(name: string, answer: Answer): Promise<string>;
}

/** The most items that are shown without being asked for. */
const MOST = 100;
const STEP = 50;
/** So much text is rendered at once, the newest first, and the rest when the page is idle. */
const CHARACTERS_AT_ONCE = 2_000;
/** What a text counts besides: it may be a table. */
const PART = 300;

/** What a reply shows, in order: its texts, what it did, and what it asks. Of very many items the last ones. */
export function Parts({ sessionId, items, status, onAnswer }: Props) {
  const [shownBefore, showBefore] = useState(0);
  // in steps, so that items seldom disappear while others are added
  const hidden = Math.max(0, Math.ceil((items.length - MOST) / STEP) * STEP - shownBefore);
  const groups = groupsOf(items.slice(hidden));
  const last = groups.at(-1);
  const atOnce = textsAtOnce(groups);
  return (
    <>
      {hidden > 0 && (
        <button className="quiet small earlier" onClick={() => showBefore(shownBefore + STEP)}>
          Show earlier steps
        </button>
      )}
      {groups.map((group) => {
        switch (group.kind) {
          case "text":
            return <TextPart key={group.key} text={group.text} atOnce={group === last || atOnce.has(group)} />;
          case "reasoning":
            return <Reasoning key={group.key} text={group.text} streaming={status === "running" && group === last} />;
          case "calls":
            return <Calls key={group.key} calls={group.calls} ended={hasEnded({ status })} />;
          case "files":
            return <Files key={group.key} sessionId={sessionId} files={group.files} />;
          case "ask":
            return <AskCard key={group.key} ask={group} active={status === "waiting"} onAnswer={onAnswer} />;
        }
      })}
    </>
  );
}

function textsAtOnce(groups: readonly Group[]): Set<Group> {
  const texts = new Set<Group>();
  let left = CHARACTERS_AT_ONCE;
  for (const group of groups.toReversed()) {
    if (group.kind !== "text") continue;
    left -= group.text.length + PART;
    if (left < 0) break;
    texts.add(group);
  }
  return texts;
}

const TextPart = memo(function TextPart({ text, atOnce }: { text: string; atOnce: boolean }) {
  return (
    <div className="bubble">
      <Text text={text} atOnce={atOnce} />
    </div>
  );
});

function Calls({ calls, ended }: { calls: readonly CallItem[]; ended: boolean }) {
  return (
    <ul className="calls" aria-label="Tools">
      {calls.map((call) => (
        <li key={call.key}>
          <ToolCall call={call} ended={ended} />
        </li>
      ))}
    </ul>
  );
}

/** Files of the session's own, and links to others. */
function Files({ sessionId, files }: { sessionId: string; files: readonly FileItem[] }) {
  const own: Attached[] = [];
  const links: FileItem[] = [];
  for (const file of files) {
    const path = file.url.startsWith("attachments/") ? attachmentPath(file.url) : null;
    if (path === null) links.push(file);
    else own.push({ path, name: file.name, type: file.mediaType, size: null });
  }
  return (
    <>
      {own.length > 0 && <Attachments sessionId={sessionId} attachments={own} />}
      {links.length > 0 && <FileLinks files={links} />}
    </>
  );
}

function FileLinks({ files }: { files: readonly FileItem[] }) {
  return (
    <ul className="links" aria-label="Files">
      {files.map(({ key, url, name, mediaType }) => (
        <li key={key}>
          <WebLink url={url}>
            <span className="name" dir="auto">
              {shownPath({ path: name })}
            </span>
            <span className="muted">{mediaType}</span>
          </WebLink>
        </li>
      ))}
    </ul>
  );
}
