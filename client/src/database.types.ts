// Made by `make types` from supabase/migrations.

export type Json = string | number | boolean | null | { [key: string]: Json | undefined } | Json[]

export type Database = {
  
  "public": {
          Tables: {
            "code_file_versions": {
                  Row: {
                    "conflict": boolean,"content": string,"created_at": string,"file_id": string,"id": number,"language": string | null,"message_id": string | null,"path": string,"revision": number,"session_id": string
                  }
                  ComputedFields: never
                  Insert: {
                    "conflict"?: boolean,"content": string,"created_at"?: string,"file_id": string,"id"?: never,"language"?: string | null,"message_id"?: string | null,"path": string,"revision": number,"session_id": string
                  }
                  Update: {
                    "conflict"?: boolean,"content"?: string,"created_at"?: string,"file_id"?: string,"id"?: never,"language"?: string | null,"message_id"?: string | null,"path"?: string,"revision"?: number,"session_id"?: string
                  }
                  Relationships: [
                    {
      foreignKeyName: "code_file_versions_file_id_fkey"
      columns: ["file_id"]
isOneToOne: false
      referencedRelation: "code_files"
      referencedColumns: ["id"]
    },{
      foreignKeyName: "code_file_versions_message_id_fkey"
      columns: ["message_id"]
isOneToOne: false
      referencedRelation: "messages"
      referencedColumns: ["id"]
    },{
      foreignKeyName: "code_file_versions_session_id_fkey"
      columns: ["session_id"]
isOneToOne: false
      referencedRelation: "sessions"
      referencedColumns: ["id"]
    }
                  ]
                },"code_files": {
                  Row: {
                    "content": string,"created_at": string,"id": string,"language": string | null,"message_id": string | null,"path": string,"revision": number,"session_id": string,"updated_at": string
                  }
                  ComputedFields: never
                  Insert: {
                    "content"?: string,"created_at"?: string,"id"?: string,"language"?: string | null,"message_id"?: string | null,"path": string,"revision"?: number,"session_id": string,"updated_at"?: string
                  }
                  Update: {
                    "content"?: string,"created_at"?: string,"id"?: string,"language"?: string | null,"message_id"?: string | null,"path"?: string,"revision"?: number,"session_id"?: string,"updated_at"?: string
                  }
                  Relationships: [
                    {
      foreignKeyName: "code_files_message_id_fkey"
      columns: ["message_id"]
isOneToOne: false
      referencedRelation: "messages"
      referencedColumns: ["id"]
    },{
      foreignKeyName: "code_files_session_id_fkey"
      columns: ["session_id"]
isOneToOne: false
      referencedRelation: "sessions"
      referencedColumns: ["id"]
    }
                  ]
                },"functions": {
                  Row: {
                    "accepts": NonNullable<Json>,"description": string | null,"name": string,"parameters": Json | null,"reads_files": boolean,"result": Json | null,"suggestions": NonNullable<Json>,"title": string | null,"updated_at": string
                  }
                  ComputedFields: never
                  Insert: {
                    "accepts"?: NonNullable<Json>,"description"?: string | null,"name": string,"parameters"?: Json | null,"reads_files"?: boolean,"result"?: Json | null,"suggestions"?: NonNullable<Json>,"title"?: string | null,"updated_at"?: string
                  }
                  Update: {
                    "accepts"?: NonNullable<Json>,"description"?: string | null,"name"?: string,"parameters"?: Json | null,"reads_files"?: boolean,"result"?: Json | null,"suggestions"?: NonNullable<Json>,"title"?: string | null,"updated_at"?: string
                  }
                  Relationships: [
                    
                  ]
                },"messages": {
                  Row: {
                    "attachments": Json | null,"attempt": number,"content": string,"created_at": string,"data": Json | null,"error": Json | null,"id": string,"model": string | null,"ordinal": number,"parts": Json | null,"reply_to": string | null,"role": string,"run_at": string | null,"seq": number,"session_id": string,"status": string,"updated_at": string
                  }
                  ComputedFields: never
                  Insert: {
                    "attachments"?: Json | null,"attempt"?: number,"content"?: string,"created_at"?: string,"data"?: Json | null,"error"?: Json | null,"id"?: string,"model"?: string | null,"ordinal": number,"parts"?: Json | null,"reply_to"?: string | null,"role"?: string,"run_at"?: string | null,"seq"?: number,"session_id": string,"status"?: string,"updated_at"?: string
                  }
                  Update: {
                    "attachments"?: Json | null,"attempt"?: number,"content"?: string,"created_at"?: string,"data"?: Json | null,"error"?: Json | null,"id"?: string,"model"?: string | null,"ordinal"?: number,"parts"?: Json | null,"reply_to"?: string | null,"role"?: string,"run_at"?: string | null,"seq"?: number,"session_id"?: string,"status"?: string,"updated_at"?: string
                  }
                  Relationships: [
                    {
      foreignKeyName: "messages_model_fkey"
      columns: ["model"]
isOneToOne: false
      referencedRelation: "models"
      referencedColumns: ["name"]
    },{
      foreignKeyName: "messages_reply_to_fkey"
      columns: ["reply_to"]
isOneToOne: true
      referencedRelation: "messages"
      referencedColumns: ["id"]
    },{
      foreignKeyName: "messages_session_id_fkey"
      columns: ["session_id"]
isOneToOne: false
      referencedRelation: "sessions"
      referencedColumns: ["id"]
    }
                  ]
                },"models": {
                  Row: {
                    "name": string,"ordinal": number,"title": string | null
                  }
                  ComputedFields: never
                  Insert: {
                    "name": string,"ordinal"?: number,"title"?: string | null
                  }
                  Update: {
                    "name"?: string,"ordinal"?: number,"title"?: string | null
                  }
                  Relationships: [
                    
                  ]
                },"sessions": {
                  Row: {
                    "created_at": string,"function": string,"id": string,"last_ordinal": number,"metadata": NonNullable<Json>,"model": string | null,"on_new_message": string,"parent": string | null,"title": string | null,"updated_at": string,"user_id": string
                  }
                  ComputedFields: never
                  Insert: {
                    "created_at"?: string,"function"?: string,"id"?: string,"last_ordinal"?: number,"metadata"?: NonNullable<Json>,"model"?: string | null,"on_new_message"?: string,"parent"?: string | null,"title"?: string | null,"updated_at"?: string,"user_id"?: string
                  }
                  Update: {
                    "created_at"?: string,"function"?: string,"id"?: string,"last_ordinal"?: number,"metadata"?: NonNullable<Json>,"model"?: string | null,"on_new_message"?: string,"parent"?: string | null,"title"?: string | null,"updated_at"?: string,"user_id"?: string
                  }
                  Relationships: [
                    {
      foreignKeyName: "sessions_model_fkey"
      columns: ["model"]
isOneToOne: false
      referencedRelation: "models"
      referencedColumns: ["name"]
    },{
      foreignKeyName: "sessions_parent_fkey"
      columns: ["parent"]
isOneToOne: false
      referencedRelation: "messages"
      referencedColumns: ["id"]
    }
                  ]
                }
          }
          Views: {
            [_ in never]: never
          }
          Functions: {
            "answer_message":
{ Args: { "answer"?: Json,"ask": string,"message_id": string }; Returns: string
                           },
"bridge_beat":
{ Args: { "jobs": Json,"worker": string }; Returns: Json
                           },
"bridge_claim":
{ Args: { "capacity"?: number,"failing"?: (string)[],"functions"?: (string)[],"hears_seconds"?: number,"history": number,"holding": (string)[],"knows_steps"?: boolean,"lease_seconds": number,"paused"?: (string)[],"probing"?: (string)[],"reserve"?: number,"slots": number,"worker": string }; Returns: Json
                           },
"bridge_dead_drop":
{ Args: { "question_ids"?: (string)[] }; Returns: number
                           },
"bridge_dead_letters":
{ Args: { "max_rows"?: number }; Returns: Json
                           },
"bridge_dead_retry":
{ Args: { "question_ids"?: (string)[] }; Returns: number
                           },
"bridge_describe":
{ Args: { "functions": Json }; Returns: undefined
                           },
"bridge_doctor":
{ Args: Record<PropertyKey, never>; Returns: Json
                           },
"bridge_finish":
{ Args: { "knows_busy"?: boolean,"results": Json,"worker": string }; Returns: Json
                           },
"bridge_leave":
{ Args: { "worker": string }; Returns: undefined
                           },
"bridge_list_steps":
{ Args: { "question_id": string }; Returns: Json
                           },
"bridge_orphans":
{ Args: { "most"?: number,"worker": string }; Returns: Json
                           },
"bridge_orphans_done":
{ Args: { "prefixes": (string)[],"worker": string }; Returns: undefined
                           },
"bridge_probe":
{ Args: { "nonce": string,"row_event"?: boolean }; Returns: undefined
                           },
"bridge_status":
{ Args: Record<PropertyKey, never>; Returns: Json
                           },
"bridge_step":
{ Args: { "steps": Json,"worker": string }; Returns: Json
                           },
"bridge_steps":
{ Args: { "attempt": number,"question_id": string,"worker": string }; Returns: Json
                           },
"bridge_title":
{ Args: { "run": Json,"session_id": string,"title": string,"user_id": string }; Returns: string
                           },
"bridge_trim":
{ Args: { "attachments_days"?: number,"dead_letters_days"?: number,"max_rows"?: number,"runs_days"?: number,"steps_days"?: number,"versions_days"?: number }; Returns: Json
                           },
"cancel_message":
{ Args: { "message_id": string }; Returns: string
                           },
"retry_message":
{ Args: { "message_id": string }; Returns: string
                           }
          }
          Enums: {
            [_ in never]: never
          }
          CompositeTypes: {
            [_ in never]: never
          }
        }
}

