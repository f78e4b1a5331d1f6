// Forms that are sent without leaving the page.
import { byId, failure, parse, request, showFailure, showProblem } from "./core.js";
import { badge } from "./live.js";

export async function postForm(form, button = null) {
  const data = new FormData(form, button);
  const body = form.enctype === "multipart/form-data" ? data : new URLSearchParams(data);
  const done = badge.fetching("form");
  // A button may send its form elsewhere.
  const url = button?.hasAttribute("formaction") ? button.formAction : form.action;
  const response = await request(url, { method: "POST", body }).finally(() => done(true));
  if (!response.ok) throw await failure(response);
  return { fragment: parse(await response.text()), key: response.headers.get("Reef-Key") };
}

// Send the forms in `area` that are marked data-script; then call `act` with the fragment in the
// response and the form, or without them if the request failed. A second press meanwhile is ignored.
export function sendByScript(area, act) {
  area.addEventListener("submit", async (event) => {
    const form = event.target;
    if (!form.matches("form[data-script]")) return;
    event.preventDefault();
    const problem = byId("problem");
    const button = event.submitter;
    // Not `disabled`, which would take its value out of the form and the focus away.
    if (button?.ariaDisabled === "true") return;
    if (button) button.ariaDisabled = "true";
    try {
      const { fragment } = await postForm(form, button);
      showProblem(problem);
      form.dispatchEvent(new Event("reef:sent", { bubbles: true }));
      act(fragment, form);
    } catch (error) {
      showFailure(problem, error);
      act();
    } finally {
      if (button) button.ariaDisabled = null;
    }
  });
}
