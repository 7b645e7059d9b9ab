// What the types of herald's client for pages allow, and what they do not; it is checked, never run.

import { connect, type HeraldEvent, type State } from "../../src/http/client/client.js";

interface Order {
  orderId: number;
}

const stream = connect<Order>({
  url: new URL("https://events.example.com"),
  tenantId: "acme",
  types: ["order.*", "user.created"],
  after: 42,
  token: async () => "secret",
  transports: ["websocket", "sse"],
  pauseWhenHidden: 60_000,
  onEvent: (event: HeraldEvent<Order>, text) => console.log(event.payload.orderId + event.aggregateId, text.length),
  onReset: ({ reason }) => console.log(reason.length),
  onState: ({ state, detail }) => console.log(state === "open", detail?.length),
});
const state: State = stream.state;
const place: string | undefined = stream.lastEventId;
stream.close();
console.log(state, place);

connect({ after: null, remember: false, token: () => "at once", onEvent: ({ type }) => type.length });

// @ts-expect-error there is no such option
connect({ tenant: "acme" });
// @ts-expect-error nor such a transport
connect({ transports: ["polling"] });
// @ts-expect-error a payload of no said type is unknown
connect({ onEvent: ({ payload }) => payload.orderId });
// @ts-expect-error it is herald's to change
stream.state = "open";