type DatabaseWithoutInternals = Omit<Database, '__InternalSupabase'>

type DefaultSchema = DatabaseWithoutInternals[Extract<keyof Database, "public">]

export type Tables<
  DefaultSchemaTableNameOrOptions extends
    | keyof (DefaultSchema["Tables"] & DefaultSchema["Views"])
    | { schema: keyof DatabaseWithoutInternals },
  TableName extends DefaultSchemaTableNameOrOptions extends {
    schema: keyof DatabaseWithoutInternals
  }
    ? keyof (DatabaseWithoutInternals[DefaultSchemaTableNameOrOptions["schema"]]["Tables"] &
        DatabaseWithoutInternals[DefaultSchemaTableNameOrOptions["schema"]]["Views"])
    : never = never
> = DefaultSchemaTableNameOrOptions extends { schema: keyof DatabaseWithoutInternals }
  ? (DatabaseWithoutInternals[DefaultSchemaTableNameOrOptions["schema"]]["Tables"] &
      DatabaseWithoutInternals[DefaultSchemaTableNameOrOptions["schema"]]["Views"])[TableName] extends {
      Row: infer R
    }
    ? R
    : never
  : DefaultSchemaTableNameOrOptions extends keyof (DefaultSchema["Tables"] & DefaultSchema["Views"])
  ? (DefaultSchema["Tables"] & DefaultSchema["Views"])[DefaultSchemaTableNameOrOptions] extends {
      Row: infer R
    }
    ? R
    : never
  : never

