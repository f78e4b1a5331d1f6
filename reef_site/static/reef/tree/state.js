// The state of the live tree in the page's URL: filter, order, open nodes, and the VM of the side panel.
import { urls } from "./common.js";

export const query = () => new URLSearchParams(location.search);
// Other pages show the tree, too; their URLs are their own.
export const isOwnPage = () => !urls.at && location.pathname === new URL(urls.pageUrl, location).pathname;

export function urlWith(values, params = query()) {
  for (const [name, value] of Object.entries(values)) {
    if (value) params.set(name, value);
    else params.delete(name);
  }
  return params.size ? `?${params}` : location.pathname;
}

// Change parameters of the URL without a new entry in the history.
export function change(values) {
  if (isOwnPage()) history.replaceState(history.state, "", urlWith(values));
}
