// Buttons that copy: whole answers and outputs, whose text the server has, and code blocks.
import { byId, failure, request, RequestFailed, showProblem } from "../core.js";

const SHOWN_FOR = 2000;

async function textOf(button) {
  if (!button.dataset.copy) return button.parentElement.querySelector("pre").textContent;
  const response = await request(button.dataset.copy);
  if (!response.ok) throw await failure(response);
  return response.text();
}

// Without a secure context browsers have no clipboard but this one.
function copyBySelection(text) {
  const field = document.createElement("textarea");
  field.value = text;
  field.className = "away";
  document.body.append(field);
  field.select();
  const isCopied = document.execCommand("copy");
  field.remove();
  return isCopied;
}

async function copy(text) {
  if (!navigator.clipboard) return copyBySelection(text);
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch (error) {
    if (error.name === "NotAllowedError") return copyBySelection(text);
    throw error;
  }
}

document.addEventListener("click", async (event) => {
  const button = event.target.closest("button.copy");
  if (!button) return;
  const label = button.dataset.label ?? (button.dataset.label = button.textContent);
  try {
    const isCopied = await copy(await textOf(button));
    button.textContent = isCopied ? "Copied" : "The browser does not allow it";
    button.focus();
    setTimeout(() => (button.textContent = label), SHOWN_FOR);
  } catch (error) {
    if (!(error instanceof RequestFailed)) throw error;
    showProblem(byId("problem"), error.message);
  }
});

// -- code blocks -------------------------------------------------------------------------------------

function addButtons() {
  for (const code of document.querySelectorAll("#blocks .prose pre:not(.plain)")) {
    if (code.parentElement.className === "code-block") continue;
    const wrapper = document.createElement("div");
    wrapper.className = "code-block";
    code.replaceWith(wrapper);
    const button = document.createElement("button");
    button.type = "button";
    button.className = "quiet copy";
    button.textContent = "Copy";
    button.setAttribute("aria-label", "Copy this code");
    code.tabIndex = 0;
    wrapper.append(button, code);
  }
}

new MutationObserver(addButtons).observe(byId("transcript"), { childList: true, subtree: true });
addButtons();
