// On phones the navigation is wider than the screen: show the link of the current page.
const nav = document.querySelector(".top nav");
const link = nav?.querySelector("[aria-current]");

if (link) {
  const [box, all] = [link.getBoundingClientRect(), nav.getBoundingClientRect()];
  if (box.left < all.left || box.right > all.right) {
    nav.scrollLeft += box.left - all.left - (all.width - box.width) / 2;
  }
}
