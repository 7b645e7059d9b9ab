// Shows what herald pushes, and passes it to its open pages.

// A new version takes over at once, so that page and worker are of one make.
self.addEventListener('install', () => self.skipWaiting());
self.addEventListener('activate', (event) => event.waitUntil(self.clients.claim()));

self.addEventListener('push', (event) => {
  event.waitUntil(received(read(event.data)));
});

// Browsers demand a notification for every push, also for one that cannot be read.
function read(data) {
  try {
    return data.json();
  } catch {
    return { title: 'Notification', body: data ? data.text() : '' };
  }
}

async function received(message) {
  // A push that comes twice replaces itself: the tag is the event's id.
  const shown = self.registration.showNotification(message.title, {
    body: message.body,
    tag: message.eventId,
    data: { url: message.url },
  });
  // The page lies outside the worker's scope, hence the uncontrolled ones.
  const pages = await self.clients.matchAll({ type: 'window', includeUncontrolled: true });
  for (const page of pages) page.postMessage({ herald: message });
  await shown;
}

self.addEventListener('notificationclick', (event) => {
  event.notification.close();
  const url = event.notification.data?.url;
  event.waitUntil(open(url ? new URL(url, self.location.origin) : null));
});

async function open(url) {
  const pages = await self.clients.matchAll({ type: 'window', includeUncontrolled: true });
  const there = url ? pages.find((page) => page.url === url.href) : pages[0];
  if (there) await there.focus();
  else if (url && /^https?:$/.test(url.protocol)) await self.clients.openWindow(url.href);
}
