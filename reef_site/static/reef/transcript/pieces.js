// Long texts, one piece of them at a time: the page never holds more of a text than that.
import { byId, get, showFailure } from "../core.js";

async function show(button) {
  const note = button.closest(".piece")?.previousElementSibling ?? button.closest(".long");
  const label = button.textContent;
  const fragment = await get(button.dataset.piece).catch((error) => showFailure(byId("problem"), error));
  if (!fragment) return;
  const piece = fragment.firstElementChild;
  byId(piece.id)?.remove();
  note.after(piece);
  const same = [...piece.querySelectorAll("button:enabled")].find((each) => each.textContent === label);
  (same ?? piece).focus({ preventScroll: true });
  piece.scrollIntoView({ block: "start", behavior: "instant" });
}

document.addEventListener("click", (event) => {
  const button = event.target.closest("[data-piece]");
  if (button) return void show(button);
  const piece = event.target.closest("[data-close-piece]")?.closest(".piece");
  if (!piece) return;
  const note = piece.previousElementSibling;
  piece.remove();
  note.querySelector("[data-piece]").focus();
});
