/** A signed-in supabase-js client against the platform named in the environment. */
import { createClient, type RealtimeChannel, type SupabaseClient } from "@supabase/supabase-js";

const PASSWORD = "Passw0rd!x";

function required(name: string): string {
  const value = Deno.env.get(name);
  if (!value) throw new Error(`set ${name}`);
  return value;
}

export function anonymousClient(): SupabaseClient {
  return createClient(required("SUPABASE_URL"), required("SUPABASE_PUBLISHABLE_KEY"), {
    auth: { persistSession: false, autoRefreshToken: false },
  });
}

/** Signs a new person up, out, and in again. */
export async function signedIn(): Promise<{ client: SupabaseClient; id: string }> {
  const client = anonymousClient();
  const email = `${crypto.randomUUID()}@example.com`;
  const created = await client.auth.signUp({ email, password: PASSWORD });
  if (created.error) throw created.error;
  await client.auth.signOut();
  const { data, error } = await client.auth.signInWithPassword({ email, password: PASSWORD });
  if (error) throw error;
  await client.realtime.setAuth();
  return { client, id: data.user.id };
}

/** What a channel hears, to be awaited one by one. */
export class Inbox<T> {
  #waiting: ((value: T) => void)[] = [];
  #kept: T[] = [];

  readonly put = (value: T): void => {
    const next = this.#waiting.shift();
    if (next) next(value);
    else this.#kept.push(value);
  };

  get isEmpty(): boolean {
    return this.#kept.length === 0;
  }

  async next(milliseconds = 5000): Promise<T> {
    if (this.#kept.length) return this.#kept.shift()!;
    let timer: ReturnType<typeof setTimeout> | undefined;
    const late = new Promise<never>((_, reject) => {
      timer = setTimeout(() => reject(new Error("nothing was heard in time")), milliseconds);
    });
    try {
      return await Promise.race([new Promise<T>((resolve) => this.#waiting.push(resolve)), late]);
    } finally {
      clearTimeout(timer);
    }
  }
}

/** Joins, and answers the first state: SUBSCRIBED or CHANNEL_ERROR with its reason. */
export function join(channel: RealtimeChannel): Promise<{ state: string; reason: string }> {
  return new Promise((resolve) => {
    channel.subscribe((state, error) => resolve({ state, reason: error?.message ?? "" }));
  });
}
