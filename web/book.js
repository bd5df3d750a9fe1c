document.addEventListener("DOMContentLoaded", () => {
  // The bibliography is marked as a list whose items are none; screen readers do better without the mark.
  document.querySelectorAll('.citation-list[role="list"]').forEach((list) => list.removeAttribute("role"));

  // The theme's fold in the contents has an arrow and no name.
  document.querySelectorAll(".bd-sidebar-primary summary").forEach((fold) => fold.setAttribute("aria-label", "Pages below this one"));

  // An explorer's numbers and code are loaded when it comes near the window; tools/book/lean.py wrote where they are.
  const near = new IntersectionObserver(
    (entries) => entries.filter((entry) => entry.isIntersecting).forEach(({ target }) => load(target)),
    { rootMargin: "1000px" },
  );
  const load = (explorer) => {
    near.unobserve(explorer);
    explorer.querySelectorAll("script[data-late]").forEach((waiting) => {
      const script = document.createElement("script");
      script.src = waiting.dataset.late;
      waiting.replaceWith(script);
    });
  };
  document.querySelectorAll("script[data-late]").forEach((waiting) => near.observe(waiting.parentElement));

  // An address may end in "#explorer-1&epoch=3": what the first explorer of the page is to show.
  const asked = () => location.hash.match(/^#explorer-(\d+)&/)?.[1];
  if (asked()) document.querySelectorAll(".deepvit-explorer")[asked() - 1]?.scrollIntoView();
  addEventListener("hashchange", () => { if (asked()) location.reload(); });
});

// An equation that is wider than its column is moved sideways: by the keyboard, too.
window.addEventListener("load", () => {
  const reach = () => document.querySelectorAll("article div.math").forEach((box) => {
    if (box.scrollWidth > box.clientWidth) box.tabIndex = 0;
    else box.removeAttribute("tabindex");
  });
  reach();
  window.addEventListener("resize", reach);
});
