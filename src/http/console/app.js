// herald's console. It uses the public HTTP API and nothing else, so whatever it shows, a script
// can have too. The feed is in feed.js, what all parts share in page.js.

import { connect, refreshOpen, togglePause } from "/console/feed.js";
import { $, h, keyed, makeCopy, openWithToken, parse, post, query, request, say, showing, token, twoStep, when } from "/console/page.js";

const TICK = 2_000; // ms between refreshes while the page is visible
const state = { tenant: "demo", types: "" };

// ---- Emit ---------------------------------------------------------------------------------

const SAMPLES = [
  ["order.created", { orderId: 1042, email: "ada@example.com", total: "49.90", currency: "EUR" }],
  ["user.signed_up", { userId: "u_7", name: "Grace Hopper", plan: "free" }],
  ["comment.posted", { author: "Søren", text: "Grüße, 世界! 🎉👩‍🚀", tags: ["🚀", "naïve"] }],
];

function fillEmit(type, payload) {
  $("emit-type").value = type;
  $("emit-payload").value = JSON.stringify(payload, null, 2);
  drawEmit();
}

/** Says what is wrong with the form, and keeps the curl line the same as the form. */
function drawEmit() {
  const type = $("emit-type").value.trim();
  const text = $("emit-payload").value;
  let fault = type ? "" : "An event needs a type.";
  let payload;
  $("emit-payload").ariaInvalid = "false";
  try {
    payload = JSON.stringify(parse(text)); // one line, numbers as typed
  } catch (error) {
    fault = `The payload is not JSON: ${error.message}`;
    $("emit-payload").ariaInvalid = "true";
  }
  say($("emit-fault"), fault);
  const body = `{"tenantId":${JSON.stringify(state.tenant)},"type":${JSON.stringify(type)},"payload":${payload}}`;
  say($("curl"), fault ? "# the form needs mending first" : `curl -sS ${location.origin}/events${token.get() ? ' -H "Authorization: Bearer $TOKEN"' : ""} --json '${body.replaceAll("'", String.raw`'\''`)}'`);
  return fault ? null : body;
}

async function emit(submit) {
  submit.preventDefault();
  const body = drawEmit();
  if (!body) {
    $($("emit-payload").ariaInvalid === "true" ? "emit-payload" : "emit-type").focus();
    return;
  }
  const result = $("emit-result");
  $("emit-send").disabled = true;
  try {
    const { eventId, aggregateId } = await post("/events", body);
    say(result, `#${aggregateId} ${eventId}`, "good");
  } catch (error) {
    say(result, error.message, "bad");
  }
  $("emit-send").disabled = false;
}

// ---- Sinks and dead letters ---------------------------------------------------------------

const NUMBERS = [["checkpoint", "Checkpoint"], ["lag", "Lag"], ["inFlight", "In flight"], ["retrying", "Retrying"]];
const count = (value) => (value === undefined || value === null ? "–" : Number(value).toLocaleString());

const drawSinks = keyed($("sinks"), (sink) => sink.name, ({ name }) => {
  const kind = h("span");
  const flags = h("span", { className: "state", data: { tone: "warn" } });
  const cells = NUMBERS.map(([, label]) => h("td", { className: "number", data: { label } }));
  const dead = h("button", { type: "button", className: "count" });
  const toggle = h("button", { type: "button" });
  let paused;
  dead.addEventListener("click", () => openDead(name));
  toggle.addEventListener("click", async () => {
    toggle.disabled = true;
    const step = paused ? "resume" : "pause";
    await showing($("sinks-error"), async () => {
      await post(`/sinks/${encodeURIComponent(name)}/${step}`);
      await refreshSinks();
    });
    toggle.disabled = false;
    toggle.focus();
  });
  const node = h("tr", {}, h("th", { scope: "row" }, h("b", { title: name }, name), h("span", { className: "kind" }, kind, flags)), ...cells,
    h("td", { className: "number", data: { label: "Dead" } }, dead), h("td", { className: "action" }, toggle));
  const update = (sink) => {
    paused = sink.paused;
    const clients = sink.clients === undefined ? "" : ` · ${count(sink.clients)} client${sink.clients === 1 ? "" : "s"}`;
    say(kind, `${sink.kind} · ${sink.mode}${clients}`);
    say(flags, [paused && "paused", sink.breaker && sink.breaker !== "closed" && `breaker ${sink.breaker}`].filter(Boolean).map((flag) => ` · ${flag}`).join(""));
    NUMBERS.forEach(([field], i) => say(cells[i], count(sink[field])));
    say(dead, count(sink.dead));
    dead.ariaLabel = `${count(sink.dead)} dead letters of ${name}: show`;
    dead.disabled = !sink.dead;
    toggle.hidden = sink.mode !== "competing"; // a stream's clients come and go by themselves
    say(toggle, paused ? "Resume" : "Pause");
    toggle.ariaLabel = `${toggle.textContent} ${name}`;
  };
  return { node, update };
});

