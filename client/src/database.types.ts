export type Json = string | number | boolean | null | { [key: string]: Json | undefined } | Json[];

export type Database = {
  public: {
    Tables: {
      code_file_versions: {
        Row: {
          conflict: boolean;
          content: string;
          created_at: string;
          file_id: string;
          id: number;
          language: string | null;
          message_id: string | null;
          path: string;
          revision: number;
          session_id: string;
        };
        Insert: {
          conflict?: boolean;
          content: string;
          created_at?: string;
          file_id: string;
          id?: never;
          language?: string | null;
          message_id?: string | null;
          path: string;
          revision: number;
          session_id: string;
        };
        Update: {
          conflict?: boolean;
          content?: string;
          created_at?: string;
          file_id?: string;
          id?: never;
          language?: string | null;
          message_id?: string | null;
          path?: string;
          revision?: number;
          session_id?: string;
        };
        Relationships: [];
      };
      code_files: {
        Row: {
          content: string;
          created_at: string;
          id: string;
          language: string | null;
          message_id: string | null;
          path: string;
          revision: number;
          session_id: string;
          updated_at: string;
        };
        Insert: {
          content?: string;
          created_at?: string;
          id?: string;
          language?: string | null;
          message_id?: string | null;
          path: string;
          revision?: number;
          session_id: string;
          updated_at?: string;
        };
        Update: {
          content?: string;
          created_at?: string;
          id?: string;
          language?: string | null;
          message_id?: string | null;
          path?: string;
          revision?: number;
          session_id?: string;
          updated_at?: string;
        };
        Relationships: [];
      };
      messages: {
        Row: {
          attempt: number;
          content: string;
          created_at: string;
          data: Json | null;
          error: Json | null;
          id: string;
          ordinal: number;
          reply_to: string | null;
          role: string;
          seq: number;
          session_id: string;
          status: string;
          updated_at: string;
        };
        Insert: {
          attempt?: number;
          content?: string;
          created_at?: string;
          data?: Json | null;
          error?: Json | null;
          id?: string;
          ordinal: number;
          reply_to?: string | null;
          role?: string;
          seq?: number;
          session_id: string;
          status?: string;
          updated_at?: string;
        };
        Update: {
          attempt?: number;
          content?: string;
          created_at?: string;
          data?: Json | null;
          error?: Json | null;
          id?: string;
          ordinal?: number;
          reply_to?: string | null;
          role?: string;
          seq?: number;
          session_id?: string;
          status?: string;
          updated_at?: string;
        };
        Relationships: [];
      };
      sessions: {
        Row: {
          created_at: string;
          function: string;
          id: string;
          last_ordinal: number;
          metadata: Json;
          on_new_message: string;
          title: string | null;
          updated_at: string;
          user_id: string;
        };
        Insert: {
          created_at?: string;
          function?: string;
          id?: string;
          last_ordinal?: number;
          metadata?: Json;
          on_new_message?: string;
          title?: string | null;
          updated_at?: string;
          user_id?: string;
        };
        Update: {
          created_at?: string;
          function?: string;
          id?: string;
          last_ordinal?: number;
          metadata?: Json;
          on_new_message?: string;
          title?: string | null;
          updated_at?: string;
          user_id?: string;
        };
        Relationships: [];
      };
    };
    Views: { [_ in never]: never };
    Functions: {
      cancel_message: { Args: { message_id: string }; Returns: Json };
      retry_message: { Args: { message_id: string }; Returns: Json };
    };
    Enums: { [_ in never]: never };
    CompositeTypes: { [_ in never]: never };
  };
};
