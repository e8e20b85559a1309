// Bind, look up, meet a conflict, unbind, and read the type of a webhook's message; each step is checked.
// BINDINGS_URL is the address of the service, BINDINGS_KEY an API key of the role app.
import assert from "node:assert/strict";
import createClient from "openapi-fetch";
import type { paths, webhooks } from "./schema.js";

const { BINDINGS_URL, BINDINGS_KEY } = process.env;
assert(BINDINGS_URL && BINDINGS_KEY, "set BINDINGS_URL and BINDINGS_KEY");

const client = createClient<paths>({
  baseUrl: BINDINGS_URL,
  headers: { Authorization: `Bearer ${BINDINGS_KEY}` },
});
const order = { phone_a: "9188067761", phone_b: "9188067762", pool_number: "918806", expire_s: 3600, mode: "AXB" } as const;

const bound = await client.POST("/v1/bindings", {
  params: { header: { "Idempotency-Key": "order-61/1" } },
  body: { ...order, reference: "order-61" },
});
assert(bound.data, bound.error?.detail);
assert.equal(bound.response.status, 201);
const { id, middle_number_b } = bound.data;
assert(middle_number_b);

const lookup = await client.POST("/v1/lookup", { body: { middle_number: middle_number_b, party: order.phone_b } });
assert.deepEqual(lookup.data?.data.map((binding) => [binding.id, binding.counterpart]), [[id, order.phone_a]]);

const conflict = await client.POST("/v1/bindings", { body: order });
assert.equal(conflict.error?.code, "phone-in-use");
assert.equal(conflict.error?.holder?.id, id);

const unbound = await client.POST("/v1/bindings/{binding_id}/unbind", {
  params: { path: { binding_id: id } },
  body: { reason: "trip ended" },
});
assert.equal(unbound.data?.state, "unbound");

type Message = {
  [Name in keyof webhooks]: webhooks[Name]["post"]["requestBody"]["content"]["application/json"];
}[keyof webhooks];

function describe(message: Message): string {
  switch (message.type) {
    case "binding.expires_soon":
      return `${message.data.reference} ends at ${message.data.expires_at}`;
    case "pool.low":
      return `${message.data.pool_number}: ${message.data.why}`;
    default:
      return message.type;
  }
}

assert.equal(
  describe({
    type: "binding.unbound",
    timestamp: "2026-03-01T12:00:00Z",
    data: { binding_id: id, reference: null, sequence: 4, kind: "unbound", at: "2026-03-01T12:00:00Z", cursor: "1-4" },
  }),
  "binding.unbound",
);
console.log("ok");
