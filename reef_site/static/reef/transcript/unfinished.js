// The text of a block that is being written: first what the server has formatted, then plain text.

// Elements whose last words the plain text continues.
const CONTINUED = "p, ul, ol, li, blockquote, pre, pre > code, h1, h2, h3, h4, h5, h6";

// The text node that a block's text is appended to.
export function textNodeOf(block) {
  const place = block.querySelector("[data-said]");
  if (!place) return null;
  if (place.firstChild?.nodeType !== Node.TEXT_NODE) place.replaceChildren("");
  if (!place.firstChild) place.append(document.createTextNode(""));
  return place.firstChild;
}

// Move the plain text into the paragraph, list item or code that it continues.
export function joinRest(block) {
  const formatted = block.querySelector("[data-formatted]");
  if (!formatted || !("continues" in formatted.dataset)) return;
  let last = formatted;
  while (last.lastElementChild?.matches(CONTINUED)) last = last.lastElementChild;
  last.append(block.querySelector("[data-said]"));
}

// Begin the text anew. Returns the element of the plain text.
export function resetText(block) {
  const place = block.querySelector("[data-said]");
  const formatted = block.querySelector("[data-formatted]");
  if (formatted) {
    formatted.after(place);
    formatted.replaceChildren();
    delete formatted.dataset.continues;
  }
  return place;
}
