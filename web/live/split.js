// Chapter 2: the windows of a soft split, and which of them hold one pixel.
deepvitLive.figure("live-split", (root, fill) => {
  const { make, range, slider, row, controls, listener, squares, linked } = deepvitLive;
  const SIDE = 12, MARGIN = 3, CELL = 16; // a margin for the padding
  const LINES = ["#0b5cad", "#a84300", "#00693f", "#8a3f76"];
  const link = linked("live-split", () => ({ k: kernel.value, s: stride.value, p: padding.value, pixel }));
  let pixel = link.given("pixel", 5 * SIDE + 5, SIDE * SIDE - 1);
  const kernel = slider("Window k", { min: 2, max: 7, value: link.given("k", 4, 7, 2) }, () => show());
  const stride = slider("Stride s", { min: 1, max: 7, value: link.given("s", 2, 7, 1) }, () => show());
  const padding = slider("Padding p", { min: 0, max: MARGIN, value: link.given("p", 1, MARGIN) }, () => show());
  const size = (SIDE + 2 * MARGIN) * CELL, canvas = make("canvas", { width: size, height: size, role: "img" });
  const places = squares("Pixel whose windows are shown; move with the arrow keys", SIDE,
    (i) => `pixel in row ${Math.floor(i / SIDE) + 1}, column ${(i % SIDE) + 1}`, (i) => { pixel = i; show(); }, true);
  places.box.style.inset = `${100 * MARGIN / (SIDE + 2 * MARGIN)}%`;
  const says = make("p"), heard = listener();

  const show = () => {
    const [k, s, p] = [kernel, stride, padding].map(({ value }) => value);
    const along = Math.floor((SIDE + 2 * p - k) / s) + 1;
    const holding = (at) => range(along).filter((i) => i * s - p <= at && at < i * s - p + k); // windows along a side
    const rows = holding(Math.floor(pixel / SIDE)), columns = holding(pixel % SIDE);
    const brush = canvas.getContext("2d"), place = (at) => (at + MARGIN) * CELL;
    brush.clearRect(0, 0, size, size);
    brush.fillStyle = "#8884";
    brush.fillRect(place(-p), place(-p), (SIDE + 2 * p) * CELL, (SIDE + 2 * p) * CELL); // zeros around the image
    for (let i = 0; i < SIDE * SIDE; i++) { // the more windows hold a pixel, the darker it is
      const count = holding(Math.floor(i / SIDE)).length * holding(i % SIDE).length;
      brush.fillStyle = `hsl(210, 60%, ${Math.max(30, 96 - 5 * count)}%)`;
      brush.fillRect(place(i % SIDE), place(Math.floor(i / SIDE)), CELL - 1, CELL - 1);
    }
    rows.flatMap((y) => columns.map((x) => [y, x])).forEach(([y, x], i) => {
      brush.strokeStyle = LINES[i % LINES.length];
      brush.lineWidth = 3;
      brush.strokeRect(place(x * s - p) + 1, place(y * s - p) + 1, k * CELL - 3, k * CELL - 3);
    });
    brush.fillStyle = "#d98200";
    brush.fillRect(place(pixel % SIDE), place(Math.floor(pixel / SIDE)), CELL - 1, CELL - 1);
    const tokens = rows.flatMap((y) => columns.map((x) => y * along + x));
    const named = tokens.length > 9 ? `${tokens.slice(0, 9).join(", ")}, …` : tokens.join(", ");
    const text = `${along} × ${along} = ${along * along} windows, so ${along * along} tokens. `
      + (tokens.length ? `This pixel is in ${tokens.length} of them: token${tokens.length === 1 ? "" : "s"} ${named}.`
        : "This pixel is in none: it is lost.") + (s > k ? " The stride is larger than the window." : "");
    places.mark(pixel);
    says.textContent = text;
    canvas.setAttribute("aria-label", `An image of 12 by 12 pixels with the windows that hold one pixel. ${text}`);
    heard.textContent = `k ${k}, s ${s}, p ${p}. ${text}`;
  };
  fill(make("p", { class: "live-question" }, "Which tokens share a pixel? Choose a pixel, and change the windows."),
    row(make("div", { class: "live-stage" }, canvas, places.box),
      controls(kernel.box, stride.box, padding.box, says, link.box)), heard);
  show();
});
