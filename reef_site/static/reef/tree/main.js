// The live tree, on the pages that have one.
if (document.getElementById("fleet-tree")) {
  await import("./search.js");
  await import("./keys.js");
  // Of an earlier moment there is nothing new.
  if (document.getElementById("fleet-tree").dataset.newsUrl) await import("./news.js");
}
