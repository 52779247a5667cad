-- The same effect once more, while nobody knows whether it took place, is a person's to agree to; and what a call may cost is
-- asked of every budget that it is under.

create index tool_calls_unknown on pam.tool_calls (org_id, tool) where status = 'unknown';

create or replace function pam_worker.begin_call(run_id uuid, fence bigint, id uuid, ceiling_usd numeric default 0, only_ask boolean default false) returns jsonb
language plpgsql security definer set search_path = '' as
$$
declare
  run pam.runs := pam_private.hold(begin_call.run_id, begin_call.fence);
  call pam.tool_calls;
  policy pam.tool_policies;
  needed pam.consent;
  definition jsonb;
  asked pam.approvals;
  fault jsonb;
  is_doubtful boolean;
begin
  select c.* into call from pam.tool_calls c
   where c.org_id = run.org_id and c.run_id = run.id and c.id = begin_call.id and c.status in ('planned', 'started', 'answered');
  if not found then raise exception 'call % of run % was finished before', begin_call.id, run.id using errcode = 'PM002'; end if;

  select v.definition into definition from pam.agent_versions v
   where v.org_id = run.org_id and v.agent_id = run.agent_id and v.version = run.agent_version;
  if not (coalesce(definition -> 'tools', '[]') ? call.tool or coalesce(definition -> 'conduct_tools', '[]') ? call.tool) then
    return pam_private.refusal('not_granted', format('The agent''s card does not grant %s.', left(call.tool, 63)));
  end if;
  policy := pam_private.policy_of(run.org_id, pam_private.role_in(run.org_id, run.user_id), call.tool, call.effect);
  if call.effect <> 'pause' and not policy.is_allowed then
    return pam_private.refusal('forbidden', format('%s with the effect %s is not allowed for a run that somebody with the role %s asked for: an admin of the organisation can change that.',
                                                   left(call.tool, 63), call.effect, policy.role));
  end if;
  if begin_call.ceiling_usd > 0 then
    fault := pam_private.ceiling_fault(run, call.id, begin_call.ceiling_usd);
    if fault is not null then return fault; end if;
  end if;

  needed := case when call.effect = 'pause' then 'never'
                 when run.tainted_at is not null then greatest(policy.consent, policy.consent_after_untrusted)
                 else policy.consent end;
  -- The same effect once more, while nobody knows whether it took place, is a person's to agree to.
  is_doubtful := call.effect not in ('read', 'pause') and exists (
    select from pam.tool_calls u join pam.runs r on r.org_id = u.org_id and r.id = u.run_id
     where u.org_id = run.org_id and r.thread_id = run.thread_id and u.id <> call.id and u.status = 'unknown' and u.tool = call.tool
       and pam_private.arguments_digest(u.arguments) = pam_private.arguments_digest(call.arguments));
  if is_doubtful then needed := greatest(needed, 'ask'); end if;
  select a.* into asked from pam.approvals a where a.org_id = run.org_id and a.id = call.id;
  if needed <> 'never' then
    if not found then
      return jsonb_build_object('ask', jsonb_build_object(
        'why', case when is_doubtful then 'The same call was made before and nobody knows whether it took effect: look, then say whether to repeat it.'
                    when policy.consent >= needed then 'The organisation''s policy asks a person before this.'
                    else format('The run has read what nobody vouches for (%s): a person must agree before anything leaves.', run.taint) end,
        'needs_role', policy.decided_by, 'is_four_eyes', needed = 'four_eyes',
        'expires_at', clock_timestamp() + interval '24 hours'));
    end if;
    -- An approval holds for what was decided, in time, by one who may still decide, as strictly as the policy asks by now.
    if asked.status <> 'approved' or asked.expires_at <= clock_timestamp()
       or asked.arguments_sha256 <> pam_private.arguments_digest(coalesce(asked.edited_arguments, call.arguments))
       or asked.tool <> call.tool or asked.effect <> call.effect
       or (needed = 'four_eyes' and asked.decided_by = run.user_id)
       or coalesce(pam_private.role_in(run.org_id, asked.decided_by), 'viewer') < greatest(policy.decided_by, asked.needs_role) then
      return pam_private.refusal('not_agreed', 'The approval of this call does not hold any more: ask for the call again.');
    end if;
  end if;
  if begin_call.only_ask then return '{"held": true}'; end if;
  -- That a read began need not outlive a crash of the server; it is on the disk before its outcome is.
  if call.effect = 'read' then perform set_config('synchronous_commit', 'off', true); end if;

  update pam.tool_calls c set status = 'started', started_at = clock_timestamp(), reserved_usd = begin_call.ceiling_usd
   where c.org_id = run.org_id and c.id = call.id returning * into call;
  perform pam_private.record(run.org_id, run.user_id, 'tool.' || call.tool, true, jsonb_build_object(
    'run_id', run.id, 'call', call.id, 'effect', call.effect, 'agreed_by', asked.decided_by,
    'arguments_sha256', pam_private.arguments_digest(coalesce(asked.edited_arguments, call.arguments))));
  return jsonb_build_object('call', to_jsonb(call), 'agreed', case when asked.status = 'approved' then asked.facts end);
end $$;
