// herald's events in a page: one connection for all tabs, resumed exactly.
//
//   import { connect } from "https://events.example.com/client.js";
//   const stream = connect({ tenantId: "acme", after: page.nextAfter, onEvent: (event) => … });
//   stream.close();
//
// Options and callbacks are described in client.d.ts. Every event is given to a page once, in the
// order of the stream, whatever comes in between: a cut, a restart of herald, a reload, another tab.

import { waysTo } from "./client/links.js";

// Seconds of this page's clock, which may stand still while it is hidden.
const ASK = 5; // a channel that says nothing whether it is there
const LINK_TIMEOUT = 10; // for its first word
const LINK_SILENCE = 20;
const ACKNOWLEDGE = 1 << 18; // characters that are read before the channel is told

export const connect = (options) => new Stream(options);

class Stream {
  #options;
  #wanted; // what a channel is of
  #ways;
  #link = null;
  #cursor;
  #memory;
  #state = { state: "connecting" };
  #quiet; // seconds since the channel said something
  #answered;
  #read; // characters that the channel does not know are read
  #round = 0; // of joins
  #watchdog;
  #hiding; // the timer of a page that is hidden
  #left = new AbortController();

  constructor({ url = new URL(".", import.meta.url).href, tenantId, types, after, lastEventId, account, ...options }) {
    this.#options = { remember: true, ...options };
    const { remember, token } = this.#options;
    const authorized = token !== undefined;
    const { transports = ["sse", "websocket"], silence = 45_000, credentials = "same-origin" } = options;
    const base = new URL(url, location.href).href.replace(/\/*$/, "/");
    this.#wanted = { base, tenantId, types: [types ?? []].flat().join(","), account, authorized, transports, silence, credentials };
    // Where only the token says whose events these are, another tab's may be another's.
    this.#ways = waysTo(this.#wanted, authorized && tenantId === undefined && account === undefined);
    this.#memory = `herald ${JSON.stringify([base, tenantId, this.#wanted.types, account, remember])}`;
    const remembered = remember ? recall(this.#memory) : undefined;
    if (after !== undefined && after !== null) this.#cursor = { after };
    else if (lastEventId ?? remembered) this.#cursor = { lastEventId: lastEventId ?? remembered };
    else this.#cursor = {};
    this.#watch();
    if (document.hidden && this.#pauses() === 0) this.#say({ state: "paused" });
    else if (document.prerendering) document.addEventListener("prerenderingchange", () => this.#show(), { once: true, signal: this.#left.signal });
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
    const link = (this.#link = this.#way(() => link === this.#link && this.#another()));
    this.#answered = false;
    link.port.onmessage = ({ data }) => link === this.#link && this.#hear(data);
    link.port.onleader = () => this.#begin(); // it knows nobody yet
    this.#begin();
    this.#watchdog = setInterval(() => {
      this.#quiet += 1;
      if (this.#quiet % ASK === 0) this.#tell({ alive: true });
      if (this.#quiet > (this.#answered ? LINK_SILENCE : LINK_TIMEOUT)) this.#another();
    }, 1_000);
  }

  /** Becomes a member of the channel, from where it is on. */
  #begin() {
    this.#round += 1;
    this.#read = 0;
    this.#quiet = 0;
    this.#tell({ join: this.#wanted, cursor: this.#cursor });
  }

  #tell(message) {
    this.#link?.port.postMessage({ ...message, round: this.#round });
  }

  /** The first way that the browser does not refuse: policies and settings may forbid some. */
  #way(failed) {
    for (;;) {
      try {
        return this.#ways[0](failed);
      } catch (error) {
        if (this.#ways.length === 1) throw error;
        this.#ways.shift();
      }
    }
  }

  /** The channel does not answer: a worker that ended, or one that cannot be. */
  #another() {
    if (!this.#answered && this.#ways.length > 1) this.#ways.shift();
    this.#join();
  }

  #leave() {
    clearInterval(this.#watchdog);
    this.#tell({ leave: true });
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

  #hear({ round, place, text, reset, state, detail, ask, gone }) {
    if (round !== this.#round) return;
    this.#quiet = 0;
    this.#answered = true;
    if (gone) return this.#begin();
    if (place !== undefined) this.#move(place, text);
    if (reset !== undefined) this.#call("onReset", { reason: reset });
    if (state === "failed") this.#end({ state, detail });
    else if (state !== undefined) this.#say({ state, detail });
    if (ask === "token") this.#giveToken(round);
  }

  #move(place, text) {
    if (text !== undefined) this.#call("onEvent", JSON.parse(text), text);
    this.#cursor = { lastEventId: place };
    this.#remember();
    this.#read += text?.length ?? 0;
    if (this.#read < ACKNOWLEDGE) return;
    this.#tell({ read: this.#read });
    this.#read = 0;
  }

  async #giveToken(round) {
    let said;
    try {
      said = { token: String(await this.#options.token()) };
    } catch (error) {
      said = { fault: `the page gave no token: ${error?.message ?? error}` };
    }
    if (round === this.#round) this.#tell(said);
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
