// Updates of parts of a page: elements that stay keep their focus, selection, scroll position, open
// details and typed text.
import { byId } from "./core.js";
import { badge } from "./live.js";
import { unlessSelected } from "./selection.js";
import { tick } from "./times.js";
import { Idiomorph } from "./vendor/idiomorph-0.8.0.esm.js";

// What the reader has changed wins over what the server has rendered.
function keepState(old, fresh) {
  // Parts that were loaded later are not in what the server renders first.
  if (old.id === "live" || "keep" in old.dataset) return false;
  if (old.localName === "details" && !("auto" in old.dataset)) {
    fresh.open = old.open;
    delete fresh.dataset.auto;
  } else if (old.type === "checkbox" || old.type === "radio") {
    if (old.checked !== old.defaultChecked) fresh.checked = old.checked;
  } else if (old.localName === "select") {
    const rendered = [...old.options].find((option) => option.defaultSelected) ?? old.options[0];
    const isChanged = rendered && rendered.value !== old.value;
    if (isChanged && [...fresh.options].some((option) => option.value === old.value))
      fresh.value = old.value;
  } else if (old.matches("input, textarea") && old.value !== old.defaultValue) {
    fresh.value = old.value;
  }
  return true;
}

const callbacks = {
  beforeNodeMorphed: (old, fresh) => old.nodeType !== Node.ELEMENT_NODE || keepState(old, fresh),
};

export const morph = (old, fresh) => Idiomorph.morph(old, fresh, { morphStyle: "outerHTML", callbacks });
export const morphChildren = (old, fresh) =>
  Idiomorph.morph(old, fresh.childNodes, { morphStyle: "innerHTML", callbacks });

// Update an element, or later if text in it is selected.
export function replace(old, fresh) {
  unlessSelected(old, () => old.isConnected && morph(old, fresh));
}

// Update each element of the fragment, by id.
export function swap(fragment) {
  for (const fresh of [...fragment.children]) {
    const old = byId(fresh.id);
    if (old) replace(old, fresh);
  }
  badge.paint();
  tick();
}

// Details that opened automatically close again, unless the reader has clicked them.
document.addEventListener("click", (event) => {
  delete event.target.closest("summary")?.parentElement.dataset.auto;
});
