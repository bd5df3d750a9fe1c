// Chapter 5: a kernel of 3 x 3 over an attention map of nine patches, three in a row of the image.
deepvitLive.figure("live-kernel", (root, fill) => {
  const { make, range, number, choice, row, controls, listener, squares, colour, linked } = deepvitLive;
  const N = 9, CELL = 30;
  const KERNELS = [
    ["its own entry only", [0, 0, 0, 0, 1, 0, 0, 0, 0]],
    ["the mean of all nine", Array(9).fill(1 / 9)],
    ["along the row: neighbouring keys", [0, 0, 0, 0.25, 0.5, 0.25, 0, 0, 0]],
    ["along the diagonal: both move on", [0.25, 0, 0, 0, 0.5, 0, 0, 0, 0.25]],
    ["sharper: the entry less its neighbours", [0, -0.5, 0, -0.5, 3, -0.5, 0, -0.5, 0]],
  ];
  // Every query looks most at the patch that follows it, and a little at patch 4.
  const map = range(N, (q) => {
    const powers = range(N, (k) => Math.exp(3 * (k === (q + 1) % N) + 1.5 * (k === 4)));
    return powers.map((power) => power / powers.reduce((sum, each) => sum + each, 0));
  });
  // The entry that place i of a kernel lies on, whose middle is on (q, k); zeros beyond the edge.
  const under = (i, q, k) => map[q + Math.floor(i / 3) - 1]?.[k + (i % 3) - 1] ?? 0;
  const link = linked("live-kernel", () => ({ kernel: kernel.value, entry: chosen }));
  let chosen = link.given("entry", 4 * N + 5, N * N - 1);
  const kernel = choice("Kernel", KERNELS.map(([name]) => name), () => show());
  kernel.value = link.given("kernel", 0, KERNELS.length - 1);
  const canvases = range(2, () => make("canvas", { width: N * CELL, height: N * CELL, role: "img" }));
  const places = squares("Entry that the kernel's middle lies on; move with the arrow keys", N,
    (i) => `query ${Math.floor(i / N)}, key ${i % N}`, (i) => { chosen = i; show(); }, true);
  const weights = make("div", { class: "live-kernel", role: "img" }), says = make("p"), heard = listener();

  const paint = (canvas, values, mark) => {
    const brush = canvas.getContext("2d"), scale = Math.max(...values.flat().map(Math.abs));
    brush.fillStyle = "#f7f7f7";
    brush.fillRect(0, 0, N * CELL, N * CELL);
    values.forEach((line, q) => line.forEach((value, k) => {
      brush.fillStyle = colour(value, scale);
      brush.fillRect(k * CELL, q * CELL, CELL - 1, CELL - 1);
    }));
    const [q, k] = [Math.floor(chosen / N), chosen % N];
    Object.assign(brush, { strokeStyle: "#000", lineWidth: 3 });
    brush.strokeRect((k - mark) * CELL, (q - mark) * CELL, (2 * mark + 1) * CELL, (2 * mark + 1) * CELL);
  };
  const show = () => {
    const w = KERNELS[kernel.value][1], [q, k] = [Math.floor(chosen / N), chosen % N];
    const sum = (y, x) => w.reduce((all, weight, i) => all + weight * under(i, y, x), 0);
    const result = range(N, (y) => range(N, (x) => sum(y, x)));
    paint(canvases[0], map, 1);
    paint(canvases[1], result, 0);
    places.mark(chosen);
    const products = w.map((weight, i) => `${number(weight)} · ${number(under(i, q, k))}`);
    weights.replaceChildren(...products.map((text) => make("span", {}, text)));
    weights.setAttribute("aria-label", `Nine products of weight and entry: ${products.join(", ")}`);
    const keys = [k - 1, k, k + 1].filter((key) => key >= 0 && key < N);
    const rowsOf = new Set(keys.map((key) => Math.floor(key / 3)));
    const text = `Query ${q}, key ${k}: ${number(map[q][k])} becomes ${number(result[q][k])}; the row's sum, `
      + `${number(result[q].reduce((all, value) => all + value, 0))}. The keys are patches ${keys.join(", ")}: `
      + (rowsOf.size > 1 ? "they lie in two rows of the image." : "they lie in one row of the image.");
    const name = (which) => `The map ${which} the convolution. ${text}`;
    canvases.forEach((canvas, i) => canvas.setAttribute("aria-label", name(i ? "after" : "before")));
    says.textContent = text;
    heard.textContent = `${KERNELS[kernel.value][0]}. ${text}`;
  };
  const stage = (...parts) => make("div", { class: "live-stage" }, ...parts);
  const titled = (title, ...parts) => make("figure", {}, stage(...parts), make("figcaption", {}, title));
  const nine = make("figure", {}, weights, make("figcaption", {}, "weight · entry, nine products"));
  fill(make("p", { class: "live-question" }, "Drag the kernel over the map (queries downwards, keys to the right)."),
    row(titled("before, and the nine entries that are joined", canvases[0], places.box), titled("after", canvases[1])),
    row(controls(kernel.box, says, link.box), nine), heard);
  show();
});
