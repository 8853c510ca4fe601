-- Runs after the migrations on `supabase db reset` and `supabase start`. The bridge needs no data to begin with.
select 1;
