// The tree at an earlier time, which does not change.
//
// The slider shows its time while it is moved, and loads the tree of that time when it is released.
import "../tree/keys.js";

const slider = document.getElementById("second");
const says = document.getElementById("slider-says");

slider.addEventListener("input", () => {
  const at = new Date((Number(slider.dataset.first) + Number(slider.value)) * 1000);
  const timeZone = document.documentElement.dataset.zone || undefined;
  says.textContent = at.toLocaleString("sv-SE", { timeZone, timeZoneName: "short" });
});
slider.addEventListener("change", () => slider.form.requestSubmit());
