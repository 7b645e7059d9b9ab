// What the console's parts share: elements made without innerHTML, and requests whose errors are
// the server's own words. All text reaches the page as text nodes: events are other people's data.

const TIMEOUT = 10_000; // ms for one request

export const $ = (id) => document.getElementById(id);

// ---- Elements -----------------------------------------------------------------------------

/** Makes an element: properties by assignment, children as nodes or text. */
export function h(tag, properties, ...children) {
  const { data, ...rest } = properties ?? {};
  const node = Object.assign(document.createElement(tag), rest);
  Object.assign(node.dataset, data);
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
}

/** Sets text only when it differs, so that screen readers hear a message once. */
export function say(node, text, tone) {
  if (node.textContent !== text) node.textContent = text;
  if (tone) node.dataset.tone = tone;
}

/** Draws lists by key: nodes that stay keep their focus and whether they are open. */
export function keyed(parent, keyOf, make) {
  const shown = new Map();
  return (items) => {
    const keys = new Set(items.map(keyOf));
    for (const [key, entry] of shown) {
      if (keys.has(key)) continue;
      entry.node.remove();
      shown.delete(key);
    }
    let place = parent.firstElementChild;
    for (const item of items) {
      const key = keyOf(item);
      if (!shown.has(key)) shown.set(key, make(item));
      const { node, update } = shown.get(key);
      update?.(item);
      if (node === place) place = place.nextElementSibling;
      else parent.insertBefore(node, place);
    }
  };
}

const clock = new Intl.DateTimeFormat([], { hour: "2-digit", minute: "2-digit", second: "2-digit", hourCycle: "h23" });
const day = new Intl.DateTimeFormat([], { month: "short", day: "numeric" });

export function when(stamp) {
  const date = new Date(stamp);
  if (Number.isNaN(date.valueOf())) return h("span", {}, String(stamp));
  const today = date.toDateString() === new Date().toDateString();
  const text = today ? clock.format(date) : `${day.format(date)} ${clock.format(date)}`;
  return h("time", { dateTime: stamp, title: stamp }, text);
}

export function makeCopy(button, source) {
  button.addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(source.textContent);
      button.textContent = "Copied";
    } catch {
      // No clipboard outside https and localhost: select the text, the keyboard does the rest.
      getSelection().selectAllChildren(source);
      button.textContent = "Selected";
    }
    setTimeout(() => (button.textContent = "Copy"), 1_500);
  });
  return button;
}

/** A button that asks once more before it acts. */
export function twoStep(label, question, act) {
  const button = h("button", { type: "button" }, label);
  let timer;
  const calm = () => {
    clearTimeout(timer);
    button.textContent = label;
    button.classList.remove("sure");
  };
  button.addEventListener("blur", calm);
  button.addEventListener("click", () => {
    if (button.classList.contains("sure")) {
      calm();
      act(button);
      return;
    }
    button.textContent = question;
    button.classList.add("sure");
    timer = setTimeout(calm, 5_000);
  });
  return button;
}

// ---- Requests -----------------------------------------------------------------------------

class Refused extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

/** Parses JSON and keeps numbers that a double would change (1.50, long ids) as written, where the browser
 *  can tell (context.source, JSON.rawJSON). */
export function parse(text) {
  return JSON.parse(text, (_, value, context) =>
    typeof value === "number" && context && JSON.rawJSON && String(value) !== context.source
      ? JSON.rawJSON(context.source)
      : value);
}

const TOKEN = "herald.token";

/** What this tab sends to show who asks, where herald wants to know; it goes with the tab. */
export const token = {
  get() {
    try {
      return sessionStorage.getItem(TOKEN) ?? "";
    } catch {
      return this.kept ?? ""; // storage is blocked: it goes with the page
    }
  },
  set(text) {
    this.kept = text;
    try {
      sessionStorage.setItem(TOKEN, text);
    } catch {
      // As above.
    }
  },
  /** The tenant that it is for, if it says so. */
  tenant() {
    try {
      const claims = this.get().split(".")[1].replaceAll("-", "+").replaceAll("_", "/");
      return JSON.parse(new TextDecoder().decode(Uint8Array.from(atob(claims), (c) => c.charCodeAt(0)))).tenant;
    } catch {
      return undefined;
    }
  },
};

/** Shows the form for a token. */
export function askForToken() {
  $("token-form").hidden = false;
}

/** Opens a path in a new tab that a plain link could not, since it sends no token. */
export async function openWithToken(path) {
  const tab = open("about:blank");
  const answer = await fetch(path, { signal: AbortSignal.timeout(TIMEOUT), headers: { authorization: `Bearer ${token.get()}` } });
  const text = new Blob([await answer.text()], { type: "text/plain; charset=utf-8" });
  if (tab) tab.location = URL.createObjectURL(text);
}

/** The JSON answer; throws Refused with the problem's own words (RFC 9457). */
export async function request(path, { allow, headers, ...options } = {}) {
  let answer, text;
  const bearer = token.get();
  if (bearer) headers = { ...headers, authorization: `Bearer ${bearer}` };
  try {
    answer = await fetch(path, { signal: AbortSignal.timeout(TIMEOUT), cache: "no-store", headers, ...options });
    text = await answer.text();
  } catch (error) {
    throw new Refused(0, error.name === "TimeoutError" ? "herald did not answer in time" : "herald cannot be reached");
  }
  let body;
  try {
    body = parse(text);
  } catch {
    if (answer.ok) throw new Refused(answer.status, `${path.split("?")[0]} answered something that is not JSON`);
  }
  if (answer.ok || answer.status === allow) return body;
  if (answer.status === 401) askForToken();
  const { title = answer.statusText, detail, field } = body ?? {};
  throw new Refused(answer.status, `${answer.status} ${title}${detail ? `: ${detail}` : ""}${field ? ` (${field})` : ""}`);
}

export const post = (path, body) =>
  request(path, { method: "POST", headers: { "content-type": "application/json" }, body });

export function query(parameters) {
  return new URLSearchParams(Object.entries(parameters).filter(([, value]) => value !== ""));
}

/** Runs a step and shows at `node` what goes wrong, or else what the step returns; whether it
 *  went well. */
export async function showing(node, step) {
  try {
    say(node, (await step()) ?? "");
    return true;
  } catch (error) {
    say(node, error.message);
    return false;
  }
}
