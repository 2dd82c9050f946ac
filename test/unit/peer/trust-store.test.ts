import { expect, test } from "bun:test";
import type { MachineName } from "../../../src/base/hostname.ts";
import { TrustStore } from "../../../src/peer/trust-store.ts";
import { context, recordOf, somebody } from "./machines.ts";
import { temporaryState } from "./state.ts";
import { failureOf } from "../support/failure.ts";

const home = somebody("home", 2);
const evil = somebody("evil", 4);

test("TrustStore remembers machines through a restart", async () => {
  await using state = await temporaryState();
  const store = await TrustStore.open(state.dir);
  expect(store.admit(recordOf(home), context).kind).toBe("learned");
  await store.save();
  const again = await TrustStore.open(state.dir);
  expect(again.list()).toEqual(store.list());
  expect(again.admit(recordOf(evil, { name: home.name }), context)).toMatchObject({ code: "identity-changed" });
});

test("TrustStore takes a new identity under a name after the name was forgotten", async () => {
  await using state = await temporaryState();
  const store = await TrustStore.open(state.dir);
  store.admit(recordOf(home), context);
  expect(await store.forget("nobody" as MachineName)).toBe(false);
  expect(await store.forget(home.name)).toBe(true);
  const again = await TrustStore.open(state.dir);
  expect(again.list()).toEqual([]);
  expect(again.admit(recordOf(evil, { name: home.name }), context).kind).toBe("learned");
});

test("TrustStore frees a former name when it is forgotten, and keeps the machine", async () => {
  await using state = await temporaryState();
  const store = await TrustStore.open(state.dir);
  store.admit(recordOf(home), context);
  store.admit(recordOf(home, { serial: 2n, name: "attic" as MachineName }), context);
  expect(store.admit(recordOf(evil, { name: home.name }), context)).toMatchObject({ code: "identity-changed" });
  expect(await store.forget(home.name)).toBe(true);
  expect(store.list().map((machine) => machine.name)).toEqual(["attic" as MachineName]);
  expect(store.admit(recordOf(evil, { name: home.name }), context).kind).toBe("learned");
});

test("TrustStore tries again what it could not write", async () => {
  await using state = await temporaryState();
  let broken = true;
  const store = await TrustStore.open({
    ...state.dir,
    async writeJson(file, value) {
      if (broken) throw new Error("no space left");
      await state.dir.writeJson(file, value);
    },
  });
  store.admit(recordOf(home), context);
  expect(await failureOf(store.save())).toMatchObject({ message: "no space left" });
  broken = false;
  await store.save();
  expect((await TrustStore.open(state.dir)).list()).toHaveLength(1);
});
