// The page of a browser channel: asks the browser for its permission.
import { byId } from "../core.js";

const allow = byId("allow");

function paint() {
  const state = "Notification" in window ? Notification.permission : "denied";
  allow.hidden = state !== "default";
  byId("denied").hidden = state !== "denied";
}

allow.querySelector("button").addEventListener("click", async () => {
  await Notification.requestPermission();
  paint();
});
paint();
