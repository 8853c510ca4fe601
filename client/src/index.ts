export { ChatSession, openSession, type SessionOptions } from "./session.ts";
export { SessionList, openSessionList } from "./sessions.ts";
export { CodeFiles } from "./files.ts";
export { newId } from "./id.ts";
export { hasEnded } from "./merge.ts";
export {
  RequestError,
  type Answer,
  type AnySupabaseClient,
  type Approval,
  type Ask,
  type CodeFile,
  type CodeFileRow,
  type CodeFileVersion,
  type Connection,
  type Database,
  type Delta,
  type Json,
  type Message,
  type MessageRow,
  type MessageStatus,
  type NewSession,
  type Part,
  type Question,
  type Reply,
  type ReplyError,
  type SaveOutcome,
  type SessionListSnapshot,
  type SessionRow,
  type SessionSnapshot,
  type Streamed,
  type ToolPart,
  type ToolState,
} from "./types.ts";
