// A word of the glossary or a paper says what it is: to a mouse that rests on its link, to the keyboard that reaches it,
// to a finger that taps it once. What they say is in notes_data.js, which is loaded when the first is asked for.
document.addEventListener("DOMContentLoaded", () => {
  const root = new URL(document.documentElement.dataset.content_root ?? "./", location.href).href;
  const keyOf = (link) => link.href.replace(root, "");
  const links = [...document.querySelectorAll("article a.internal[href*='#']")].filter((link) =>
    /(glossary\.html#term-|bibliography\.html#id)/.test(keyOf(link)));
  if (!links.length || !("popover" in HTMLElement.prototype)) return;

  const card = document.createElement("div");
  card.id = "note-card";
  card.popover = "manual";
  document.body.append(card);
  let data, shownAt, waiting, touched = false;

  const load = () => (data ??= new Promise((done) => {
    const script = document.createElement("script");
    script.src = `${root}_static/notes_data.js`;
    script.onload = () => done(window.bookNotes);
    document.head.append(script);
  }));

  const element = (kind, text, address) => {
    const made = document.createElement(kind);
    made.textContent = text;
    if (address) Object.assign(made, { href: address, tabIndex: -1 }); // the keyboard has the link in the text
    return made;
  };

  const place = (link) => {
    const at = link.getClientRects()[0], box = card.getBoundingClientRect();
    const below = at.bottom + 6 + box.height < innerHeight;
    card.style.left = `${Math.max(8, Math.min(at.left, innerWidth - box.width - 8))}px`;
    card.style.top = `${below ? at.bottom + 6 : Math.max(8, at.top - box.height - 6)}px`;
  };

  const show = async (link) => {
    clearTimeout(waiting);
    shownAt = link;
    const note = (await load())[keyOf(link)];
    if (!note || shownAt !== link) return;
    const more = element("p", "");
    more.append(element("a", note.title ? "Glossary" : "Bibliography", link.href));
    if (note.address) more.append(" · ", element("a", "The paper", note.address));
    card.replaceChildren(...(note.title ? [element("strong", note.title)] : []), element("p", note.text), more);
    card.showPopover();
    place(link);
    link.setAttribute("aria-describedby", card.id);
  };
  const hide = () => {
    clearTimeout(waiting);
    shownAt?.removeAttribute("aria-describedby");
    shownAt = undefined;
    if (card.matches(":popover-open")) card.hidePopover();
  };
  const later = (action, milliseconds) => {
    clearTimeout(waiting);
    waiting = setTimeout(action, milliseconds);
  };

  links.forEach((link) => {
    link.addEventListener("pointerenter", (event) => event.pointerType === "mouse" && later(() => show(link), 200));
    link.addEventListener("pointerleave", (event) => event.pointerType === "mouse" && later(hide, 300));
    link.addEventListener("focus", () => !touched && show(link));
    link.addEventListener("blur", () => !touched && hide());
    link.addEventListener("click", (event) => {
      if (!touched || shownAt === link) return; // a second tap follows the link
      event.preventDefault();
      show(link);
    });
  });
  card.addEventListener("pointerenter", () => clearTimeout(waiting)); // one may read and select what it says
  card.addEventListener("pointerleave", (event) => event.pointerType === "mouse" && later(hide, 300));
  document.addEventListener("pointerdown", (event) => {
    touched = event.pointerType === "touch";
    if (!card.contains(event.target) && !links.some((link) => link.contains(event.target))) hide();
  }, true);
  document.addEventListener("keydown", (event) => {
    touched = false;
    if (event.key === "Escape") hide();
  });
  window.addEventListener("scroll", () => shownAt && place(shownAt), { passive: true });
});
