// The live feed: the newest page from the database, then the stream exactly behind it.
//
//   connecting ─▶ live ◀─▶ reconnecting        the browser's own doing, by Last-Event-ID
//        └──────────┴─▶ stopped                the server refused; Reconnect starts over

import { $, askForToken, h, keyed, makeCopy, parse, query, request, say, showing, token, when } from "/console/page.js";

const ROWS = 200; // older rows leave the page, not the database
const FIRST_PAGE = 50;

const feed = { run: 0, source: null, arrived: [], paused: false, drawing: false, open: null };

function feedState(text, tone) {
  say($("live"), text, tone);
  $("reconnect").hidden = text !== "stopped";
}

/** Follows a tenant from here on. Called again, it starts over. */
export async function connect({ tenant: tenantId, types }) {
  const run = ++feed.run;
  feed.source?.close();
  feed.arrived.length = 0;
  feed.open = null;
  $("feed").replaceChildren();
  $("feed-empty").hidden = true;
  say($("feed-error"), "");
  drawPause();
  feedState("connecting", "quiet");
  try {
    if (!tenantId) throw new Error("Name a tenant to follow.");
    const { events } = await request(`/events?${query({ tenantId, types, limit: FIRST_PAGE, order: "desc" })}`);
    if (run !== feed.run) return; // the tenant or the filter changed meanwhile
    $("feed").replaceChildren(...events.map(eventRow));
    $("feed-empty").hidden = events.length > 0;
    listen(`/sse?${query({ tenantId, types, after: events[0]?.aggregateId ?? 0, access_token: token.get() })}`);
  } catch (error) {
    if (run === feed.run) stop(error.message);
  }
}

/** Brings the deliveries of the event that is open up to date. */
export const refreshOpen = () => feed.open?.();

export function togglePause() {
  feed.paused = !feed.paused;
  drawArrived();
  drawPause();
}

function stop(why) {
  feedState("stopped", "bad");
  say($("feed-error"), why);
}

function listen(url) {
  const source = (feed.source = new EventSource(url));
  source.onopen = () => feedState("live", "good");
  source.onmessage = ({ data }) => arrive({ data });
  source.addEventListener("herald.reset", ({ data }) => arrive({ data, reset: true }));
  source.addEventListener("herald.expired", () => {
    source.close(); // it would come back with the old token, to be told to stop
    stop("The token has expired.");
    askForToken();
  });
  source.onerror = () => {
    if (source.readyState === EventSource.CONNECTING) feedState("reconnecting", "warn");
    else stop("The server refused or ended the stream for good.");
  };
}

/** Holds what came until the next frame, or while paused; never more than the page would show. */
function arrive(message) {
  feed.arrived.push(message);
  if (feed.arrived.length > ROWS) feed.arrived.shift();
  if (feed.paused) drawPause();
  else if (!feed.drawing) {
    feed.drawing = true;
    requestAnimationFrame(drawArrived);
  }
}

function drawArrived() {
  feed.drawing = false;
  if (feed.paused) return;
  const list = $("feed");
  for (const { data, reset } of feed.arrived.splice(0)) {
    let row;
    try {
      const body = parse(data);
      row = reset ? markRow(`The stream was reset: ${body.reason}. Events may be missing here.`) : eventRow(body);
    } catch (error) {
      row = markRow(`An event could not be read: ${error.message}`);
    }
    row.classList.add("new");
    list.prepend(row);
  }
  while (list.childElementCount > ROWS) list.lastElementChild.remove();
  $("feed-empty").hidden = list.childElementCount > 0;
}

function drawPause() {
  const count = feed.arrived.length;
  const news = count === 0 ? "" : ` (${count}${count === ROWS ? "+" : ""} new)`;
  say($("pause"), feed.paused ? `Continue${news}` : "Pause");
  $("feed").classList.toggle("paused", feed.paused);
}

const markRow = (text) => h("li", { className: "mark" }, text);

function eventRow(event) {
  const summary = h("summary", {},
    when(event.createdAt),
    h("span", { className: "type" }, event.type),
    h("span", { className: "id", title: "aggregateId" }, `#${event.aggregateId}`),
    h("span", { className: "short" }, JSON.stringify(event.payload).slice(0, 160)));
  const details = h("details", { name: "event" }, summary);
  let refresh;
  details.addEventListener("toggle", () => {
    if (!details.open) {
      if (feed.open === refresh) feed.open = null;
      return;
    }
    if (!refresh) {
      const [body, update] = eventDetails(event);
      details.append(body);
      refresh = update;
    }
    feed.open = refresh;
    refresh();
  });
  return h("li", {}, details);
}

function eventDetails(event) {
  const id = h("code", {}, event.eventId);
  const path = `/events/${encodeURIComponent(event.eventId)}`;
  const list = h("ol", { className: "deliveries" });
  const note = h("p", { className: "note" }, "asking …");
  const draw = keyed(list, (row) => `${row.sink} ${row.recipient}`, deliveryRow);
  const body = h("div", { className: "body" },
    h("p", { className: "bar" }, id, makeCopy(h("button", { type: "button", ariaLabel: "Copy eventId" }, "Copy"), id), h("a", { href: path }, "JSON")),
    h("pre", { tabIndex: 0, ariaLabel: "The event as JSON" }, JSON.stringify(event, null, 2)),
    h("h3", {}, "Deliveries"), note, list);
  const update = () => showing(note, async () => {
    const { deliveries } = await request(`${path}/deliveries`);
    draw(deliveries);
    return deliveries.length === 0 ? "None in the ledger: no sink has taken it up yet, or only streams carry it." : "";
  });
  return [body, update];
}

const TONES = { delivered: "good", pending: "warn", dead: "bad" };

function deliveryRow() {
  const node = h("li");
  let drawn;
  const update = (row) => {
    if (drawn === JSON.stringify(row)) return;
    drawn = JSON.stringify(row);
    const attempts = `${row.attempts} attempt${row.attempts === 1 ? "" : "s"}`;
    const steps = row.history.map(({ at, cause }) => h("li", {}, when(at), " ", cause));
    const end = [h("span", { className: "state", data: { tone: TONES[row.state] ?? "quiet" } }, row.state)];
    if (row.nextAttemptAt) end.push(" next attempt at ", when(row.nextAttemptAt));
    // A dead letter's cause is, as a rule, its last attempt's, which the history already shows.
    if (row.cause && row.cause !== row.history.at(-1)?.cause) end.push(" ", row.cause);
    if (row.response) end.push(" ", row.response);
    steps.push(h("li", {}, when(row.updatedAt), " ", ...end));
    node.replaceChildren(h("p", {}, h("b", {}, row.sink), " → ", row.recipient, h("span", { className: "note" }, ` ${attempts}`)), h("ol", {}, ...steps));
  };
  return { node, update };
}
