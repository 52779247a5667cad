-- Signed single-use links: one person decides one approval without signing in; and what the sweep does for approvals.

create function pam_private.link_signature(claim text) returns text
language sql stable security definer set search_path = '' as
$$ select rtrim(translate(encode(pam_private.hmac_sha256(convert_to((select s.value from pam_private.settings s where s.name = 'link_secret'), 'UTF8'),
                                                         convert_to(claim, 'UTF8')), 'base64'), '+/', '-_'), '=') $$;
comment on function pam_private.link_signature is 'HMAC-SHA256 of a link''s claim, as base64url.';

create function pam.make_decision_link(approval_id uuid) returns jsonb
language plpgsql security definer set search_path = '' as
$$
declare
  me uuid := auth.uid();
  asked pam.approvals;
  fault jsonb;
  link pam_private.decision_links;
  claim text;
begin
  if me is null then return pam_private.refusal('signed_out', 'Sign in first.'); end if;
  select a.* into asked from pam.approvals a where a.id = make_decision_link.approval_id and a.org_id = any (pam_private.my_org_ids());
  if not found then return pam_private.refusal('not_found', 'There is nothing to decide under this id.'); end if;
  fault := pam_private.decision_fault(asked, me);
  if fault is not null then
    perform pam_private.record(asked.org_id, me, 'approval.link', false, jsonb_build_object('run_id', asked.run_id, 'call', asked.id));
    return fault;
  end if;
  if asked.kind <> 'approval' or asked.status <> 'pending' or asked.expires_at <= clock_timestamp() then
    return pam_private.refusal('conflict', 'Only an approval that still waits gets a link.');
  end if;
  if (select count(*) from pam_private.decision_links l where l.org_id = asked.org_id and l.approval_id = asked.id) >= 20 then
    return pam_private.refusal('limit', 'This approval has 20 links already: use one of them, or sign in.');
  end if;
  insert into pam_private.decision_links as l (token_id, org_id, approval_id, user_id, expires_at)
  values (gen_random_uuid(), asked.org_id, asked.id, me, asked.expires_at) returning * into link;
  claim := link.token_id || '.' || extract(epoch from link.expires_at)::bigint;
  perform pam_private.record(asked.org_id, me, 'approval.link', true, jsonb_build_object('run_id', asked.run_id, 'call', asked.id));
  return jsonb_build_object('token', claim || '.' || pam_private.link_signature(claim), 'expires_at', link.expires_at);
end $$;
comment on function pam.make_decision_link is 'A signed link for the caller to decide one approval with, once, without signing in: {"token", "expires_at"}.';

-- The link behind a token, or why it is none.
create function pam_private.find_link(token text, out link pam_private.decision_links, out fault jsonb)
language plpgsql stable security definer set search_path = '' as
$$
declare
  claim text := substring(coalesce(token, '') from '^([0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\.[0-9]{1,12})\.[A-Za-z0-9_-]{43}$');
begin
  -- Digests are compared, so that the time taken tells nothing of the signature.
  if claim is null or sha256(convert_to(claim || '.' || pam_private.link_signature(claim), 'UTF8')) <> sha256(convert_to(token, 'UTF8')) then
    fault := pam_private.refusal('not_found', 'This link is not valid: ask for a new one.');
    return;
  end if;
  select l.* into link from pam_private.decision_links l where l.token_id = split_part(claim, '.', 1)::uuid;
  if not found then
    fault := pam_private.refusal('not_found', 'This link is not valid: ask for a new one.');
  elsif link.used_at is not null then
    fault := pam_private.refusal('conflict', 'This link was used already.');
  elsif link.expires_at <= clock_timestamp() then
    fault := pam_private.refusal('conflict', 'Too late: the time to decide is over.');
  end if;
end $$;
comment on function pam_private.find_link is 'What a token stands for, if its signature, its time and its single use allow it.';

create function pam.read_decision_link(token text) returns jsonb
language plpgsql stable security definer set search_path = '' as
$$
declare
  found_link record;
  asked pam.approvals;
begin
  select * into found_link from pam_private.find_link(read_decision_link.token);
  if found_link.fault is not null then return found_link.fault; end if;
  select a.* into asked from pam.approvals a where a.org_id = (found_link.link).org_id and a.id = (found_link.link).approval_id;
  if asked.status <> 'pending' then return pam_private.refusal('conflict', format('This was decided already: it was %s.', asked.status)); end if;
  return jsonb_build_object('tool', asked.tool, 'effect', asked.effect, 'arguments', asked.arguments, 'shown', asked.shown,
                            'why', asked.why, 'expires_at', asked.expires_at);
end $$;
comment on function pam.read_decision_link is 'What a link would decide; looking does not use it up.';

create function pam.decide_by_link(token text, verdict text, note text default null) returns jsonb
language plpgsql security definer set search_path = '' as
$$
declare
  found_link record;
  asked pam.approvals;
  told jsonb;
