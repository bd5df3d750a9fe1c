// A place to draw a picture for the networks, loaded when a reader opens it.
(() => {
  const { make, row, button } = deepvitLive;
  const SHOWN = 224; // pixels along a side
  const INKS = ["#1b1f24", "#ffffff", "#c0392b", "#e08e0b", "#2e8b57", "#2f6fbf", "#8e5a2b"], PAPER = "#9cc7ee";

  // A small canvas to draw on; `done` gets the drawing as a file after each stroke.
  deepvitLive.easel = (done) => {
    const canvas = make("canvas", { class: "live-easel", width: SHOWN, height: SHOWN, role: "img" });
    canvas.setAttribute("aria-label", "A place to draw with a pointer; a file does the same by keyboard");
    const brush = canvas.getContext("2d");
    let ink = INKS[0], last = null;
    const clear = () => {
      brush.fillStyle = PAPER;
      brush.fillRect(0, 0, SHOWN, SHOWN);
    };
    const stroke = (event) => {
      const box = canvas.getBoundingClientRect();
      const next = [event.clientX - box.left, event.clientY - box.top].map((length) => length * SHOWN / box.width);
      Object.assign(brush, { strokeStyle: ink, lineWidth: 16, lineCap: "round" });
      brush.beginPath();
      brush.moveTo(...(last ?? next));
      brush.lineTo(...next);
      brush.stroke();
      last = next;
    };
    canvas.addEventListener("pointerdown", (event) => { canvas.setPointerCapture(event.pointerId); stroke(event); });
    canvas.addEventListener("pointermove", (event) => { if (last) stroke(event); });
    canvas.addEventListener("pointerup", () => { last = null; canvas.toBlob(done); });
    canvas.addEventListener("pointercancel", () => { last = null; });
    const pots = INKS.map((shade, i) => {
      const pot = make("button", {
        type: "button", class: "live-ink", style: `background: ${shade}`, "aria-label": `colour ${i + 1}`,
      });
      pot.addEventListener("click", () => {
        ink = shade;
        pots.forEach((each) => each.setAttribute("aria-pressed", each === pot));
      });
      return pot;
    });
    pots[0].setAttribute("aria-pressed", true);
    clear();
    return [canvas, row(...pots, button("Clear", clear))];
  };
})();
