-- The reference fix of the sample's slow list. For tests only: the product carries no answer, the agent finds its own.
--
-- Why it was slow: each open task asked its policy anew, and each time Postgres read all of public.members.
-- Now the person's projects are found once, by index, and only the tasks of those projects are read, by index.

create index members_user_id_project_id_idx on public.members (user_id, project_id);
create index tasks_project_id_created_at_idx on public.tasks (project_id, created_at desc, id desc);

alter policy "People read their own memberships"
on public.members using ( user_id = (select auth.uid()) );

alter policy "Members read the tasks of their projects"
on public.tasks using ( project_id = any (array(
  select m.project_id from public.members m where m.user_id = (select auth.uid())
)) );

alter policy "Members read their projects"
on public.projects using ( id = any (array(
  select m.project_id from public.members m where m.user_id = (select auth.uid())
)) );
