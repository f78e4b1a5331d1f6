// The live tree, on the pages that have one.
if (document.getElementById("fleet-tree")) {
  await import("./search.js");
  await import("./keys.js");
  // The tree at an earlier time does not change.
  if (document.getElementById("fleet-tree").dataset.newsUrl) await import("./updates.js");
}
