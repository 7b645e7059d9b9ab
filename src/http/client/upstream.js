// One stream of herald that is kept up.
//
//   connecting ──▶ open ──▶ waiting ──▶ connecting …      failed: herald refused, and would again
//        └─────────────────────┘
//
// It goes on from the last id that it was told, so each event comes once, in order. A connection that
// says nothing for too long is given up: it can be dead without either end knowing.

import { Refused, transports, Unauthorized } from "./transports.js";

const OPEN_TIMEOUT = 10_000; // ms; at most; a proxy may keep back what never ends
const LONGEST_WAIT = 30_000; // ms
const TRIES = 2; // in vain, before another transport is tried
const RECENT = 256; // places that are remembered, to find out where another stream is

export class Upstream {
  /** The last places, oldest first: an event's id and text, or the id that a stream began with. */
  recent = [];
  state = { state: "connecting" };
  #options;
  #told;
  #token;
  #cursor;
  #closed = false;
  #failures = 0; // since it was somewhere
  #transport = 0;
  #wait = 0; // ms; what herald asked for
  #stop = new AbortController(); // the attempt that is under way
  #wake = () => {}; // ends the wait for the next one

  /**
   * @param options `base`, `tenantId`, `types`, `transports`, `silence`, `credentials`
   * @param cursor where it begins: `{ after }` or `{ lastEventId }`, or neither for what comes next
   * @param token gives a token that is not the one given, which did not do
   * @param told has a function each for `place`, `reset` and `state`
   */
  constructor(options, cursor, token, told) {
    this.#options = options;
    this.#cursor = cursor;
    this.#token = token;
    this.#told = told;
    this.#run();
  }

  /** The id of the last event, or the one that the stream began with. */
  get place() {
    return this.recent.at(-1)?.id;
  }

  /** Makes the next attempt now. */
  nudge() {
    this.#wake();
  }

  close() {
    this.#closed = true;
    this.#stop.abort(new Error("closed"));
    this.nudge();
  }

  async #run() {
    let bad; // a token that did not do
    while (!this.#closed) {
      this.#say("connecting");
      let why = "the stream ended";
      let token;
      try {
        token = await this.#token(bad);
        bad = undefined;
        if (await this.#attempt(token)) bad = token;
      } catch (error) {
        if (this.#closed) return;
        if (error instanceof Refused) return this.#say("failed", error.message);
        if (error instanceof Unauthorized) {
          if (token === undefined) return this.#say("failed", error.message);
          bad = token;
        }
        why = error.message;
      }
      if (this.#closed) return;
      if (++this.#failures % TRIES === 0) this.#transport += 1;
      // A stream that was open goes on at once with another token.
      const longest = Math.min(1_000 * 2 ** this.#failures, LONGEST_WAIT);
      const wait = bad !== undefined && this.#failures === 1 ? 0 : this.#wait || Math.random() * longest;
      this.#wait = 0;
      this.#say("waiting", why);
      await new Promise((resolve) => {
        const timer = setTimeout(resolve, wait);
        this.#wake = () => resolve(clearTimeout(timer));
      });
    }
  }

  /** Follows the stream until it ends; whether that is because its token expired. */
  async #attempt(token) {
    const { base, tenantId, types, credentials, silence, transports: names } = this.#options;
    const by = names[this.#transport % names.length];
    const query = new URLSearchParams();
    for (const [name, value] of Object.entries({ tenantId, types, ...this.#cursor })) {
      if (value !== undefined && value !== "") query.set(name, value);
    }
    const stop = (this.#stop = new AbortController());
    let heardAt = performance.now();
    let opened = false;
    let expired = false;
    const watchdog = setInterval(() => {
      if (performance.now() - heardAt > (opened ? silence : Math.min(OPEN_TIMEOUT, silence))) stop.abort(new Error("nothing was heard for too long"));
    }, 500);
    const hear = ({ id, text, reset, expired: ends, wait }) => {
      if (stop.signal.aborted) return;
      heardAt = performance.now();
      if (!opened) this.#say("open", by);
      opened = true;
      if (wait !== undefined) this.#wait = wait;
      if (reset !== undefined) this.#lost(reset);
      if (ends) expired = true;
      if (id !== undefined) this.#move(id, text);
    };
    try {
      await transports[by]({ base, query, token, credentials, signal: stop.signal }, hear);
    } finally {
      clearInterval(watchdog);
      stop.abort(new Error("the attempt is over"));
    }
    return expired;
  }

  #move(id, text) {
    this.#failures = 0; // herald begins each stream with a place
    this.#cursor = { lastEventId: id };
    this.recent.push({ id, text });
    if (this.recent.length > RECENT) this.recent.shift();
    this.#told.place({ id, text });
  }

  #lost(reason) {
    this.recent = [];
    this.#told.reset(reason);
  }

  #say(state, detail) {
    this.state = { state, detail };
    this.#told.state(this.state);
  }
}
