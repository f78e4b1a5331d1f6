// The live tree, part 2: rows, how they lie under each other, folding and unfolding by fetching.
//
// Rows lie flat, one after the other, with their level in aria-level: so a chain of thousands is
// no deep document. A row's element stays for as long as its VM is shown; only its inside changes.
// Rows with a data-key are nodes, or the roof ("0"), or the group of those without a node.
"use strict";

if (reef.tree) (() => {
  const { urls, byId, get, sayNoAnswer } = reef.tree;

  const tree = () => byId("tree");
  const level = (row) => Number(row.getAttribute("aria-level"));
  const isOpen = (row) => row.getAttribute("aria-expanded") === "true";
  const isFolder = (row) => row.hasAttribute("aria-expanded");
  const isRoof = (row) => row.dataset.key === "0";
  const isNode = (row) => /^[0-9]+$/.test(row.dataset.key || "");
  const isMore = (row) => row.classList.contains("more");
  const isFiltered = () => "filtered" in tree().dataset;
  const rowOf = (key) => byId(`n${key}`);

  function next(row) {
    let other = row.nextElementSibling;
    while (other && other.hidden) other = other.nextElementSibling;
    return other;
  }

  function previous(row) {
    let other = row.previousElementSibling;
    while (other && other.hidden) other = other.previousElementSibling;
    return other;
  }

  function last() {
    const row = tree().lastElementChild;
    return row && row.hidden ? previous(row) : row;
  }

  // All rows below this one that are in the page, shown or folded away.
  function below(row) {
    const found = [];
    for (let each = row.nextElementSibling; each && level(each) > level(row); each = each.nextElementSibling)
      found.push(each);
    return found;
  }

  const childrenOf = (row) => below(row).filter((each) => level(each) === level(row) + 1);

  function parentOf(row) {
    let other = row.previousElementSibling;
    while (other && level(other) >= level(row)) other = other.previousElementSibling;
    return other;
  }

  function focus(row) {
    if (!row) return;
    for (const each of tree().querySelectorAll('[tabindex="0"]')) each.tabIndex = -1;
    row.tabIndex = 0;
    row.focus();
    row.scrollIntoView({ block: "nearest" });
  }

  // A fold hides what was fetched, and shows it again with what was unfolded inside.
  function paint(row) {
    let shut = isOpen(row) ? Infinity : level(row);
    for (const each of below(row)) {
      each.hidden = level(each) > shut;
      if (each.hidden) continue;
      shut = isFolder(each) && !isOpen(each) ? level(each) : Infinity;
    }
  }

  // Of an earlier moment there are no news.
  const moment = urls.at ? { at: urls.at } : {};
  const childrenUrl = (key, words) =>
    `${urls.childrenUrl}${key}?${new URLSearchParams({ ...moment, ...words })}`;

  async function unfold(row) {
    if (!isFolder(row) || isOpen(row)) return;
    row.setAttribute("aria-expanded", "true");
    if (row.dataset.loaded || childrenOf(row).length) return paint(row);
    row.setAttribute("aria-busy", "true");
    try {
      const fragment = await get(childrenUrl(row.dataset.key, { level: level(row) + 1 }));
      if (!childrenOf(row).length) row.after(...fragment.children);
      row.dataset.loaded = "1";
      paint(row);
      reef.tick();
    } catch {
      row.setAttribute("aria-expanded", "false");
      sayNoAnswer();
    }
    row.removeAttribute("aria-busy");
  }

  function fold(row) {
    if (!isOpen(row) || isRoof(row)) return;
    const inside = below(row).includes(document.activeElement);
    row.setAttribute("aria-expanded", "false");
    // What a search left out comes when it is unfolded again.
    if (isFiltered() && !row.dataset.loaded) below(row).forEach((each) => each.remove());
    paint(row);
    if (inside) focus(row);
  }

  async function more(row) {
    if (row.getAttribute("aria-busy")) return;
    row.setAttribute("aria-busy", "true");
    const { parent, after, place } = row.dataset;
    try {
      const fragment = await get(childrenUrl(parent, { after, place, level: level(row) }));
      const fresh = [...fragment.children].filter((each) => isMore(each) || !byId(each.id));
      const had = document.activeElement === row;
      row.replaceWith(...fresh);
      if (had && fresh.length) focus(fresh[0]);
      reef.tick();
    } catch {
      row.removeAttribute("aria-busy");
      sayNoAnswer();
    }
  }

  Object.assign(reef.tree, {
    ...{ tree, level, isOpen, isFolder, isRoof, isNode, isMore, isFiltered, rowOf },
    ...{ next, previous, last, below, childrenOf, parentOf, focus, paint, childrenUrl },
    ...{ unfold, fold, more },
  });
})();
