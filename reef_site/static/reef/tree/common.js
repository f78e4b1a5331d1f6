// Requests and error messages of the live tree.
import * as core from "../core.js";

const { byId } = core;

export const block = byId("fleet-tree");
export const urls = block.dataset;

// Show an error, or hide it without an argument; each successful request hides it.
export function showProblem(problem = "") {
  let place = byId("tree-problem");
  if (!place && !problem) return;
  if (!place) {
    place = document.createElement("p");
    place.id = "tree-problem";
    place.className = "error";
    place.setAttribute("role", "alert");
    byId("tree-part").before(place);
  }
  core.showProblem(place, problem);
}

export function showFailure(error) {
  if (!(error instanceof core.RequestFailed)) throw error;
  showProblem(error.message);
}

export async function get(url) {
  const fragment = await core.get(url);
  showProblem();
  return fragment;
}

export async function post(url, body) {
  const fragment = await core.postJson(url, body);
  showProblem();
  return fragment;
}