begin
  select * into found_link from pam_private.find_link(decide_by_link.token);
  if found_link.fault is not null then return found_link.fault; end if;
  select a.* into asked from pam.approvals a where a.org_id = (found_link.link).org_id and a.id = (found_link.link).approval_id;
  perform 1 from pam_private.run_heads h where h.run_id = asked.run_id for update;
  -- Under the lock: the same link pressed twice at once decides once.
  select a.* into asked from pam.approvals a where a.org_id = asked.org_id and a.id = asked.id;
  update pam_private.decision_links l set used_at = clock_timestamp()
   where l.token_id = (found_link.link).token_id and l.used_at is null;
  if not found then return pam_private.refusal('conflict', 'This link was used already.'); end if;
  told := pam_private.decide(asked, (found_link.link).user_id, 'link', decide_by_link.verdict, null, decide_by_link.note);
  if told ? 'refused' then
    -- What was no decision does not use the link up.
    update pam_private.decision_links l set used_at = null where l.token_id = (found_link.link).token_id;
    return told;
  end if;
  return told || jsonb_build_object('run_status', pam_private.go_on(asked.run_id));
end $$;
comment on function pam.decide_by_link is 'Decide what a signed link stands for, once, as the person it was made for; their rights are asked again.';

-- Reminds of what waits, and ends the waiting when its time is over. One runner at a time.
create function pam_worker.sweep_approvals(max_runs int default 500) returns jsonb
language plpgsql security definer set search_path = '' as
$$
declare
  waiting record;
  run pam.runs;
  due jsonb := '[]';
  open_interrupts jsonb;
begin
  if not pg_try_advisory_xact_lock(hashtextextended('pam sweep approvals', 0)) then return '[]'; end if;
  for waiting in
    select h.run_id from pam_private.run_heads h where h.run_id in (
      select a.run_id from pam.approvals a where a.status = 'pending' and least(a.remind_at, a.expires_at) <= clock_timestamp()
       order by least(a.remind_at, a.expires_at) limit max_runs)
     for update skip locked
  loop
    select r.* into run from pam.runs r where r.id = waiting.run_id;
    continue when run.status <> 'interrupted';
    update pam.approvals a set status = 'expired', remind_at = null
     where a.org_id = run.org_id and a.run_id = run.id and a.kind = 'approval' and a.status = 'pending' and a.expires_at <= clock_timestamp();
    if found then
      update pam.tool_calls c set status = 'answered'
       where c.org_id = run.org_id and c.run_id = run.id and c.status = 'waiting'
         and exists (select from pam.approvals a where a.org_id = c.org_id and a.id = c.id and a.status = 'expired');
      perform pam_private.record(run.org_id, run.user_id, 'approval.expire', true, jsonb_build_object('run_id', run.id));
      if pam_private.go_on(run.id) = 'queued' then
        due := due || jsonb_build_object('run_id', run.id, 'turn', run.turn + 1);
        continue;
      end if;
    end if;
    -- A reminder is a closed part of the log of its own: the run wakes, says what still waits, and waits on.
    update pam.approvals a set reminders = a.reminders + 1,
           remind_at = case when a.reminders < 2 then clock_timestamp() + interval '6 hours' end
     where a.org_id = run.org_id and a.run_id = run.id and a.status = 'pending' and a.remind_at <= clock_timestamp();
    if found then
      select jsonb_agg(i.asked order by i.place) into open_interrupts
        from (select e.payload from pam.events e where e.run_id = run.id and e.type = 'RUN_FINISHED' order by e.seq desc limit 1) as last,
             jsonb_array_elements(last.payload -> 'outcome' -> 'interrupts') with ordinality as i (asked, place)
       where exists (select from pam.approvals a where a.org_id = run.org_id and a.id::text = i.asked ->> 'id' and a.status = 'pending');
      perform pam_private.append(run, jsonb_build_array(
        pam_private.started_event(run),
        jsonb_build_object('type', 'CUSTOM', 'name', 'pam.reminder', 'timestamp', pam_private.now_ms(), 'value', jsonb_build_object(
          'waiting', (select jsonb_agg(jsonb_build_object('approval_id', a.id, 'kind', a.kind, 'tool', a.tool, 'needs_role', a.needs_role,
                                                          'is_four_eyes', a.is_four_eyes, 'expires_at', a.expires_at) order by a.created_at, a.id)
                        from pam.approvals a where a.org_id = run.org_id and a.run_id = run.id and a.status = 'pending'))),
        jsonb_build_object('type', 'RUN_FINISHED', 'threadId', run.thread_id, 'runId', run.id, 'timestamp', pam_private.now_ms(),
                           'outcome', jsonb_build_object('type', 'interrupt', 'interrupts', coalesce(open_interrupts, '[]')))));
    end if;
  end loop;
  return due;
end $$;
comment on function pam_worker.sweep_approvals is 'Remind of what waits for a person, and let runs go on whose time to wait is over: [{"run_id", "turn"}] to enqueue.';

revoke execute on all functions in schema pam, pam_private, pam_worker from public, anon, service_role;
grant execute on function pam.make_decision_link(uuid) to authenticated;
grant execute on function pam.read_decision_link(text), pam.decide_by_link(text, text, text) to anon, authenticated;
grant execute on function pam_worker.sweep_approvals(int) to pam_worker, pam_sweeper;
