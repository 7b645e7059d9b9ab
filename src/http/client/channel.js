// One stream for all the tabs that want the same one. It lives in a SharedWorker, or in one of the
// tabs, and talks with each by a port.
//
//              has a cursor of its own             has come to where the shared stream is
// member: ──▶ follows a stream of its own ──▶ follows the shared one ──▶ gone (leaves, or is silent)
//   └── the first one: its stream is the shared one ──▶┘
//
// A stream's places come in one order, so two streams that have come to the same id are at the same
// place, whichever servers they come from: there a member changes over, and nothing is lost or double.
//
// From a member: {join, cursor, tells} (options; whether it can give a token), {token, fault}, {here},
// {leave}. To it: {place, text}, {reset}, {state, detail}, {ask} (for a token), {alive}.

import { Upstream } from "./upstream.js";

const ALIVE = 5_000; // ms between signs of life
const SILENT = 180_000; // ms; browsers may wake a hidden tab once a minute only
const TOKEN_TIMEOUT = 15_000; // ms

/** Takes members for as many streams as they want. */
export class Channels {
  #channels = new Map();
  #beats = setInterval(() => this.#channels.forEach((channel) => channel.beat()), ALIVE);
  // When the network is back, nobody waits for the next attempt.
  #online = () => this.#channels.forEach((channel) => channel.nudge());

  constructor() {
    addEventListener("online", this.#online);
  }

  accept(port) {
    let channel;
    port.onmessage = ({ data }) => {
      if (data.join) {
        const key = JSON.stringify(data.join);
        channel = this.#channels.get(key) ?? new Channel(data.join, () => this.#channels.delete(key));
        this.#channels.set(key, channel);
        channel.join(port, data);
      } else {
        channel?.hear(port, data);
      }
    };
  }

  close() {
    removeEventListener("online", this.#online);
    clearInterval(this.#beats);
    this.#channels.forEach((channel) => channel.close());
  }
}

class Channel {
  #options;
  #ended;
  #members = new Map(); // by port
  #shared = null;
  #token = null; // a promise of the one in use
  #answer = () => {}; // to what was asked of a member

  constructor(options, ended) {
    this.#options = options;
    this.#ended = ended;
  }

  join(port, { cursor, tells }) {
    const member = { port, tells, heardAt: performance.now(), own: null, passed: new Set() };
    this.#members.set(port, member);
    if (this.#shared === null) this.#shared = this.#open(cursor, (told) => this.#follow(told));
    else member.own = this.#open(cursor, (told) => this.#catchUp(member, told));
    this.#say(member, { ...(member.own ?? this.#shared).state, alive: true });
  }

  hear(port, { leave, token, fault }) {
    const member = this.#members.get(port);
    if (member === undefined) return;
    member.heardAt = performance.now();
    if (token !== undefined || fault !== undefined) this.#answer({ token, fault });
    if (leave) this.#drop(member);
  }

  beat() {
    for (const member of this.#members.values()) {
      if (performance.now() - member.heardAt > SILENT) this.#drop(member);
      else this.#say(member, { alive: true });
    }
  }

  nudge() {
    this.#shared?.nudge();
    for (const { own } of this.#members.values()) own?.nudge();
  }

  close() {
    for (const member of this.#members.values()) this.#drop(member);
  }

  #open(cursor, tell) {
    const told = {
      place: ({ id, text }) => tell({ place: id, text }),
      reset: (reset) => tell({ reset }),
      state: (state) => tell(state),
    };
    return new Upstream(this.#options, cursor, (bad) => this.#tokenOtherThan(bad), told);
  }

  /** The shared stream has something for all who follow it. */
  #follow(told) {
    for (const member of this.#members.values()) {
      if (member.own !== null) this.#changeOver(member);
      else if (told.place === undefined || !member.passed.delete(told.place)) this.#say(member, told);
      if (told.state === "failed" && member.own === null) this.#drop(member);
    }
  }

  /** The member's own stream has something for it. */
  #catchUp(member, told) {
    this.#say(member, told);
    if (told.state === "failed") this.#drop(member);
    else this.#changeOver(member);
  }

  /** Lets the member follow the shared stream, if one of the two has just been where the other is. */
  #changeOver(member) {
    const { own } = member;
    const shared = this.#shared;
    if (own?.place === undefined || shared?.place === undefined) return;
    const after = (stream, place) => {
      const at = stream.recent.findLastIndex(({ id }) => id === place);
      return at < 0 ? undefined : stream.recent.slice(at + 1);
    };
    const missed = after(shared, own.place);
    const ahead = after(own, shared.place);
    if (missed === undefined && ahead === undefined) return;
    own.close();
    member.own = null;
    if (missed !== undefined) missed.forEach(({ id, text }) => this.#say(member, { place: id, text }));
    else member.passed = new Set(ahead.map(({ id }) => id));
    this.#say(member, shared.state);
  }

  #drop(member) {
    this.#members.delete(member.port);
    member.own?.close();
    const last = this.#members.size === 0;
    // While there are members it goes on, for those who catch up with it.
    if (last || this.#shared?.state.state === "failed") {
      this.#shared?.close();
      this.#shared = null;
    }
    if (last) this.#ended();
  }

  #say(member, message) {
    member.port.postMessage(message);
  }

  /** The token that all of its streams ask with; a new one where `bad` is the one in use. */
  async #tokenOtherThan(bad) {
    if (bad !== undefined && (await this.#token?.catch(() => bad)) === bad) this.#token = null;
    const asked = (this.#token ??= this.#askForToken());
    const none = () => {
      if (this.#token === asked) this.#token = null;
    };
    asked.then((token) => token ?? none(), none);
    return asked;
  }

  /** Asks the members that have tokens to give, those first that were heard last. */
  async #askForToken() {
    const able = [...this.#members.values()].filter(({ tells }) => tells).sort((a, b) => b.heardAt - a.heardAt);
    let why = "no tab gives a token";
    for (const member of able) {
      const answer = new Promise((resolve) => (this.#answer = resolve));
      const late = new Promise((resolve) => setTimeout(resolve, TOKEN_TIMEOUT, { fault: "a tab did not give its token in time" }));
      this.#say(member, { ask: "token" });
      const { token, fault } = await Promise.race([answer, late]);
      if (token !== undefined) return token;
      why = fault;
    }
    if (able.length === 0) return undefined;
    throw new Error(why);
  }
}

// As the script of a SharedWorker it takes whoever connects.
if (typeof SharedWorkerGlobalScope !== "undefined") {
  const channels = new Channels();
  globalThis.onconnect = ({ ports: [port] }) => channels.accept(port);
}
