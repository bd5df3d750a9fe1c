// What all live figures share: small pieces of a page, and files loaded when they are asked for. A figure stands where
// the page has an element of class "live-figure"; what that holds is for readers without scripts, and is replaced.
window.deepvitLive = (() => {
  const HERE = new URL("../", document.currentScript.src); // _static, as of whatever page this is on
  const NEGATIVE = [33, 102, 172], POSITIVE = [178, 24, 43]; // the blue and red of the book's other maps

  const STEPS = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };

  const make = (tag, attributes = {}, ...children) => {
    const element = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
    element.append(...children);
    return element;
  };
  const range = (count, name = (i) => i) => Array.from({ length: count }, (_, i) => name(i));
  const number = (value, digits = 2) => value.toFixed(digits).replace("-", "−");
  const signed = (value, digits) => (value < 0 ? "" : "+") + number(value, digits);

  // A label holds its control, so that each has a name without an id.
  const choice = (text, options, change) => {
    const select = make("select");
    select.addEventListener("change", () => change());
    const put = (names) => select.replaceChildren(...names.map((name, i) => make("option", { value: i }, name)));
    put(options);
    return {
      box: make("label", {}, text, select), put,
      get value() { return Number(select.value); },
      set value(index) { select.value = index; },
    };
  };
  const slider = (text, { min = 0, max, step = 1, value, told = String }, change) => {
    const input = make("input", { type: "range", min, max, step, value }), says = make("span");
    const tell = () => {
      says.textContent = told(Number(input.value));
      input.setAttribute("aria-valuetext", told(Number(input.value)));
    };
    input.addEventListener("input", () => { tell(); change(); });
    tell();
    return {
      box: make("label", {}, `${text}: `, says, input),
      get value() { return Number(input.value); },
      set value(wanted) { input.value = wanted; tell(); },
    };
  };
  const button = (text, press) => {
    const element = make("button", { type: "button", class: "live-button" }, text);
    element.addEventListener("click", press);
    return element;
  };
  const row = (...children) => make("div", { class: "live-row" }, ...children);
  const controls = (...children) => make("div", { class: "live-controls" }, ...children);
  const listener = () => make("p", { class: "live-heard", role: "status", "aria-live": "polite" });

  // Squares to choose from, over a picture: one can be reached with Tab, the others from it with arrows. With `drag`
  // the choice follows a pointer that is held down.
  const squares = (name, side, title, choose, drag = false) => {
    const all = range(side * side, (i) => make("button", { type: "button", "aria-label": title(i) }));
    all.forEach((square, i) => {
      square.addEventListener("click", () => choose(i));
      square.addEventListener("keydown", (event) => {
        if (!STEPS[event.key]) return;
        const [down, right] = STEPS[event.key];
        event.preventDefault();
        const y = Math.floor(i / side) + down, x = (i % side) + right;
        if (y < 0 || x < 0 || y >= side || x >= side) return;
        all[y * side + x].focus();
        choose(y * side + x);
      });
    });
    const style = `grid-template: repeat(${side}, 1fr) / repeat(${side}, 1fr)`;
    const box = make("div", { class: "live-squares", role: "group", "aria-label": name, style }, ...all);
    if (drag) {
      box.classList.add("live-drag");
      box.addEventListener("pointermove", (event) => {
        const over = event.buttons ? all.indexOf(document.elementFromPoint(event.clientX, event.clientY)) : -1;
        if (over >= 0) choose(over);
      });
    }
    const mark = (chosen) => all.forEach((square, i) => { // none where it is negative
      square.setAttribute("aria-pressed", i === chosen);
      square.tabIndex = i === Math.max(chosen, 0) ? 0 : -1;
    });
    mark(-1);
    return { box, mark };
  };

  // The colour of a weight, of which `largest` has the full colour; it covers what lies below by its share.
  const colour = (value, largest) => {
    const [red, green, blue] = value < 0 ? NEGATIVE : POSITIVE;
    return `rgba(${red}, ${green}, ${blue}, ${0.9 * Math.min(1, Math.abs(value) / (largest || 1))})`;
  };

  const scripts = new Map();
  const script = (name) => {
    if (!scripts.has(name)) {
      scripts.set(name, new Promise((resolve, reject) => {
        const element = make("script", { src: new URL(name, HERE).href });
        element.addEventListener("load", resolve);
        element.addEventListener("error", () => {
          scripts.delete(name); // so that it can be tried again
          reject(new Error(`${name} could not be loaded. Is the book's folder complete, and the network there?`));
        });
        document.head.append(element);
      }));
    }
    return scripts.get(name);
  };
  const forget = (name) => scripts.delete(name);
  const address = (name) => new URL(name, HERE).href;

  // A figure's state as a link: the page's address, and after it "#live-split&k=4&s=2". `given` is what a control was
  // opened with, a whole number up to `most`; `box` copies a link to what `state` then is, without an `ownPicture`.
  const linked = (kind, state, ownPicture = () => false) => {
    const [first, ...pairs] = location.hash.slice(1).split("&"), opened = first === kind;
    const values = new URLSearchParams(opened ? pairs.join("&") : "");
    const given = (name, usual, most, least = 0) => {
      const value = Number(values.get(name) ?? NaN);
      return value >= least && value <= most ? value : usual;
    };
    const says = make("span", { role: "status" });
    const copy = async () => {
      history.replaceState(null, "", `#${kind}&${new URLSearchParams(state())}`);
      try {
        await navigator.clipboard.writeText(location.href);
        says.textContent = "Copied.";
      } catch { // a browser may forbid it
        says.textContent = "The link is in the address bar.";
      }
      if (ownPicture()) says.textContent += " It shows the sample: your picture stays on this machine.";
      const figure = says.closest(".live-figure"), forget = () => { says.textContent = ""; };
      for (const change of ["input", "pointerdown"]) figure.addEventListener(change, forget, { once: true });
    };
    return { given, opened, box: row(button("Link to this view", copy), says) };
  };

  const figure = (kind, start) => document.addEventListener("DOMContentLoaded", () => {
    document.querySelectorAll(`.live-figure.${kind}`).forEach(async (root) => {
      root.classList.add("live-on");
      await start(root, (...children) => root.replaceChildren(...children));
      if (location.hash.startsWith(`#${kind}&`)) root.scrollIntoView();
    });
    addEventListener("hashchange", () => { if (location.hash.startsWith(`#${kind}&`)) location.reload(); });
  });

  return {
    make, range, number, signed, choice, slider, button, row, controls, listener, squares, colour, script, forget,
    address, figure, linked,
  };
})();