// Its errors stand in the note: those of the buttons must outlive the next refresh.
const refreshSinks = () => showing($("backlog"), async () => {
  const { sinks, feed } = await request("/sinks");
  drawSinks(sinks);
  $("sinks-table").hidden = sinks.length === 0;
  return sinks.length === 0 ? "no sink is configured" : `feed at ${count(feed.seq)}, outbox ${count(feed.pending)}`;
});

let deadSink;

function openDead(sink) {
  deadSink = sink;
  say($("dead-title"), `Dead letters of ${sink}`);
  say($("dead-note"), "");
  drawDead([]);
  $("dead-empty").hidden = true;
  $("dead").showModal();
  refreshDead();
}

const drawDead = keyed($("dead-rows"), (row) => `${row.eventId} ${row.sink} ${row.recipient}`, (row) => {
  const { eventId, sink, recipient } = row;
  const settle = (step, done) => async (button) => {
    button.disabled = true;
    await showing($("dead-error"), async () => {
      const answer = await post(`/dead/${step}`, JSON.stringify({ eventId, sink, recipient }));
      say($("dead-note"), answer[done] ? `${recipient}: ${done}.` : `${recipient}: it was no longer dead.`);
      $("dead-refresh").focus(); // the row, and this button with it, goes away
      await listDead();
    });
    button.disabled = false;
  };
  const node = h("li", { className: "letter" },
    h("p", {}, h("b", {}, recipient), h("span", { className: "type" }, row.type), h("span", { className: "note" }, `tenant ${row.tenantId}, ${row.attempts} attempts, `, when(row.updatedAt))),
    h("p", { className: "cause" }, row.cause ?? "no cause recorded"),
    h("p", { className: "bar" }, h("a", { href: `/events/${encodeURIComponent(eventId)}` }, h("code", {}, eventId)), h("span", { className: "space" }),
      twoStep("Replay", "Send it again?", settle("replay", "replayed")),
      twoStep("Drop", "Drop for good?", settle("drop", "dropped"))));
  return { node };
});

async function listDead() {
  const { dead } = await request(`/dead?${query({ limit: 50, sink: deadSink })}`);
  drawDead(dead);
  $("dead-empty").hidden = dead.length > 0;
}

const refreshDead = () => showing($("dead-error"), listDead);

// ---- Mailbox, push, readiness -------------------------------------------------------------

const drawMails = keyed($("mails"), (mail) => mail.id, (mail) => ({
  node: h("li", {}, h("details", { name: "mail" },
    h("summary", {}, when(mail.date), h("span", { className: "type" }, [mail.to].flat().join(", ")), h("span", { className: "short" }, mail.subject)),
    h("div", { className: "body" },
      h("p", { className: "note" }, `from ${mail.from}`, mail.eventId ? ", event " : "", mail.eventId ? h("a", { href: `/events/${encodeURIComponent(mail.eventId)}` }, mail.eventId) : null),
      h("pre", { tabIndex: 0, ariaLabel: "The mail's text" }, mail.text ?? "")))),
}));

const refreshMails = () => showing($("mail-error"), async () => {
  let mails;
  try {
    ({ mails } = await request("/mailbox.json?limit=10"));
  } catch (error) {
    if (error.status !== 404) throw error;
  }
  drawMails(mails ?? []);
  $("mail-link").hidden = !mails || token.get() !== ""; // pages of their own have no token
  say($("mail-note"), !mails ? "No mailbox here: email goes out by SMTP, or no email sink is configured." : mails.length === 0 ? "No mail yet. The order sample sends one." : "");
});

