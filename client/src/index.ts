export { ChatSession, openSession, type SessionOptions } from "./session.ts";
export { SessionList, openSessionList } from "./sessions.ts";
export { ATTACHMENT_TYPES, MAX_ATTACHMENTS, MAX_ATTACHMENT_BYTES, attachmentPath, attachmentType } from "./attachments.ts";
export { CodeFiles } from "./files.ts";
export { newId } from "./id.ts";
export { hasEnded } from "./merge.ts";
export { readModels } from "./models.ts";
export { signAttachments } from "./sign.ts";
export {
  RequestError,
  type Answer,
  type AnySupabaseClient,
  type Approval,
  type Ask,
  type AttachOptions,
  type Attachment,
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
  type Model,
  type NewSession,
  type Part,
  type Question,
  type Reply,
  type ReplyError,
  type SaveOutcome,
  type SendOptions,
  type SessionChanges,
  type SessionListSnapshot,
  type SessionRow,
  type SessionSnapshot,
  type Streamed,
  type ToolPart,
  type ToolState,
} from "./types.ts";
