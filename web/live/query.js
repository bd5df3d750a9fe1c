// Chapter 1: one query meets five keys. Drag the query; its dot products become scores, and the softmax probabilities.
deepvitLive.figure("live-query", (root, fill) => {
  const { make, number, slider, row, controls, listener, linked } = deepvitLive;
  const KEYS = [[1.6, 0.3], [1.1, 1.2], [-0.2, 1.5], [-1.5, 0.4], [0.4, -1.4]];
  const VALUES = [[31, 119, 180], [44, 140, 44], [214, 39, 40], [230, 159, 0], [128, 62, 160]]; // colours, to be mixed
  const QUESTION = "Drag the query, the arrow with a round tip. When does one key take nearly all?";
  const REACH = 3, SIZE = 272, SVG = "http://www.w3.org/2000/svg"; // the plane runs from -REACH to REACH
  const rgb = (values) => `rgb(${values.map(Math.round).join(", ")})`;
  const swatch = (values) => make("span", { class: "live-swatch", style: `background: ${rgb(values)}` });
  const draw = (name, attributes, text = "") => {
    const element = document.createElementNS(SVG, name);
    for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
    element.textContent = text;
    return element;
  };
  const at = ([x, y]) => [(x / REACH + 1) * SIZE / 2, (1 - y / REACH) * SIZE / 2];
  const arrow = (end, stroke, width) => {
    const [x2, y2] = at(end), look = { stroke, "stroke-width": width, "stroke-linecap": "round" };
    return draw("line", { x1: SIZE / 2, y1: SIZE / 2, x2, y2, ...look });
  };

  const link = linked("live-query", () => ({ angle: angle.value, length: length.value }));
  const turned = (value) => `${number(value, 0)}°`;
  const degrees = { min: -180, max: 180, step: 5, value: link.given("angle", 60, 180, -180), told: turned };
  const angle = slider("Angle of the query", degrees, () => show());
  const lengths = { min: 0, max: 3, step: 0.1, value: link.given("length", 1.5, 3), told: (value) => number(value, 1) };
  const length = slider("Its length", lengths, () => show());
  const plane = draw("svg", { viewBox: `0 0 ${SIZE} ${SIZE}`, class: "live-plane", role: "img" });
  const table = make("table"), heard = listener(), output = make("p");
  const drag = (event) => {
    const box = plane.getBoundingClientRect();
    const x = (2 * (event.clientX - box.left) / box.width - 1) * REACH;
    const y = (1 - 2 * (event.clientY - box.top) / box.height) * REACH;
    angle.value = Math.round(Math.atan2(y, x) * 36 / Math.PI) * 5;
    length.value = Math.min(3, Math.hypot(x, y));
    show();
  };
  plane.addEventListener("pointerdown", (event) => { plane.setPointerCapture(event.pointerId); drag(event); });
  plane.addEventListener("pointermove", (event) => { if (event.buttons) drag(event); });

  const show = () => {
    const turn = angle.value * Math.PI / 180, query = [length.value * Math.cos(turn), length.value * Math.sin(turn)];
    const dots = KEYS.map(([x, y]) => x * query[0] + y * query[1]);
    const scores = dots.map((dot) => dot / Math.SQRT2); // D = 2
    const powers = scores.map(Math.exp), total = powers.reduce((sum, power) => sum + power, 0);
    const shares = powers.map((power) => power / total);
    const mix = [0, 1, 2].map((c) => shares.reduce((sum, share, i) => sum + share * VALUES[i][c], 0));
    const [cx, cy] = at(query);
    plane.replaceChildren(...KEYS.flatMap((key, i) => {
      const [x, y] = at(key.map((value) => 1.18 * value));
      return [arrow(key, rgb(VALUES[i]), 2 + 10 * shares[i]), draw("text", { x: x - 4, y: y + 5 }, i)];
    }), arrow(query, "currentColor", 4), draw("circle", { cx, cy, r: 7, fill: "currentColor" }));
    const head = ["key", "q · k", "÷ √2", "exp", "probability"].map((text) => make("th", { scope: "col" }, text));
    table.replaceChildren(make("thead", {}, make("tr", {}, ...head)), make("tbody", {}, ...KEYS.map((_, i) => {
      const cells = [dots, scores, powers, shares].map((column) => make("td", {}, number(column[i])));
      return make("tr", {}, make("th", { scope: "row" }, `${i} `, swatch(VALUES[i])), ...cells);
    })));
    const text = `Probabilities of keys 0 to 4: ${shares.map((share) => number(share)).join(", ")}.`;
    plane.setAttribute("aria-label", `A query and five keys as arrows. ${text}`);
    output.replaceChildren("The values are colours here; the output is their mix: ", swatch(mix));
    heard.textContent = text;
  };
  fill(make("p", { class: "live-question" }, QUESTION),
    row(make("div", { class: "live-stage" }, plane), controls(angle.box, length.box, table, output, link.box)), heard);
  show();
});
