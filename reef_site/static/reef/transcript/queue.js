// The queue of messages: its keys, and the text that is being edited in it.
import { byId, showProblem } from "../core.js";

const queue = () => byId("queue");

// Alt+↑ and Alt+↓ move the message whose controls have the focus.
const moves = { ArrowUp: "up", ArrowDown: "down" };

document.addEventListener("keydown", (event) => {
  if (!event.altKey || !moves[event.key] || event.target.localName === "textarea") return;
  const button = event.target.closest("#queue li")?.querySelector(`[data-move=${moves[event.key]}]`);
  if (!button) return;
  event.preventDefault();
  button.click();
});

const editing = () =>
  [...queue().querySelectorAll("textarea")].filter((text) => text.value !== text.defaultValue);

// Run `update`, which may replace the queue: the focus stays, and texts that were being edited when
// their messages left the queue go to the end of the composer.
export function keepQueue(update) {
  const focused = document.activeElement?.closest("#queue [id]")?.id;
  const texts = editing();
  update();
  if (focused && document.activeElement?.id !== focused) byId(focused)?.focus();
  const lost = texts.filter((text) => !text.isConnected).map((text) => text.value);
  const composer = byId("message");
  if (!lost.length || !composer) return;
  const end = composer.value.length;
  composer.setRangeText((end ? "\n\n" : "") + lost.join("\n\n"), end, end, "preserve");
  composer.dispatchEvent(new Event("input"));
  showProblem(byId("refused"), "A message left the queue while you edited it. Your text is here.");
}

// Close the editor whose text was saved.
export function closeEditor(form) {
  const details = form?.closest("details.edit");
  if (!details) return;
  for (const text of details.querySelectorAll("textarea")) text.defaultValue = text.value;
  details.open = false;
  // Its message may have left the queue.
  byId(details.id)?.querySelector("summary").focus();
}
