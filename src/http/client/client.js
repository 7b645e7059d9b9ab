// herald's events in a page: one connection for all tabs, resumed exactly.
//
//   import { connect } from "https://events.example.com/client.js";
//   const stream = connect({ tenantId: "acme", after: page.nextAfter, onEvent: (event) => … });
//   stream.close();
//
// Options and callbacks are described in client.d.ts. Every event is given to a page once, in the
// order of the stream, whatever comes in between: a cut, a restart of herald, a reload, another tab.

import { waysTo } from "./client/links.js";

const LINK_TIMEOUT = 10_000; // ms; for the first word of a channel
const LINK_SILENCE = 20_000; // ms; a channel says every 5 s that it is there

export const connect = (options) => new Stream(options);

class Stream {
  #options;
  #wanted; // what a channel is of
  #ways;
  #link = null;
  #cursor;
  #memory;
  #state = { state: "connecting" };
  #heardAt;
  #answered;
  #watchdog;
  #hiding; // the timer of a page that is hidden
  #left = new AbortController();

  constructor({ url = new URL(".", import.meta.url).href, tenantId, types, after, lastEventId, ...options }) {
    this.#options = { remember: true, ...options };
    const { transports = ["sse", "websocket"], silence = 45_000, credentials = "same-origin" } = options;
    const base = new URL(url, location.href).href.replace(/\/*$/, "/");
    this.#wanted = { base, tenantId, types: [types ?? []].flat().join(","), transports, silence, credentials };
    this.#ways = waysTo(this.#wanted);
    this.#memory = `herald ${base} ${tenantId} ${this.#wanted.types}`;
    const remembered = this.#options.remember ? recall(this.#memory) : undefined;
    if (after !== undefined && after !== null) this.#cursor = { after };
    else if (lastEventId ?? remembered) this.#cursor = { lastEventId: lastEventId ?? remembered };
    else this.#cursor = {};
    this.#watch();
    if (document.hidden && this.#pauses() === 0) this.#say({ state: "paused" });
    else this.#join();
    if (document.hidden) this.#hide();
  }

  /** `connecting`, `open`, `waiting`, `paused`, `failed` or `closed`. */
  get state() {
    return this.#state.state;
  }

  /** The place that the page has come to: what to begin with elsewhere. */
  get lastEventId() {
    return this.#cursor.lastEventId;
  }

  close() {
    this.#end({ state: "closed" });
  }

  // ---- The way to the channel -----------------------------------------------------------------

  #join() {
    this.#leave();
    const link = (this.#link = this.#ways[0](() => link === this.#link && this.#another()));
    this.#answered = false;
    this.#heardAt = performance.now();
    link.port.onmessage = ({ data }) => link === this.#link && this.#hear(data);
    const join = () => link.port.postMessage({ join: this.#wanted, cursor: this.#cursor, tells: this.#options.token !== undefined });
    link.port.onleader = join; // a new one knows nobody yet
    join();
    this.#watchdog = setInterval(() => {
      const silent = performance.now() - this.#heardAt;
      if (silent > (this.#answered ? LINK_SILENCE : LINK_TIMEOUT)) this.#another();
    }, 1_000);
  }

  /** The channel does not answer: a worker that ended, or one that cannot be. */
  #another() {
    if (!this.#answered && this.#ways.length > 1) this.#ways.shift();
    this.#join();
  }

  #leave() {
    clearInterval(this.#watchdog);
    this.#link?.port.postMessage({ leave: true });
    this.#link?.close();
    this.#link = null;
  }

  #end(state) {
    if (this.#left.signal.aborted) return;
    this.#left.abort();
    this.#remember();
    clearTimeout(this.#hiding);
    this.#leave();
    this.#say(state);
  }

  // ---- What the channel says ------------------------------------------------------------------

  #hear({ place, text, reset, state, detail, ask, alive }) {
    this.#heardAt = performance.now();
    this.#answered = true;
    if (place !== undefined) this.#move(place, text);
    if (reset !== undefined) this.#call("onReset", { reason: reset });
    if (state === "failed") this.#end({ state, detail });
    else if (state !== undefined) this.#say({ state, detail });
    if (ask === "token") this.#giveToken(this.#link);
    if (alive) this.#link?.port.postMessage({ here: true });
  }

  #move(place, text) {
    if (text !== undefined) this.#call("onEvent", JSON.parse(text), text);
    this.#cursor = { lastEventId: place };
    this.#remember();
  }

  async #giveToken(link) {
    try {
      link.port.postMessage({ token: String(await this.#options.token()) });
    } catch (error) {
      link.port.postMessage({ fault: `the page gave no token: ${error?.message ?? error}` });
    }
  }

  #say(state) {
    if (state.state === this.#state.state && state.detail === this.#state.detail) return;
    this.#state = state;
    this.#call("onState", state);
  }

  /** An error of the page's is its own. */
  #call(name, ...args) {
    try {
      this.#options[name]?.(...args);
    } catch (error) {
      reportError(error);
    }
  }

  // ---- The page comes and goes ----------------------------------------------------------------

  #watch() {
    const { signal } = this.#left;
    document.addEventListener("visibilitychange", () => (document.hidden ? this.#hide() : this.#show()), { signal });
    // A page may come back from the browser's cache as it was, or never.
    addEventListener("pagehide", () => this.#leave(), { signal });
    addEventListener("pageshow", ({ persisted }) => persisted && this.#show(), { signal });
  }

  /** ms until a hidden page leaves; infinite unless it is asked for. */
  #pauses() {
    const { pauseWhenHidden: pause = false } = this.#options;
    return pause === true ? 0 : pause === false ? Infinity : pause;
  }

  #hide() {
    if (this.#pauses() === Infinity) return;
    this.#hiding = setTimeout(() => {
      this.#leave();
      this.#say({ state: "paused" });
    }, this.#pauses());
  }

  #show() {
    clearTimeout(this.#hiding);
    if (this.#link === null) this.#join();
  }

  #remember() {
    if (!this.#options.remember || this.#cursor.lastEventId === undefined) return;
    try {
      sessionStorage.setItem(this.#memory, this.#cursor.lastEventId);
    } catch {
      // Storage is full or forbidden: a reload then begins with what comes next.
    }
  }
}

function recall(key) {
  try {
    return sessionStorage.getItem(key) ?? undefined;
  } catch {
    return undefined;
  }
}
