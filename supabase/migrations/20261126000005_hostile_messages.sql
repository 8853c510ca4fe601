-- The triggers of 20261126000001 that are on messages: a migration that locks two tables can deadlock with a worker.

create trigger check_json before insert on public.messages
    for each row when (new.data is not null) execute function bridge.check_json();

create trigger note_deleted after delete on public.messages
    referencing old table as deleted
    for each statement execute function bridge.note_deleted();

create trigger refuse_deleted before insert on public.messages
    for each row when (new.role = 'user') execute function bridge.refuse_deleted();
