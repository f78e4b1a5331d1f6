// Shows the offline page while reef cannot be reached. Nothing else is answered from a cache.
const FILES = [{% for file in files %}"{{ file|escapejs }}"{% if not forloop.last %}, {% endif %}{% endfor %}];
const [OFFLINE, ...ASSETS] = FILES;
const CACHE = `reef-offline ${ASSETS.join(" ")}`;

self.addEventListener("install", (event) => {
  event.waitUntil(caches.open(CACHE).then((cache) => cache.addAll(FILES)).then(() => self.skipWaiting()));
});

self.addEventListener("activate", (event) => {
  const isOld = (name) => name.startsWith("reef-offline ") && name !== CACHE;
  event.waitUntil(caches.keys().then((names) => Promise.all(names.filter(isOld).map((name) => caches.delete(name)))));
});

self.addEventListener("fetch", (event) => {
  const { request } = event;
  const { pathname } = new URL(request.url);
  if (request.mode === "navigate" && request.method === "GET")
    event.respondWith(fetch(request).catch(() => caches.match(OFFLINE)));
  else if (ASSETS.includes(pathname)) event.respondWith(fetch(request).catch(() => caches.match(pathname)));
});

// Shows the page that a notification is about, in a window of reef if one is open.
self.addEventListener("notificationclick", (event) => {
  event.notification.close();
  const { path } = event.notification.data;
  const open = async () => {
    const [window] = await clients.matchAll({ type: "window" });
    if (!window) return clients.openWindow(path);
    await window.focus();
    return window.navigate(path);
  };
  event.waitUntil(open());
});
