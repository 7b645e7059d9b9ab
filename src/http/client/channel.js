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
// From a member: {join, cursor} (what it wants, and from where on), {token, fault}, {read} (so many
// characters), {alive} (is the channel?), {leave}. To it: {place, text}, {reset}, {state, detail},
// {ask} (for a token), {alive}, {gone} (it is no member any more, and may join again). All of them bear
// the `round` of the join that they belong to: what is under way when a member joins again is void.

import { Upstream } from "./upstream.js";

const SWEEP = 30_000; // ms between looks at who is still there
const SILENT = 180_000; // ms; browsers may wake a hidden tab once a minute only
const OWED = 1 << 23; // characters that a member may have before it; beyond, it is let go with its cursor
const TOKEN_TIMEOUT = 15_000; // ms

/** Takes members for as many streams as they want. */
export class Channels {
  #channels = new Map();
  #sweeps = setInterval(() => this.#channels.forEach((channel) => channel.sweep()), SWEEP);
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
      } else if (!channel?.hear(port, data) && !data.leave) {
        port.postMessage({ gone: true, round: data.round });
      }
    };
  }

  close() {
    removeEventListener("online", this.#online);
    clearInterval(this.#sweeps);
    this.#channels.forEach((channel) => channel.close());
  }
}

class Channel {
  #options;
  #ended;
  #members = new Map(); // by port
  #shared = null;
  #token = null; // a promise of the one in use
  #asked = null; // the member that is to give one
  #answer = () => {};

  constructor(options, ended) {
    this.#options = options;
    this.#ended = ended;
  }

  join(port, { cursor, round }) {
    const before = this.#members.get(port);
    if (before !== undefined) this.#forget(before);
    const member = { port, round, heardAt: performance.now(), owed: 0, own: null, passed: new Set() };
    this.#members.set(port, member);
    const stream = this.#open(cursor, (told) => (stream === this.#shared ? this.#follow(told) : this.#catchUp(member, told)));
    if (this.#shared === null) this.#shared = stream;
    else member.own = stream;
    this.#say(member, { state: "connecting" });
  }

  /** Whether it is a member's. */
  hear(port, { round, leave, token, fault, read, alive }) {
    const member = this.#members.get(port);
    if (member?.round !== round) return false;
    member.heardAt = performance.now();
    if (read !== undefined) member.owed -= read;
    if (alive) this.#say(member, { alive });
    if ((token !== undefined || fault !== undefined) && member === this.#asked) this.#answer({ token, fault });
    if (leave) this.#drop(member);
    return true;
  }

  sweep() {
    for (const member of this.#members.values()) {
      if (performance.now() - member.heardAt > SILENT) this.#letGo(member);
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
      state: tell,
    };
    return new Upstream(this.#options, cursor, (bad) => this.#tokenOtherThan(bad), told, this.#shared?.transport);
  }

  /** The shared stream has something for all who follow it. */
  #follow(told) {
    if (told.state === "failed") this.#shared = null;
    for (const member of this.#members.values()) {
      if (member.own !== null) {
        this.#changeOver(member);
        continue;
      }
      if (told.reset === "unknown cursor") member.passed.clear();
      if (!has(member, told)) this.#say(member, told);
      if (told.state === "failed") this.#drop(member);
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
    if (own === null) return;
    // The one that was shared is no more.
    this.#shared ??= own;
    const shared = this.#shared;
    if (shared === own) {
      member.own = null;
      return;
    }
    if (own.place === undefined || shared.place === undefined) return;
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
    if (shared.state.state === "waiting") shared.nudge();
  }

  /** It does not answer, or does not read. Should it be there, it comes back with its cursor. */
  #letGo(member) {
    member.port.postMessage({ gone: true, round: member.round });
    this.#drop(member);
  }

  #forget(member) {
    this.#members.delete(member.port);
    member.own?.close();
    if (this.#asked === member) this.#answer({ fault: "the tab that was asked for a token left" });
  }

  #drop(member) {
    if (this.#members.get(member.port) !== member) return;
    this.#forget(member);
    member.port.onend?.();
    // While there are members it goes on, for those who catch up with it.
    if (this.#members.size > 0) return;
    this.#shared?.close();
    this.#shared = null;
    this.#ended();
  }

  #say(member, message) {
    member.port.postMessage({ ...message, round: member.round });
    member.owed += message.text?.length ?? 0;
    if (member.owed > OWED) this.#letGo(member);
  }

  /** The token that all of its streams ask with; a new one where `bad` is the one in use. */
  async #tokenOtherThan(bad) {
    if (!this.#options.authorized) return undefined;
    const known = this.#token;
    if (bad !== undefined && (await known?.catch(() => bad)) === bad && this.#token === known) this.#token = null;
    if (this.#token !== null) return this.#token;
    const asked = (this.#token = this.#askForToken());
    asked.catch(() => {
      if (this.#token === asked) this.#token = null;
    });
    return asked;
  }

  /** Asks its members, those first that were heard last. */
  async #askForToken() {
    let why = "no tab is there to give a token";
    for (const member of [...this.#members.values()].sort((a, b) => b.heardAt - a.heardAt)) {
      if (this.#members.get(member.port) !== member) continue;
      this.#asked = member;
      const { token, fault } = await new Promise((resolve) => {
        const late = setTimeout(resolve, TOKEN_TIMEOUT, { fault: "a tab did not give its token in time" });
        this.#answer = (answer) => resolve(answer, clearTimeout(late));
        this.#say(member, { ask: "token" });
      });
      this.#asked = null;
      if (token !== undefined) return token;
      why = fault;
    }
    throw new Error(why);
  }
}

/** Whether the member was ahead of what the shared stream says now. */
function has({ passed }, { place, text }) {
  if (place === undefined) return false;
  if (passed.delete(place)) return true;
  // A stream that begins anew, with a place and no event, may do so where the member has been.
  if (text === undefined) return passed.size > 0;
  passed.clear();
  return false;
}

// As the script of a SharedWorker it takes whoever connects.
if (typeof SharedWorkerGlobalScope !== "undefined") {
  const channels = new Channels();
  globalThis.onconnect = ({ ports: [port] }) => channels.accept(port);
}
