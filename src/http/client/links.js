// Ways from a page to the channel that its stream comes through, the best one first. Each gives a
// port; where one does not answer, the next is tried.
//
// - a SharedWorker, which all tabs of an origin share; its script must be of that very origin;
// - one of the tabs, which the browser's locks elect: it has the lock for as long as it lives;
// - this page itself, which then shares its stream with nobody.

import { Channels } from "./channel.js";

/** Other versions have other workers and other elections, since what they say may differ. */
const NAME = "herald 1";

/** The ways that this browser and page have. */
export function waysTo(options) {
  const script = new URL("channel.js", import.meta.url);
  const ways = [];
  if (globalThis.SharedWorker && script.origin === location.origin) ways.push((failed) => byWorker(script, failed));
  if (globalThis.BroadcastChannel && navigator.locks) ways.push(() => byElection(`${NAME} ${JSON.stringify(options)}`));
  ways.push(byOneself);
  return ways;
}

function byWorker(script, failed) {
  const worker = new SharedWorker(script, { type: "module", name: NAME });
  worker.onerror = failed;
  return { port: worker.port, close: () => worker.port.close() };
}

function byOneself() {
  const { port1, port2 } = new MessageChannel();
  const channels = new Channels();
  channels.accept(port1);
  const close = () => {
    channels.close();
    port2.close();
  };
  return { port: port2, close };
}

function byElection(name) {
  const bus = new BroadcastChannel(name);
  let ours = crypto.randomUUID();
  const port = { onmessage: null, onleader: null, postMessage: (message) => bus.postMessage({ from: ours, message }) };
  bus.onmessage = ({ data: { to, leads, message } }) => {
    if (leads) {
      // It may have heard of us already. What it says to that name is no longer for us.
      port.postMessage({ leave: true });
      ours = crypto.randomUUID();
      port.onleader?.();
    } else if (to === ours) {
      port.onmessage?.({ data: message });
    }
  };
  const left = new AbortController();
  const elected = () => lead(name, left.signal);
  navigator.locks.request(name, { signal: left.signal }, elected).catch(() => {}); // it left before it was elected
  const close = () => {
    left.abort();
    bus.close();
  };
  return { port, close };
}

/** Leads until it leaves; then the next tab is elected, and all of them join anew. */
function lead(name, left) {
  const bus = new BroadcastChannel(name);
  const channels = new Channels();
  const ports = new Map();
  bus.onmessage = ({ data: { from, message } }) => {
    if (from === undefined) return;
    if (!ports.has(from)) {
      const port = { postMessage: (said) => bus.postMessage({ to: from, message: said }) };
      ports.set(from, port);
      channels.accept(port);
    }
    ports.get(from).onmessage({ data: message });
    if (message.leave) ports.delete(from);
  };
  bus.postMessage({ leads: true });
  return new Promise((resolve) => {
    left.addEventListener("abort", () => {
      channels.close();
      bus.close();
      resolve();
    });
  });
}
