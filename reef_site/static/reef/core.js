// What all scripts of a page need: requests, CSRF, fragments, the end of the sign-in.
//
// URLs come from the page's attributes, so they are right below a sub-path. Failures carry the
// server's own sentence.

const TIMEOUT = 60_000;
const root = document.documentElement;

export class RequestFailed extends Error {
  constructor(message, status = 0) {
    super(message);
    this.status = status;
  }
}

// Whether a key belongs to a field, a dialog or the tree, and is no key of the page.
export const isTyping = ({ target }) =>
  target.matches("input, textarea, select, [contenteditable]") || Boolean(target.closest("dialog, [role=tree]"));

export const byId = (id) => document.getElementById(id);

export function parse(html) {
  const holder = document.createElement("template");
  holder.innerHTML = html;
  return holder.content;
}

const isSignIn = (response) => new URL(response.url).pathname === root.dataset.signin;

// Whether a response with this final URL is the sign-in page, for requests made by htmx.
export function isSignInPage(url) {
  const over = Boolean(url) && isSignIn({ url });
  if (url) signedOut(over);
  return over;
}

const signInListeners = [];

// `listener(isOver)` is called with each response: whether the sign-in has ended.
export const onSignIn = (listener) => signInListeners.push(listener);

// Show a note and leave the page as it is, because it may contain unsaved text.
function signedOut(yes) {
  for (const listener of signInListeners) listener(yes);
  const note = byId("signed-out");
  if (!yes) return void note?.remove();
  if (note) return;
  const next = encodeURIComponent(location.pathname + location.search);
  const fresh = parse(
    '<p class="note is-error" role="alert" id="signed-out">Your sign-in has ended. <a>Sign in again</a></p>',
  );
  fresh.querySelector("a").href = `${root.dataset.signin}?next=${next}`;
  byId("main").prepend(fresh);
}

const signedOutError = () => new RequestFailed("Your sign-in has ended. Sign in again.", 401);

export async function request(url, options = {}) {
  const headers = { "Reef-Script": "1", ...options.headers };
  // Requests that change something have no time limit: the server responds in any case.
  const signal = options.method ? undefined : AbortSignal.timeout(TIMEOUT);
  let response;
  try {
    response = await fetch(url, { signal, ...options, headers });
  } catch (error) {
    if (error instanceof TypeError || error.name === "TimeoutError")
      throw new RequestFailed("reef does not answer.");
    throw error;
  }
  if (isSignIn(response)) {
    signedOut(true);
    throw signedOutError();
  }
  signedOut(false);
  return response;
}

// Make an error from a response, with the server's sentence.
export async function failure(response) {
  if (response.status === 403) {
    // A signed-out form fails by its CSRF token first, so check the sign-in.
    const probe = await fetch(location.href, { method: "HEAD" }).catch(() => null);
    if (probe && isSignIn(probe)) {
      signedOut(true);
      return signedOutError();
    }
  }
  return failureOf(response.headers.get("Content-Type") || "", await response.text(), response.status);
}

export function failureOf(type, text, status) {
  return new RequestFailed(sentence(type, text) || `reef answered ${status}.`, status);
}

function sentence(type, text) {
  if (type.startsWith("text/plain")) return text.trim();
  if (type.startsWith("text/html")) {
    const title = parse(text).querySelector("h1")?.textContent.trim();
    return title && `${title}.`;
  }
  try {
    return String(JSON.parse(text).error || "");
  } catch {
    return "";
  }
}

export async function get(url, options) {
  const response = await request(url, options);
  if (!response.ok) throw await failure(response);
  return parse(await response.text());
}

export const csrfToken = () => JSON.parse(document.body.getAttribute("hx-headers"))["X-CSRFToken"];

export function postJson(url, body) {
  const headers = { "Content-Type": "application/json", "X-CSRFToken": csrfToken() };
  return get(url, { method: "POST", headers, body: JSON.stringify(body) });
}

// Show a problem in this element, or hide the element without one.
export function showProblem(element, problem = "") {
  element.hidden = !problem;
  element.textContent = problem;
}

// Show the sentence of a failed request; other errors are bugs, and pass.
export function showFailure(element, error) {
  if (!(error instanceof RequestFailed)) throw error;
  showProblem(element, error.message);
}
