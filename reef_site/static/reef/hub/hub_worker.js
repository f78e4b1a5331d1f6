// The shared worker: one hub for all windows that connect.
import { Hub } from "./hub.js";

const hub = new Hub();

self.addEventListener("connect", (event) => {
  const port = event.ports[0];
  const window = { send: (message) => port.postMessage(message) };
  port.addEventListener("message", (sent) => hub.onMessage(window, sent.data));
  port.start();
});