async function refreshPush() {
  try {
    await request("/push/key");
    say($("push"), "key is served", "good");
  } catch (error) {
    say($("push"), error.status === 404 ? "no Web Push sink is configured" : error.message, error.status === 404 ? "quiet" : "bad");
  }
}

async function refreshHealth() {
  try {
    const [{ version }, { status, parts }] = await Promise.all([request("/healthz"), request("/readyz", { allow: 503 })]);
    const ill = Object.entries(parts).filter(([, part]) => !part.ok).map(([name, { detail }]) => (detail ? `${name}: ${detail}` : name));
    say($("version"), version);
    say($("ready"), status === "ok" ? `ready: ${Object.keys(parts).join(", ")}` : `${status}: ${ill.join("; ")}`, status === "ok" ? "good" : "warn");
  } catch (error) {
    say($("ready"), error.message, "bad");
  }
}

// ---- The page -----------------------------------------------------------------------------

/** The tenant of the last visit, if the browser lets pages remember anything. */
function remembered(tenant) {
  try {
    if (tenant) localStorage.setItem("herald.tenant", tenant);
    return localStorage.getItem("herald.tenant");
  } catch {
    return null; // storage is blocked; the address still names the tenant
  }
}

/** The address names what is shown, so that it can be shared; the tenant outlives the tab. */
function readPlace() {
  const hash = new URLSearchParams(location.hash.slice(1));
  state.tenant = hash.get("tenant") ?? remembered() ?? state.tenant;
  state.types = hash.get("types") ?? "";
  $("tenant").value = state.tenant;
  $("types").value = state.types;
}

function follow() {
  const place = { tenant: $("tenant").value.trim(), types: $("types").value.trim() };
  if (place.tenant === state.tenant && place.types === state.types) return;
  Object.assign(state, place);
  remembered(state.tenant);
  history.replaceState(null, "", `#${query(state)}`);
  drawEmit();
  connect(state);
}

let ticks = 0;
let timer;
async function tick() {
  if (document.hidden) return;
  const [well] = await Promise.all([refreshSinks(), refreshMails(), refreshOpen()]);
  // Readiness may cost the server a probe of each part: rarely, unless something is amiss.
  if (!well || $("ready").dataset.tone !== "good" || ticks++ % 5 === 0) await Promise.all([refreshHealth(), refreshPush()]);
  clearTimeout(timer);
  timer = setTimeout(tick, TICK);
}

let typing;
$("types").addEventListener("input", () => {
  clearTimeout(typing);
  typing = setTimeout(follow, 300);
});
$("tenant").addEventListener("change", follow);
$("reconnect").addEventListener("click", () => connect(state));
$("pause").addEventListener("click", togglePause);
$("emit").addEventListener("submit", emit);
$("emit").addEventListener("input", drawEmit);
$("dead-refresh").addEventListener("click", refreshDead);
makeCopy($("curl-copy"), $("curl"));
for (const [type, payload] of SAMPLES) {
  $("samples").append(h("button", { type: "button", onclick: () => fillEmit(type, payload) }, type));
}
$("token-form").addEventListener("submit", (submit) => {
  submit.preventDefault();
  token.set($("token").value.trim());
  $("token").value = "";
  $("token-form").hidden = true;
  $("tenant").value = token.tenant() ?? state.tenant;
  state.tenant = "";
  follow();
  tick();
});
document.addEventListener("click", (click) => {
  const link = click.target.closest?.('a[href^="/events/"], a[href="/metrics"]');
  if (!link || token.get() === "") return;
  click.preventDefault();
  openWithToken(link.getAttribute("href")).catch((error) => say($("ready"), error.message, "bad"));
});
document.addEventListener("visibilitychange", tick);
addEventListener("hashchange", () => {
  readPlace();
  drawEmit();
  connect(state);
});

readPlace();
fillEmit(...SAMPLES[0]);
connect(state);
tick();
