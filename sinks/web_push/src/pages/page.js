'use strict';

const $ = (id) => document.getElementById(id);
const here = (path) => new URL(`push/${path}`, document.baseURI);
const remembered = 'herald.push';
let registration;

function show(text, on = false) {
  $('state').textContent = text;
  $('state').classList.toggle('on', on);
}

function fail(error) {
  $('error').textContent = error?.message ?? '';
  $('error').hidden = !error;
}

async function call(method, url, body) {
  const headers = { 'Content-Type': 'application/json' };
  const token = $('token').value.trim();
  if (token) headers.Authorization = `Bearer ${token}`;
  const response = await fetch(url, { method, headers, body: body && JSON.stringify(body) });
  if (response.status === 204) return null;
  const answer = await response.json().catch(() => ({}));
  if (!response.ok) throw new Error(answer.detail ?? `herald answered ${response.status}`);
  return answer;
}

// Base64url to the bytes that pushManager wants; some browsers take no text.
function bytes(base64url) {
  const text = atob(base64url.replace(/-/g, '+').replace(/_/g, '/'));
  return Uint8Array.from(text, (c) => c.charCodeAt(0));
}

// Without a way out, browsers try to reach their push service for as long as they run.
function within(seconds, work) {
  const late = new Promise((_, reject) => {
    setTimeout(reject, seconds * 1000, new Error("This browser's push service cannot be reached."));
  });
  return Promise.race([work, late]);
}

async function active() {
  registration ??= await navigator.serviceWorker.register(here('worker.js'));
  const worker = registration.active ?? registration.waiting ?? registration.installing;
  if (worker && worker.state !== 'activated') {
    await new Promise((resolve, reject) => {
      const look = () => {
        if (worker.state === 'activated') resolve();
        if (worker.state === 'redundant') reject(new Error('the service worker did not start'));
      };
      worker.addEventListener('statechange', look);
      look();
    });
  }
  return registration.pushManager;
}

async function refresh() {
  const subscription = await (await active()).getSubscription();
  const kept = JSON.parse(localStorage.getItem(remembered) ?? 'null');
  const on = Boolean(subscription && kept);
  $('unsubscribe').disabled = !subscription;
  show(on ? `Subscribed to ${kept.tenantId}${kept.userId ? ` as ${kept.userId}` : ''}.` : 'Not subscribed.', on);
}

async function subscribe() {
  if (await Notification.requestPermission() !== 'granted') {
    throw new Error('This browser does not allow notifications here; allow them in its settings.');
  }
  const push = await active();
  const { publicKey } = await call('GET', here('key'));
  const applicationServerKey = bytes(publicKey);
  const options = { userVisibleOnly: true, applicationServerKey };
  const old = await push.getSubscription();
  // A subscription is bound to its key: after a change of keys it must be made anew.
  const same = old && String(new Uint8Array(old.options.applicationServerKey ?? [])) === String(applicationServerKey);
  if (old && !same) await old.unsubscribe();
  const subscription = await within(30, push.subscribe(options));
  const who = { tenantId: $('tenant').value.trim(), userId: $('user').value.trim() || undefined };
  await call('POST', here('subscriptions'), { ...who, subscription });
  localStorage.setItem(remembered, JSON.stringify(who));
}

async function unsubscribe() {
  const subscription = await (await active()).getSubscription();
  const kept = JSON.parse(localStorage.getItem(remembered) ?? 'null');
  if (subscription && kept) {
    const { endpoint } = subscription;
    // What herald has forgotten already need not be forgotten again.
    await call('DELETE', here('subscriptions'), { tenantId: kept.tenantId, endpoint }).catch(() => {});
  }
  await subscription?.unsubscribe();
  localStorage.removeItem(remembered);
}

async function test() {
  await call('POST', new URL('events', document.baseURI), {
    tenantId: $('tenant').value.trim(),
    type: 'push.test',
    payload: { text: `Sent at ${new Date().toLocaleTimeString()}`, userId: $('user').value.trim() || undefined },
  });
}

function received({ data }) {
  if (!data?.herald) return;
  const { title, body, type, eventId, tenantId } = data.herald;
  const item = document.createElement('li');
  const origin = [type, tenantId, eventId].filter(Boolean).join(' · ');
  for (const [text, faint] of [[title], [body], [origin, true]]) {
    const line = document.createElement('p');
    line.textContent = text ?? '';
    line.classList.toggle('faint', Boolean(faint));
    item.append(line);
  }
  item.firstChild.style.fontWeight = '600';
  $('received').prepend(item);
  while ($('received').children.length > 100) $('received').lastChild.remove();
  $('count').textContent = Number($('count').textContent) + 1;
  $('empty').hidden = true;
}

// One thing at a time, and what went wrong stands on the page.
function act(work) {
  return async (event) => {
    event?.preventDefault();
    fail(null);
    $('form').inert = true;
    // Asking the push service can take a while.
    show('One moment …');
    try {
      await work();
      await refresh();
    } catch (error) {
      fail(error);
      await refresh().catch(() => show('Not subscribed.'));
    } finally {
      $('form').inert = false;
    }
  };
}

if ('serviceWorker' in navigator && 'PushManager' in window && 'Notification' in window) {
  $('tenant').value = JSON.parse(localStorage.getItem(remembered) ?? 'null')?.tenantId ?? '';
  $('form').addEventListener('submit', act(subscribe));
  $('unsubscribe').addEventListener('click', act(unsubscribe));
  $('test').addEventListener('click', () => $('form').reportValidity() && act(test)());
  navigator.serviceWorker.addEventListener('message', received);
  // Messages wait until the page says that it is ready.
  navigator.serviceWorker.startMessages();
  act(async () => {})();
} else {
  show('This browser cannot receive Web Push here. It needs https, or http on localhost.');
  $('form').inert = true;
}
