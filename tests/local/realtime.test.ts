/** The platform as a browser sees it: supabase-js signs in, reads under RLS, calls functions, listens, speaks. */
import assert from "node:assert/strict";
import { anonymousClient, Inbox, join, signedIn } from "./supabase_js.ts";

type Message = { event: string; payload: Record<string, unknown>; meta?: { id: string } };

Deno.test("a person reads and writes their own rows only", async () => {
  const [ada, bob] = [await signedIn(), await signedIn()];
  const written = await ada.client.from("js_notes").insert({ body: "hers" }).select("owner, body").single();
  assert.deepEqual(written.data, { owner: ada.id, body: "hers" });
  const foreign = await bob.client.from("js_notes").select("body");
  assert.deepEqual(foreign.data, []);
  const forged = await bob.client.from("js_notes").insert({ owner: ada.id, body: "forged" });
  assert.equal(forged.error?.code, "42501");
  const anonymous = await anonymousClient().from("js_notes").select("body");
  assert.ok(anonymous.error || anonymous.data?.length === 0);
});

Deno.test("a function is called as the person", async () => {
  const { client, id } = await signedIn();
  const answer = await client.rpc("js_who");
  assert.deepEqual(answer.data, { uid: id, role: "authenticated", claims: "authenticated" });
});

Deno.test("a private channel hears the database and its own person, and nobody else's", async () => {
  const [ada, bob] = [await signedIn(), await signedIn()];
  const heard = new Inbox<Message>();
  const config = { private: true, broadcast: { self: true, ack: true } };
  const hers = ada.client.channel(`js:${ada.id}`, { config }).on("broadcast", { event: "*" }, heard.put);
  assert.equal((await join(hers)).state, "SUBSCRIBED");

  const refused = await join(bob.client.channel(`js:${ada.id}`, { config: { private: true } }));
  assert.equal(refused.state, "CHANNEL_ERROR");
  assert.match(refused.reason, /Unauthorized/);

  await ada.client.rpc("js_announce", { topic: `js:${ada.id}` });
  const announced = await heard.next();
  assert.deepEqual([announced.event, announced.payload.by], ["announced", "database"]);
  assert.equal(announced.meta?.id, announced.payload.id);

  assert.equal(await hers.send({ type: "broadcast", event: "typed", payload: { text: "grüße 🌍" } }), "ok");
  const typed = await heard.next();
  assert.deepEqual([typed.event, typed.payload], ["typed", { text: "grüße 🌍" }]);

  assert.deepEqual(await hers.httpSend("posted", { n: 1 }), { success: true });
  assert.deepEqual((await heard.next()).payload, { n: 1 });

  const elsewhere = bob.client.channel(`js:${ada.id}`, { config: { private: true } });
  await assert.rejects(async () => {
    const sent = await elsewhere.httpSend("forged", { n: 2 });
    if (!sent.success) throw new Error(sent.error);
  });
  assert.ok(heard.isEmpty);
  assert.equal(await hers.unsubscribe(), "ok");
  await Promise.all([ada.client.removeAllChannels(), bob.client.removeAllChannels()]);
});

Deno.test("bytes travel as bytes", async () => {
  const name = `js-room:${crypto.randomUUID()}`;
  const [one, two] = [anonymousClient(), anonymousClient()];
  const heard = new Inbox<Message>();
  const speaking = one.channel(name, { config: { broadcast: { ack: true } } });
  const listening = two.channel(name).on("broadcast", { event: "*" }, heard.put);
  assert.equal((await join(speaking)).state, "SUBSCRIBED");
  assert.equal((await join(listening)).state, "SUBSCRIBED");
  const payload = new Uint8Array([0, 1, 254, 255]).buffer;
  assert.equal(await speaking.send({ type: "broadcast", event: "bytes", payload }), "ok");
  const { payload: arrived } = await heard.next();
  assert.deepEqual([...new Uint8Array(arrived as unknown as ArrayBuffer)], [0, 1, 254, 255]);
  await Promise.all([one.removeAllChannels(), two.removeAllChannels()]);
});

Deno.test("who is present is seen", async () => {
  const name = `js-room:${crypto.randomUUID()}`;
  const [one, two] = [anonymousClient(), anonymousClient()];
  const seen = new Inbox<string[]>();
  const watching = one.channel(name, { config: { presence: { key: "one" } } });
  watching.on("presence", { event: "sync" }, () => seen.put(Object.keys(watching.presenceState()).sort()));
  const coming = two.channel(name, { config: { presence: { key: "two", enabled: true } } });
  assert.equal((await join(watching)).state, "SUBSCRIBED");
  assert.equal((await join(coming)).state, "SUBSCRIBED");
  assert.equal(await coming.track({ mood: "good" }), "ok");
  while ((await seen.next()).join() !== "two");
  await two.removeAllChannels();
  while ((await seen.next()).join() !== "");
  await one.removeAllChannels();
});

Deno.test("database changes are refused with a reason, not promised in vain", async () => {
  const client = anonymousClient();
  const channel = client.channel("changes").on(
    "postgres_changes",
    { event: "*", schema: "public", table: "js_notes" },
    () => {},
  );
  const { state, reason } = await join(channel);
  assert.equal(state, "CHANNEL_ERROR");
  assert.match(reason, /postgres_changes/);
  await client.removeAllChannels();
});
