"""The platform with the real supabase-js and realtime-js: `realtime.test.ts` run by Deno."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from infra.cli.setting import home
from infra.local.lite import Lite, deno_program

HERE = Path(__file__).parent
SCHEMA = """
    create table if not exists public.js_notes (
      id uuid primary key default gen_random_uuid(), owner uuid not null default auth.uid(), body text);
    alter table public.js_notes enable row level security;
    create policy "own notes" on public.js_notes for all to authenticated
      using (owner = (select auth.uid())) with check (owner = (select auth.uid()));
    create policy "js read" on realtime.messages for select to authenticated
      using (realtime.topic() = 'js:' || (select auth.uid()));
    create policy "js write" on realtime.messages for insert to authenticated
      with check (realtime.topic() = 'js:' || (select auth.uid()));
    create function public.js_who() returns jsonb language sql as $$
      select jsonb_build_object('uid', auth.uid(), 'role', current_user, 'claims', auth.jwt() ->> 'role') $$;
    create function public.js_announce(topic text) returns void language sql security definer
      set search_path = '' as $$ select realtime.send('{"by": "database"}', 'announced', topic) $$
"""


async def test_a_browser_client_signs_in_reads_under_rls_and_listens(
    platform: Any, migrate: Callable[[str], Awaitable[None]]
) -> None:
    await migrate(SCHEMA)
    lite = Lite(home=home())
    flags = ["--no-prompt", "--cached-only", "--ignore-env", "--allow-env=SUPABASE_URL,SUPABASE_PUBLISHABLE_KEY"]
    environment = {
        "DENO_DIR": str(home() / "deno"),
        "SUPABASE_URL": platform.url,
        "SUPABASE_PUBLISHABLE_KEY": platform.publishable_key,
        "NO_COLOR": "1",
    }
    child = await asyncio.create_subprocess_exec(
        deno_program(), "test", "--config", lite.folder / "deno.json", "--allow-net=127.0.0.1", *flags, HERE / "realtime.test.ts",
        env=environment, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    output, _ = await asyncio.wait_for(child.communicate(), 90)
    assert child.returncode == 0, output.decode()
    assert "6 passed" in output.decode()
