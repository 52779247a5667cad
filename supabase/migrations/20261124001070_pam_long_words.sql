-- A message that is too long for a run on its way is refused as one that starts a run is: with what to do instead.

create or replace function pam.steer_run(run_id uuid, message text) returns jsonb
language plpgsql security definer set search_path = '' as
$$
declare
  me uuid := auth.uid();
  run pam.runs;
  said uuid;
begin
  perform 1 from pam_private.run_heads h where h.run_id = steer_run.run_id for update;
  select * into run from pam.runs r where r.id = steer_run.run_id;
  if not found or pam_private.role_in(run.org_id, me) is null then
    return pam_private.refusal('not_found', 'There is no such run.');
  end if;
  -- The run goes on with its asker's rights, so that whoever speaks to it steers what those rights are used for.
  if pam_private.role_in(run.org_id, me) < (case when run.user_id = me then 'developer' else 'admin' end)::pam.member_role then
    perform pam_private.record(run.org_id, me, 'run.steer', false, jsonb_build_object('run_id', run.id));
    return pam_private.refusal('forbidden', 'The person who started the run speaks to it, or an admin or owner.');
  end if;
  if run.status not in ('queued', 'running', 'interrupted') or run.cancel_requested_at is not null then
    return pam_private.refusal('conflict', 'The run is over: start another in its thread.');
  end if;
  if run.task is not null then
    return pam_private.refusal('conflict', 'A job''s one call listens to nobody: cancel it, or let it end.');
  end if;
  if coalesce(steer_run.message, '') !~ '\S' then
    return pam_private.refusal('invalid', 'The message is empty: say what the agent should do.');
  end if;
  if char_length(steer_run.message) > 100000 then
    return pam_private.refusal('too_large', 'A message may hold 100,000 characters: put larger text into a workspace file and name it.');
  end if;
  if (select count(*) from pam.messages m where m.org_id = run.org_id and m.run_id = run.id and m.role = 'user') >= 100 then
    return pam_private.refusal('limit', 'A run takes 100 messages: start another in its thread.');
  end if;
  insert into pam.messages as m (org_id, thread_id, run_id, role, content)
  values (run.org_id, run.thread_id, run.id, 'user', steer_run.message) returning m.id into said;
  perform pam_private.record(run.org_id, me, 'run.steer', true, jsonb_build_object('run_id', run.id, 'message_id', said));
  return jsonb_build_object('run_id', run.id, 'status', run.status, 'message_id', said);
end $$;