export type TablesInsert<
  DefaultSchemaTableNameOrOptions extends
    | keyof DefaultSchema["Tables"]
    | { schema: keyof DatabaseWithoutInternals },
  TableName extends DefaultSchemaTableNameOrOptions extends {
    schema: keyof DatabaseWithoutInternals
  }
    ? keyof DatabaseWithoutInternals[DefaultSchemaTableNameOrOptions["schema"]]["Tables"]
    : never = never
> = DefaultSchemaTableNameOrOptions extends { schema: keyof DatabaseWithoutInternals }
  ? DatabaseWithoutInternals[DefaultSchemaTableNameOrOptions["schema"]]["Tables"][TableName] extends {
      Insert: infer I
    }
    ? I
    : never
  : DefaultSchemaTableNameOrOptions extends keyof DefaultSchema["Tables"]
  ? DefaultSchema["Tables"][DefaultSchemaTableNameOrOptions] extends {
      Insert: infer I
    }
    ? I
    : never
  : never

export type TablesUpdate<
  DefaultSchemaTableNameOrOptions extends
    | keyof DefaultSchema["Tables"]
    | { schema: keyof DatabaseWithoutInternals },
  TableName extends DefaultSchemaTableNameOrOptions extends {
    schema: keyof DatabaseWithoutInternals
  }
    ? keyof DatabaseWithoutInternals[DefaultSchemaTableNameOrOptions["schema"]]["Tables"]
    : never = never
> = DefaultSchemaTableNameOrOptions extends { schema: keyof DatabaseWithoutInternals }
  ? DatabaseWithoutInternals[DefaultSchemaTableNameOrOptions["schema"]]["Tables"][TableName] extends {
      Update: infer U
    }
    ? U
    : never
  : DefaultSchemaTableNameOrOptions extends keyof DefaultSchema["Tables"]
  ? DefaultSchema["Tables"][DefaultSchemaTableNameOrOptions] extends {
      Update: infer U
    }
    ? U
    : never
  : never

export type Enums<
  DefaultSchemaEnumNameOrOptions extends
    | keyof DefaultSchema["Enums"]
    | { schema: keyof DatabaseWithoutInternals },
  EnumName extends DefaultSchemaEnumNameOrOptions extends {
    schema: keyof DatabaseWithoutInternals
  }
    ? keyof DatabaseWithoutInternals[DefaultSchemaEnumNameOrOptions["schema"]]["Enums"]
    : never = never
> = DefaultSchemaEnumNameOrOptions extends { schema: keyof DatabaseWithoutInternals }
  ? DatabaseWithoutInternals[DefaultSchemaEnumNameOrOptions["schema"]]["Enums"][EnumName]
  : DefaultSchemaEnumNameOrOptions extends keyof DefaultSchema["Enums"]
  ? DefaultSchema["Enums"][DefaultSchemaEnumNameOrOptions]
  : never

export type CompositeTypes<
  PublicCompositeTypeNameOrOptions extends
    | keyof DefaultSchema["CompositeTypes"]
    | { schema: keyof DatabaseWithoutInternals },
  CompositeTypeName extends PublicCompositeTypeNameOrOptions extends {
    schema: keyof DatabaseWithoutInternals
  }
    ? keyof DatabaseWithoutInternals[PublicCompositeTypeNameOrOptions["schema"]]["CompositeTypes"]
    : never = never
> = PublicCompositeTypeNameOrOptions extends { schema: keyof DatabaseWithoutInternals }
  ? DatabaseWithoutInternals[PublicCompositeTypeNameOrOptions["schema"]]["CompositeTypes"][CompositeTypeName]
  : PublicCompositeTypeNameOrOptions extends keyof DefaultSchema["CompositeTypes"]
  ? DefaultSchema["CompositeTypes"][PublicCompositeTypeNameOrOptions]
  : never

export const Constants = {
  "public": {
          Enums: {
            
          }
        }
} as const
