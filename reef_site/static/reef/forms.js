// Forms that are sent without leaving the page.
import { byId, failure, parse, request, showFailure, showProblem } from "./core.js";
import { badge } from "./live.js";

export async function postForm(form) {
  const data = new FormData(form);
  const body = form.enctype === "multipart/form-data" ? data : new URLSearchParams(data);
  const done = badge.fetching("form");
  const response = await request(form.action, { method: "POST", body }).finally(() => done(true));
  if (!response.ok) throw await failure(response);
  return { fragment: parse(await response.text()), key: response.headers.get("Reef-Key") };
}

// Send the forms in `area` that are marked data-script; then call `act` with the fragment in the
// response, or without one if the request failed.
export function sendByScript(area, act) {
  area.addEventListener("submit", async (event) => {
    const form = event.target;
    if (!form.matches("form[data-script]")) return;
    event.preventDefault();
    const problem = byId("problem");
    try {
      const { fragment } = await postForm(form);
      showProblem(problem);
      act(fragment);
    } catch (error) {
      showFailure(problem, error);
      act();
    }
  });
}
