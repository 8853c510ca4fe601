export { ChatSession, openSession, type SessionOptions } from "./session.ts";
export { SessionList, openSessionList } from "./sessions.ts";
export { hasEnded } from "./merge.ts";
export {
  RequestError,
  type CodeFile,
  type CodeFileRow,
  type Connection,
  type Database,
  type Delta,
  type Json,
  type Message,
  type MessageRow,
  type MessageStatus,
  type NewSession,
  type ReplyError,
  type SessionListSnapshot,
  type SessionRow,
  type SessionSnapshot,
} from "./types.ts";
