// Choosing rows of lists with the keyboard, as by a click on their boxes.

export const BOXES = 'input[name="id"][form="bulk"]';

// Choose the row, or give it up; with `isRange` also the rows since the one that was pressed last.
export function press(row, isRange = false) {
  const click = new MouseEvent("click", { bubbles: true, cancelable: true, shiftKey: isRange });
  row?.querySelector(BOXES)?.dispatchEvent(click);
}

// Choose those of these rows that are not chosen.
export function chooseAll(...rows) {
  for (const row of rows) if (row?.querySelector(BOXES)?.checked === false) press(row);
}
