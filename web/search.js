// Searches the sections of the book (tools/book/search.py wrote them) for all the words of a query.
(() => {
  const MOST = 50; // results that are shown
  const BEFORE = 60, LONG = 220; // characters of an excerpt
  const plain = (text) => text.toLowerCase().replace(/[‐‑–−]/g, "-");
  const field = document.querySelector(".book-search input");
  const status = document.querySelector("#search-status");
  const list = document.querySelector("#search-results");
  const sections = window.bookSections.map((section) => ({
    ...section, plainTitle: plain(section.title), plainPage: plain(section.page), plainText: plain(section.text),
  }));

  // A phrase is looked for in what explains it; who types a name of the package may want the reference.
  const isName = (words) => words.some((word) => /\w[_.]\w/.test(word)) || /[a-z][A-Z]/.test(field.value);
  const isReference = ({ section }) => section.address.startsWith("book/reference/");

  // How well a section answers to a word: most by its title, then by its page's, then by how often it says it.
  const worth = (section, word) => {
    const times = section.plainText.split(word).length - 1;
    return 12 * section.plainTitle.includes(word) + 3 * section.plainPage.includes(word) + Math.min(times, 6);
  };

  const find = (words) => sections
    .map((section) => ({ section, worths: words.map((word) => worth(section, word)) }))
    .filter(({ worths }) => worths.every(Boolean))
    .map(({ section, worths }) => ({ section, total: worths.reduce((sum, one) => sum + one, 0) }))
    .sort((one, other) =>
      (isName(words) ? 0 : isReference(one) - isReference(other)) || other.total - one.total);

  // The text with the words marked, as nodes: nothing of it is read as HTML.
  const marked = (text, words) => {
    const pattern = words.map((word) => word.replace(/[.*+?^${}()|[\]\\]/g, "\\$&")).join("|");
    return text.split(new RegExp(`(${pattern})`, "i")).map((part, place) => {
      if (place % 2 === 0) return document.createTextNode(part);
      const mark = document.createElement("mark");
      mark.textContent = part;
      return mark;
    });
  };

  const excerpt = (section, words) => {
    const places = words.map((word) => section.plainText.indexOf(word)).filter((place) => place >= 0);
    const start = Math.max(0, (places.length ? Math.min(...places) : 0) - BEFORE);
    const from = start ? section.text.indexOf(" ", start) + 1 : 0;
    const text = section.text.slice(from, from + LONG);
    return `${from ? "… " : ""}${text}${from + LONG < section.text.length ? " …" : ""}`;
  };

  // Where in its section the first word found stands: browsers that know how scroll to it and mark it. A few words
  // around it tell it from others like it on the page; where the page breaks them, the section's start is shown.
  const place = (section, words) => {
    if (!document.fragmentDirective) return "";
    const around = section.text.split(" ");
    const at = around.findIndex((word) => words.some((wanted) => plain(word).includes(wanted)));
    if (at < 0) return "";
    const phrase = encodeURIComponent(around.slice(Math.max(0, at - 2), at + 3).join(" ")).replaceAll("-", "%2D");
    return `${section.address.includes("#") ? "" : "#"}:~:text=${phrase}`;
  };

  const item = ({ section }, words) => {
    const row = document.createElement("li");
    const link = document.createElement("a");
    link.href = section.address + place(section, words);
    link.append(...marked(section.title, words));
    const page = document.createElement("span");
    page.className = "search-page";
    page.textContent = section.page === section.title ? "" : section.page;
    const text = document.createElement("p");
    text.append(...marked(excerpt(section, words), words));
    row.append(link, page, text);
    return row;
  };

  const search = () => {
    const words = plain(field.value).split(/\s+/).filter(Boolean);
    const found = words.length ? find(words) : [];
    const more = found.length > MOST ? `; the first ${MOST} are shown` : "";
    const count = `${found.length} ${found.length === 1 ? "section" : "sections"}`;
    status.textContent = !words.length ? "" : found.length ? `${count}${more}.` : "No section has all these words.";
    list.replaceChildren(...found.slice(0, MOST).map((result) => item(result, words)));
  };

  // After Back from a result the list is the same. (A script of Sphinx's empties the state when the page is loaded.)
  document.addEventListener("click", () => history.replaceState({ query: field.value }, ""));
  field.value = history.state?.query ?? new URLSearchParams(location.search).get("q") ?? "";
  field.addEventListener("input", search);
  field.form.addEventListener("submit", (event) => event.preventDefault());
  search();
  field.focus({ preventScroll: true });
})();
