// How events come: as an event stream (WHATWG HTML §9.2) that fetch reads, or over a WebSocket.
//
// Fetch rather than EventSource: it has the status and the problem document of an answer, sends the
// token in a header rather than in an address, and leaves it to us when to connect again.
//
// A transport tells `hear` of whatever comes: {id, text} is an event, {id} the place that a stream
// begins at, {reset} a cursor that could not be honoured, {expired} the end of the token, {wait} when
// to come back in ms, {} a sign of life. It settles when the stream ends.

/** herald will not serve this; asking again would not help. */
export class Refused extends Error {}

/** The token is missing, has expired, or is not believed. */
export class Unauthorized extends Error {}

export const transports = { sse, websocket };

async function sse({ base, query, token, credentials, signal }, hear) {
  const response = await ask(`${base}sse?${query}`, { token, credentials, signal });
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  let fields = {};
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    hear({});
    const lines = (rest + value).split("\n"); // herald ends lines with LF
    rest = lines.pop();
    for (const line of lines) {
      if (line === "") {
        told(fields, hear);
        fields = {};
      } else {
        const [, name, text] = /^([^:]*):? ?(.*)$/.exec(line);
        fields[name] = name === "data" && fields.data !== undefined ? `${fields.data}\n${text}` : text;
      }
    }
  }
}

function told({ event, id, data, retry }, hear) {
  if (retry !== undefined) hear({ wait: Number(retry) });
  if (event === "herald.reset") hear({ reset: JSON.parse(data).reason });
  else if (event === "herald.expired") hear({ expired: true });
  else if (id !== undefined) hear({ id, text: data });
}

function websocket({ base, query, token, credentials, signal }, hear) {
  return new Promise((resolve, reject) => {
    // A page cannot give a WebSocket headers; RFC 6750 §2.3 has this parameter.
    const access = token === undefined ? "" : `&access_token=${encodeURIComponent(token)}`;
    const socket = new WebSocket(`${base.replace(/^http/, "ws")}ws?${query}&ping=true${access}`);
    let opened = false;
    socket.onmessage = ({ data }) => {
      opened = true;
      const said = JSON.parse(data);
      if (said.herald === undefined) hear({ id: said.eventId, text: data });
      else if (said.herald === "subscribed") hear({ id: said.lastEventId });
      else if (said.herald === "reset") hear({ reset: said.reason });
      else hear({ expired: said.herald === "expired" });
    };
    socket.onclose = ({ reason }) => {
      const [, wait] = /^come back in (\d+) ms$/.exec(reason) ?? [];
      if (wait) hear({ wait: Number(wait) });
      // Why a WebSocket was refused is hidden from pages; the same stream by HTTP tells.
      if (opened || wait) resolve();
      else ask(`${base}sse?${query}`, { method: "HEAD", token, credentials, signal }).then(() => reject(new Error("no WebSocket came to be")), reject);
    };
    signal.addEventListener("abort", () => {
      socket.onclose = null;
      socket.close();
      reject(signal.reason);
    });
  });
}

/** Asks for a stream, and says of an answer that is none whether it may become one. */
async function ask(url, { method, token, credentials, signal }) {
  const headers = token === undefined ? {} : { Authorization: `Bearer ${token}` };
  const response = await fetch(url, { method, headers, credentials, signal, cache: "no-store" });
  const { status } = response;
  if (status === 200 && response.headers.get("content-type")?.startsWith("text/event-stream")) return response;
  const problem = await response.json().catch(() => ({}));
  const why = problem.detail ?? `the answer was ${status}, not an event stream`;
  if (status === 401) throw new Unauthorized(why);
  const passes = status === 200 || status === 408 || status === 429 || status >= 500;
  throw passes ? new Error(why) : new Refused(why);
}
