// A client of the event stream, made of a library that somebody else wrote.
//
//     node sse_client.mjs FOLDER LIBRARY URL
//
// FOLDER has the node_modules. LIBRARY is `eventsource` or `@microsoft/fetch-event-source`. For each
// event it writes one JSON line {id, data, eventId}, the last of which it reads from the data; it
// ends at the event of type `story.end`. Both libraries connect again by themselves.

import { createRequire } from "node:module";

const [folder, library, url] = process.argv.slice(2);
const loaded = createRequire(`${folder}/`)(library);

/** Writes an event down; whether it was the last. */
function take(id, name, data) {
  if (name && name !== "message") throw new Error(`an event named ${name}: ${data}`);
  const event = JSON.parse(data);
  if (event.type === "story.end") return true;
  process.stdout.write(JSON.stringify({ id, data, eventId: event.eventId }) + "\n");
  return false;
}

function byEventSource() {
  const source = new loaded.EventSource(url);
  source.onmessage = (e) => {
    if (take(e.lastEventId, e.type, e.data)) source.close();
  };
  source.addEventListener("herald.reset", (e) => take(e.lastEventId, e.type, e.data));
  source.onerror = (e) => {
    if (source.readyState === source.CLOSED) throw new Error(`closed for good: ${e.message}`);
  };
}

async function byFetchEventSource() {
  // It is made for pages.
  globalThis.window = globalThis;
  globalThis.document = { hidden: false, addEventListener() {}, removeEventListener() {} };
  const done = new AbortController();
  let last;
  await loaded.fetchEventSource(url, {
    signal: done.signal,
    // It takes an id as soon as its line has come, so an event that is cut behind that line would
    // be passed over. What was last seen whole is the place to go on from.
    fetch(input, init) {
      const { "last-event-id": _, ...headers } = init.headers;
      if (last) headers["last-event-id"] = last;
      return fetch(input, { ...init, headers });
    },
    onmessage(e) {
      // It also makes events of blocks that have no data, which a browser would not: those with
      // `retry` or `id` alone.
      if (!e.data) return;
      if (take(e.id, e.event, e.data)) done.abort();
      last = e.id;
    },
    // An orderly end of the stream is the end to it, unless it is told otherwise.
    onclose() {
      throw new Error("the stream has ended");
    },
    // Whatever fails is tried again after the server's `retry`, unless this throws.
    onerror(error) {
      if (error instanceof SyntaxError) throw error;
    },
  });
}

await (library === "eventsource" ? byEventSource() : byFetchEventSource());
