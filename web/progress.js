// What a reader has read and answered: marks and a score in the quizzes, ticks in the contents. All of it is kept in
// this browser and sent nowhere. Where a browser keeps nothing, marks are there until the page is left.
document.addEventListener("DOMContentLoaded", () => {
  const NAME = "deeper-vision-transformers";
  const root = new URL(document.documentElement.dataset.content_root ?? "./", location.href).href;
  const pageOf = (address) => address.replace(/[?#].*$/, "").replace(root, "").replace(/\.html$/, "");
  const page = pageOf(location.href);

  let kept = { read: {}, quiz: {} };
  try {
    kept = { ...kept, ...JSON.parse(localStorage.getItem(NAME)) };
  } catch { /* nothing can be kept here, or what was kept is damaged */ }
  const keep = () => {
    try {
      localStorage.setItem(NAME, JSON.stringify(kept));
    } catch { /* a full or a closed store: the page goes on without */ }
    showTicks();
  };
  const element = (kind, name, text = "") => Object.assign(document.createElement(kind), { className: name, textContent: text });

  // The quiz: questions by number, each with its answers; the first answer that is opened counts.
  const questions = [];
  document.querySelectorAll("#quiz > p, #quiz > details").forEach((part) => {
    if (part.matches("details")) questions.at(-1)?.push(part);
    else if (/^Question \d/.test(part.textContent)) questions.push([]);
  });
  const isRight = (answer) => /^\s*Right\./.test(answer.querySelector(".sd-summary-content").textContent);
  const opened = (number) => kept.quiz[page]?.[number] ?? [];
  const score = (answers) => answers.filter((tried) => tried[0] === "right").length;
  const status = Object.assign(element("p", "quiz-score"), { role: "status" });
  const again = Object.assign(element("button", "quiz-again", "Start again"), { type: "button" });

  const showMarks = () => {
    questions.forEach((answers, number) => answers.forEach((answer, place) => {
      const tried = opened(number).some((one) => one === "right" ? isRight(answer) : one === place);
      answer.classList.toggle("quiz-right", tried && isRight(answer));
      answer.classList.toggle("quiz-wrong", tried && !isRight(answer));
    }));
    const tried = questions.map((_, number) => opened(number)).filter((one) => one.length);
    status.textContent = tried.length
      ? `${tried.length} of ${questions.length} answered, ${score(tried)} right at the first try.`
      : "Your first answer to each question counts. The score is kept in this browser only.";
    again.hidden = !tried.length;
  };
  if (questions.length) {
    const intro = document.querySelector("#quiz > p");
    intro.after(status, again);
    questions.forEach((answers, number) => answers.forEach((answer, place) => answer.addEventListener("toggle", () => {
      const entry = isRight(answer) ? "right" : place;
      if (!answer.open || opened(number).includes(entry)) return;
      kept.quiz[page] = { ...kept.quiz[page], questions: questions.length, [number]: [...opened(number), entry] };
      keep();
      showMarks();
    })));
    again.addEventListener("click", () => {
      questions.flat().forEach((answer) => { answer.open = false; });
      delete kept.quiz[page];
      keep();
      showMarks();
    });
    showMarks();
  }

  // The end of the page: whoever gets there has read it, and may say otherwise.
  const article = document.querySelector("article.bd-article");
  const links = [...document.querySelectorAll(".bd-sidebar-primary nav a.reference.internal")];
  if (article && links.some((link) => pageOf(link.href) === page)) {
    const box = element("p", "page-read"), label = element("label", ""), tick = element("input", "");
    const forget = Object.assign(element("button", "", "Forget all ticks and scores"), { type: "button" });
    tick.type = "checkbox";
    label.append(tick, " I have read this page");
    box.append(label, forget, element("small", "", "Kept in this browser only."));
    article.append(box);
    const set = (read) => {
      kept.read[page] = tick.checked = read;
      keep();
    };
    tick.checked = Boolean(kept.read[page]);
    tick.addEventListener("change", () => set(tick.checked));
    forget.addEventListener("click", () => {
      kept = { read: { [page]: false }, quiz: {} };
      tick.checked = false;
      keep();
      if (questions.length) showMarks();
    });
    const watch = new IntersectionObserver((entries) => {
      if (entries.some((entry) => entry.isIntersecting) && kept.read[page] === undefined && scrollY > 0) set(true);
    });
    watch.observe(tick);
  }

  function showTicks() {
    links.forEach((link) => {
      link.querySelector(".progress-tick")?.remove();
      const { questions: asked, ...answers } = kept.quiz[pageOf(link.href)] ?? {};
      const said = [];
      if (kept.read[pageOf(link.href)]) said.push("✓");
      if (asked) said.push(`${score(Object.values(answers))}/${asked}`);
      if (!said.length) return;
      const tick = element("span", "progress-tick", said.join(" "));
      tick.title = [said.includes("✓") && "read", asked && `quiz: ${said.at(-1)} right at the first try`].filter(Boolean).join(", ");
      link.append(tick);
    });
  }
  showTicks();
});
