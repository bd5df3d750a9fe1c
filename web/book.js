document.addEventListener("DOMContentLoaded", () => {
  // The theme's fold in the contents has an arrow and no name.
  document.querySelectorAll(".bd-sidebar-primary summary").forEach((fold) => fold.setAttribute("aria-label", "Pages below this one"));

  // A notebook is saved; opened, it would be a page of JSON. (A page opened from a folder may not ask to save a file.)
  document.querySelectorAll(".btn-download-notebook-button").forEach((link) => {
    if (location.protocol === "file:") {
      const title = link.hasAttribute("data-bs-original-title") ? "data-bs-original-title" : "title"; // the theme moves it
      link.setAttribute(title, "Opens the notebook as text: save it from there");
      return;
    }
    link.download = "";
    link.removeAttribute("target");
  });

  // On a small screen the contents cover the page, so they close when a section has been chosen.
  document.querySelector(".bd-sidebar-secondary")?.addEventListener("click", ({ target }) => {
    const open = document.getElementById("pst-secondary-sidebar-checkbox");
    if (target.closest("a") && open.checked) open.click();
  });

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

// The section at the top of the window is marked in the page's contents. The theme's own marking forgets it after a jump.
document.addEventListener("DOMContentLoaded", () => {
  document.body.removeAttribute("data-bs-spy");
  const links = [...document.querySelectorAll(".bd-toc-nav :is(.toc-h2, .toc-h3) > a")];
  const headings = links.map((link) => document.getElementById(decodeURIComponent(link.hash.slice(1))));
  let marked;

  const mark = () => {
    const passed = headings.filter((heading) => heading?.getBoundingClientRect().top < innerHeight / 3);
    const link = links[headings.indexOf(passed.at(-1))];
    if (link === marked) return;
    marked?.classList.remove("active");
    link?.classList.add("active");
    marked = link;
    if (!link?.checkVisibility()) return;
    const sidebar = link.closest(".bd-sidebar-secondary");
    const [place, frame] = [link.getBoundingClientRect(), sidebar.getBoundingClientRect()];
    if (place.top < frame.top || place.bottom > frame.bottom) sidebar.scrollTop += place.top - frame.top - frame.height / 3;
  };

  let waiting = false;
  window.addEventListener("scroll", () => {
    if (waiting) return;
    waiting = true;
    requestAnimationFrame(() => { waiting = false; mark(); });
  }, { passive: true });
  mark();
});

// What is wider than its box is moved sideways, by the keyboard too; and fades where it goes on.
window.addEventListener("load", () => {
  const boxes = document.querySelectorAll("article :is(div.math, .pst-scrollable-table-container)");
  const look = (box) => {
    const left = box.scrollWidth - box.clientWidth;
    if (left > 0) box.tabIndex = 0;
    else box.removeAttribute("tabindex");
    box.classList.toggle("goes-on", box.scrollLeft < left - 1);
  };
  boxes.forEach((box) => box.addEventListener("scroll", () => look(box), { passive: true }));
  const size = new ResizeObserver((entries) => entries.forEach(({ target }) => look(target)));
  boxes.forEach((box) => size.observe(box));
});

// On paper nothing stays folded but code that only draws, and the numbers behind a figure.
let unfolded = [];
window.addEventListener("beforeprint", () => {
  unfolded = [...document.querySelectorAll("article details:not([open], .hide, .figure-data)")];
  unfolded.forEach((fold) => { fold.open = true; });
  const printed = document.querySelector("#jb-print-docs-body h1");
  const title = document.querySelector("article h1");
  if (printed && title) printed.textContent = [...title.childNodes].filter((node) => !node.matches?.(".headerlink")).map((node) => node.textContent).join("");
});
window.addEventListener("afterprint", () => unfolded.forEach((fold) => { fold.open = false; }));
