/** An event, as `GET /events` has it too. */
export interface HeraldEvent<Payload = unknown> {
  eventId: string;
  /** The database's number; what `after` takes. */
  aggregateId: number;
  tenantId: string;
  type: string;
  payload: Payload;
  /** RFC 3339, UTC. */
  createdAt: string;
}

export type Transport = "sse" | "websocket";

export type State =
  /** A connection is being made. */
  | "connecting"
  /** Events come as they happen. */
  | "open"
  /** The connection was lost, or could not be had; the next attempt comes by itself. */
  | "waiting"
  /** The page is hidden; it goes on where it was. */
  | "paused"
  /** herald refused, for a reason that will not pass; this is the end. */
  | "failed"
  /** By `close()`. */
  | "closed";

export interface Options<Payload = unknown> {
  /** Where herald is; by default where this module came from. */
  url?: string | URL;
  /** May be left out where the token names it. */
  tenantId?: string;
  /** Types that are wanted, each exact or with `*` at its end: `["order.*"]`. All by default. */
  types?: string | string[];
  /** Begins after the event of this `aggregateId`: the `nextAfter` of a page that was read by REST. */
  after?: number | string | null;
  /** Begins after the event of this id. Without `after` and this one the stream begins with what the
   * page had last before it was loaded again (`remember`), or else with what comes next. */
  lastEventId?: string;
  /** A token to ask with; called again when that one has expired or is not believed. */
  token?: () => string | Promise<string>;
  /** Which way events come; the next one where one does not work. By default `["sse", "websocket"]`. */
  transports?: Transport[];
  /** ms without a sign of life after which a connection is given up: more than two of the server's
   * `heartbeat`. By default 45,000. */
  silence?: number;
  /** Whether cookies go along, as `fetch` has it. By default `"same-origin"`. */
  credentials?: RequestCredentials;
  /** Whether a page that is loaded again goes on where it was (in `sessionStorage`). By default true. */
  remember?: boolean;
  /** Whether a hidden page leaves its stream, at once or after so many ms, and goes on exactly when it is
   * seen again. By default false. */
  pauseWhenHidden?: boolean | number;
  /** Each event, once, in order. `text` is the JSON as it came, for numbers that JavaScript cannot hold. */
  onEvent?: (event: HeraldEvent<Payload>, text: string) => void;
  /** Events may be missing here (`"unknown cursor"`, `"events expired"`): read the page's data again. */
  onReset?: (reset: { reason: string }) => void;
  /** `detail` says which transport is open, or why there is none. */
  onState?: (change: { state: State; detail?: string }) => void;
}

export interface Stream {
  readonly state: State;
  /** The place that the page has come to. */
  readonly lastEventId: string | undefined;
  /** Ends it for this page; other tabs go on. */
  close(): void;
}

/** Follows a tenant's events. All tabs of a browser that want the same share one connection. */
export function connect<Payload = unknown>(options: Options<Payload>): Stream;
