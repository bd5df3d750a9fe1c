// The book's trained networks at work on a picture: where each block looks from a patch, with a remedy and without;
// what the networks take the picture for; and what changes when the maps of a block are replaced. A place on a page
// of class `live-networks` gets the picture and the maps; with `live-whole`, all of it.
(() => {
  const { make, range, number, signed, choice, slider, button, row, controls, listener } = deepvitLive;
  const { squares, colour, script, networks } = deepvitLive;
  const KINDS = [["cifar10", "photographs of ten classes (CIFAR-10)"], ["shapes", "drawn shapes of ten classes"]];
  const REMEDIES = [["re", "Re-attention"], ["refiner", "Refiner"], ["layerscale", "LayerScale"]];
  const WAYS = [ // for the network, for the reader, in the records
    [null, "nothing: leave it"],
    ["previous", "the map of the block before", "previous"],
    ["mean", "the mean of its rows, for every query", "query-mean"],
    ["uniform", "the uniform map", "uniform"],
    ["other", "another picture's map", "other image"],
    ["none", "no map at all, zeros", "no attention"],
  ];
  const MEGABYTES = [1.7, 1]; // that a network of each kind takes to load
  const COLUMNS = 6, CELL = 64, GAP = 4; // of the blocks' maps, in pixels of the canvas
  const SEEN = 32, SHOWN = 192; // pixels along a side of a picture: for the networks, and for the reader
  const INKS = ["#1b1f24", "#ffffff", "#c0392b", "#e08e0b", "#2e8b57", "#2f6fbf", "#8e5a2b"], PAPER = "#9cc7ee";
  const NOTE = "Your picture stays on this machine: the networks run in this page. They see it at 32 × 32 pixels, "
    + "and call whatever you show them one of the ten classes that they know: ";

  const percent = (share) => `${number(100 * share, share < 0.0995 ? 1 : 0)} %`;
  const largest = (values) => values.reduce((best, value, i) => (value > values[best] ? i : best), 0);
  const titled = (pairs) => pairs.map(([, title]) => title);
  const named = (element, name) => element.setAttribute("aria-label", name);

  // --- pieces of a figure ------------------------------------------------------------------------------------------

  // The token, but for the class token's, whose weight is the largest on either side of zero.
  const strongest = (weights) => {
    let best = 1;
    for (let i = 2; i < weights.length; i++) if (Math.abs(weights[i]) > Math.abs(weights[best])) best = i;
    return best;
  };

  const outline = (brush, x, y, size, width) => { // dark within light is seen on any ground
    for (const [shade, wider] of [["#fff", 2], ["#000", 0]]) {
      brush.strokeStyle = shade;
      brush.lineWidth = width + wider;
      brush.strokeRect(x + width / 2, y + width / 2, size - width, size - width);
    }
  };

  const mapCanvas = (columns, rows) => {
    const along = (count) => count * (CELL + GAP) - GAP;
    return make("canvas", { width: along(columns), height: along(rows), role: "img" });
  };

  // Tells `choose` which of the maps of a canvas was clicked.
  const onCell = (canvas, columns, count, choose) => canvas.addEventListener("click", (event) => {
    const box = canvas.getBoundingClientRect(), lines = Math.ceil(count / columns);
    const at = (position, length, cells) => Math.min(cells - 1, Math.floor((position / length) * cells));
    const line = at(event.clientY - box.top, box.height, lines);
    const column = at(event.clientX - box.left, box.width, columns);
    const cell = line * columns + column;
    if (cell < count) choose(cell);
  });

  // Rows of maps as shades over a pale picture, all on one scale, which is returned; a row may be missing.
  const drawRows = (canvas, columns, rows, { pale, side, query, chosen }) => {
    const brush = canvas.getContext("2d"), patch = CELL / side;
    const scale = Math.max(...rows.map((weights) => (weights ? Math.abs(weights[strongest(weights)]) : 0)));
    brush.clearRect(0, 0, canvas.width, canvas.height);
    brush.imageSmoothingEnabled = false;
    rows.forEach((weights, index) => {
      const left = (index % columns) * (CELL + GAP), top = Math.floor(index / columns) * (CELL + GAP);
      const place = (i) => [left + (i % side) * patch, top + Math.floor(i / side) * patch];
      brush.drawImage(pale, left, top, CELL, CELL);
      for (let i = 0; weights && i < side * side; i++) {
        brush.fillStyle = colour(weights[i + 1], scale);
        brush.fillRect(...place(i), patch, patch);
      }
      if (query) outline(brush, ...place(query - 1), patch, 1);
      if (index === chosen) outline(brush, left, top, CELL, 3);
      brush.font = "bold 13px sans-serif";
      brush.fillStyle = "rgba(255, 255, 255, 0.85)";
      brush.fillRect(left, top, index > 9 ? 19 : 12, 15);
      brush.fillStyle = "#1b1f24";
      brush.fillText(index, left + 2, top + 12);
    });
    return scale;
  };

  const drawBars = (bars, classes, before, shares) => {
    bars.replaceChildren(...classes.map((name, i) => {
      const bar = make("span", { class: "live-bar", style: `width: ${100 * shares[i]}%` });
      const track = make("span", { class: "live-track" }, bar);
      if (before !== shares) track.append(make("span", { class: "live-before", style: `left: ${100 * before[i]}%` }));
      const share = make("span", {}, percent(shares[i]));
      return make("span", { class: "live-class" }, make("span", {}, name), track, share);
    }));
    named(bars, `Shares of the classes: ${classes.map((name, i) => `${name} ${percent(shares[i])}`).join(", ")}`);
  };

  // How a replacement changed the answer; `cost` is what was recorded of it, [change of loss, its error], or nothing.
  const tellChange = (classes, before, shares, cost) => {
    const old = largest(before), top = largest(shares);
    const divergence = before.reduce((sum, share, i) => sum + share * Math.log(share / shares[i]), 0);
    const recorded = cost?.[0] == null ? "No record of this on test images."
      : `Recorded on ${networks.start.recorded} test images: loss ${signed(cost[0], 3)} ± ${number(cost[1], 3)}.`;
    const after = `${top === old ? "" : `${classes[top]}, `}${percent(shares[top])}`;
    const change = `${classes[old]}, ${percent(before[old])} → ${after}`;
    return `It says: ${change} (divergence ${number(divergence, 3)}). ${recorded}`;
  };

  // What one network shows: its blocks' maps, and in the whole figure the heads of a block and the classes' shares.
  const makePanel = (whole) => {
    const title = make("h4", { class: "live-title" }), maps = mapCanvas(COLUMNS, 4), caption = make("figcaption");
    const headsTitle = make("p", { class: "live-note" }), heads = mapCanvas(4, 2);
    const bars = make("div", { class: "live-bars", role: "img" }), answer = make("p", { class: "live-answer" });
    const more = whole ? [headsTitle, heads, bars] : [];
    const box = make("figure", { class: "live-panel" }, title, maps, caption, ...more, answer);
    return { box, title, maps, caption, headsTitle, heads, bars, answer };
  };

  // A picture as the reader sees it, as the networks do, and pale, so that weights stand out on it.
  const makePicture = () => {
    const image = make("img", { alt: "", width: SHOWN, height: SHOWN });
    const [seen, pale] = range(2, () => make("canvas", { width: SEEN, height: SEEN }));
    const show = ({ title, shown }) => {
      image.src = shown;
      image.alt = title;
      image.classList.toggle("live-pixels", shown.startsWith("data:"));
    };
    const showSeen = (pixels) => { // (3, 32, 32), or nothing: then what the reader sees, smaller
      const brush = seen.getContext("2d"), area = SEEN * SEEN;
      if (pixels) {
        const data = brush.createImageData(SEEN, SEEN);
        for (let i = 0; i < area; i++) data.data.set([pixels[i], pixels[area + i], pixels[2 * area + i], 255], 4 * i);
        brush.putImageData(data, 0, 0);
      } else brush.drawImage(image, 0, 0, SEEN, SEEN);
      const light = pale.getContext("2d");
      light.filter = "grayscale(1)";
      light.drawImage(seen, 0, 0);
      light.filter = "none";
      light.fillStyle = "rgba(255, 255, 255, 0.6)";
      light.fillRect(0, 0, SEEN, SEEN);
    };
    return { image, seen, pale, show, showSeen };
  };

  // A small canvas to draw on; `done` gets the drawing as a file after each stroke.
  const easel = (done) => {
    const canvas = make("canvas", { class: "live-easel", width: SHOWN, height: SHOWN, role: "img" });
    named(canvas, "A place to draw with a pointer; a file does the same by keyboard");
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
      const pot = make("button", { type: "button", class: "live-ink", style: `background: ${shade}` });
      named(pot, `colour ${i + 1}`);
      pot.addEventListener("click", () => {
        ink = shade;
        pots.forEach((each) => each.setAttribute("aria-pressed", each === pot));
      });
      return pot;
    });
    pots[0].setAttribute("aria-pressed", true);
    clear();
    return make("details", {}, make("summary", {}, "Draw a picture"), canvas, row(...pots, button("Clear", clear)));
  };

  // --- a figure ----------------------------------------------------------------------------------------------------
  async function begin(root, fill) {
    const whole = root.classList.contains("live-whole");
    await script("live/start.js");
    const { start, samples, effects } = networks;
    const state = {
      kind: 0, remedy: 0, way: 0, deep: false, picture: samples[0], query: start.query, head: -1, block: 12,
    };
    let shape = { depth: 24, heads: 8, tokens: 17, side: 4 }; // of the networks that are shown
    let busy = false, again = false;
    const names = () => ["plain", REMEDIES[state.remedy][0]].map((remedy) => `${remedy}_${KINDS[state.kind][0]}`);
    const place = (token) => {
      if (!token) return "the class token";
      return `row ${Math.floor((token - 1) / shape.side) + 1}, column ${((token - 1) % shape.side) + 1}`;
    };
    // What was computed, by network: at first the rows of one patch, from the book's build.
    const known = Object.values(start.networks).map((each) => ({ ...each, before: each.shares }));
    let found = { results: Object.fromEntries(names().map((name, i) => [name, known[i]])), signature: null };

    // The picture, the patches over it, and pictures of the reader's own
    const picture = makePicture(), holder = make("div", { class: "live-image" }, picture.image);
    const classToken = button("Ask the class token", () => set({ query: 0 }));
    let patches;
    const putPatches = () => {
      patches?.box.remove();
      const what = "Patch that is asked where it looks; move with the arrow keys";
      patches = squares(what, shape.side, (i) => `patch in ${place(i + 1)}`, (i) => set({ query: i + 1 }));
      holder.append(patches.box);
    };
    let count = 0;
    const own = (source, title) => {
      if (state.picture.own) URL.revokeObjectURL(state.picture.shown);
      count += 1;
      set({ picture: { key: `own ${count}`, title, source, shown: URL.createObjectURL(source), own: true } });
    };
    const upload = make("input", { type: "file", accept: "image/*" });
    upload.addEventListener("change", () => {
      if (upload.files[0]) own(upload.files[0], "your picture");
      upload.value = "";
    });
    const uploader = make("label", { class: "live-button live-upload" }, "Your own photo…", upload);
    root.addEventListener("dragover", (event) => event.preventDefault());
    root.addEventListener("drop", (event) => {
      event.preventDefault();
      if (event.dataTransfer.files[0]) own(event.dataTransfer.files[0], "your picture");
    });

    // Controls
    const picker = choice("Picture", [], () => {
      if (samples[picker.value]) set({ picture: samples[picker.value] });
    });
    const putSamples = () => {
      picker.put([...samples.map(({ title }) => title), "your own"]);
      picker.value = state.picture.own ? samples.length : samples.indexOf(state.picture);
    };
    // Networks of another kind start with a picture of theirs; which there are is known when their file is loaded.
    const changeKind = () => set({ kind: kind.value, unchosen: !state.picture.own });
    const kind = choice("Networks trained on", titled(KINDS), changeKind);
    const remedy = choice("Beside the plain network", titled(REMEDIES), () => set({ remedy: remedy.value }));
    const heads = ["mean of all heads", ...range(shape.heads, (i) => `head ${i}`)];
    const head = choice("Head", heads, () => set({ head: head.value - 1 }));
    const block = slider("Block", { max: shape.depth - 1, value: state.block }, () => set({ block: block.value }));
    const way = choice("Replace its map by", titled(WAYS), () => set({ way: way.value }));
    const where = choice("in", ["this block", "the deep half, all its blocks"], () => set({ deep: where.value === 1 }));

    const panels = range(2, () => makePanel(whole));
    panels.forEach((panel) => {
      onCell(panel.maps, COLUMNS, shape.depth, (chosen) => { block.value = chosen; set({ block: chosen }); });
      onCell(panel.heads, 4, shape.heads, (chosen) => { head.value = chosen + 1; set({ head: chosen }); });
    });
    const about = make("p", { class: "live-note" });
    const heard = listener(), waiting = make("p", { class: "live-waiting", "aria-hidden": "true" });

    // The weights of a block from the query, of one head or their mean; null while they are not computed.
    const rowOf = (name, index, which = state.head) => {
      const { tokens, heads: all } = shape, { query } = state, { maps, rows } = found.results[name] ?? {};
      if (!maps) return rows && query === start.query && which < 0 ? rows[index] : null;
      const of = (one) => {
        const at = ((index * all + one) * tokens + query) * tokens;
        return maps.subarray(at, at + tokens);
      };
      if (which >= 0) return of(which);
      const mean = new Float32Array(tokens);
      for (let one = 0; one < all; one++) of(one).forEach((weight, i) => { mean[i] += weight / all; });
      return mean;
    };

    const drawPanel = (panel, name, title) => {
      const rows = range(shape.depth, (index) => rowOf(name, index)), weights = rows[state.block];
      const result = found.results[name], classes = start.classes[KINDS[state.kind][0]];
      const common = { pale: picture.pale, side: shape.side, query: state.query };
      const scale = drawRows(panel.maps, COLUMNS, rows, { ...common, chosen: state.block });
      panel.title.textContent = title;
      panel.caption.textContent = "…";
      if (weights) {
        const best = strongest(weights);
        panel.caption.textContent = `Block ${state.block}: most to ${place(best)} (${number(weights[best])}); `
          + `class token ${number(weights[0])}. Full colour: ${number(scale)}.`;
      }
      const what = `${title}: where ${shape.depth} blocks look from ${place(state.query)}.`;
      named(panel.maps, `${what} ${panel.caption.textContent}`);
      if (whole) {
        const each = range(shape.heads, (one) => (result?.maps ? rowOf(name, state.block, one) : null));
        const theirs = `${shape.heads} heads of block ${state.block}`;
        panel.headsTitle.textContent = result?.maps ? `The ${theirs}:` : `Choose a patch, and the ${theirs} appear:`;
        drawRows(panel.heads, 4, each, { ...common, chosen: state.head });
        named(panel.heads, `${title}: the same from the ${shape.heads} heads of block ${state.block}`);
        if (result) drawBars(panel.bars, classes, state.way ? result.before : result.shares, result.shares);
      }
      panel.answer.textContent = "";
      if (result && !state.way) {
        const top = largest(result.shares);
        panel.answer.textContent = `Of its ten classes it says: ${classes[top]}, ${percent(result.shares[top])}.`;
      } else if (result) {
        const cost = state.deep ? null : effects.get(name)?.[WAYS[state.way][2]]?.[state.block];
        panel.answer.textContent = tellChange(classes, result.before, result.shares, cost);
      }
      return `${title}: ${panel.caption.textContent} ${panel.answer.textContent}`;
    };
    const draw = () => {
      patches.mark(state.query - 1);
      classToken.setAttribute("aria-pressed", state.query === 0);
      about.textContent = `${NOTE}${start.classes[KINDS[state.kind][0]].join(", ")}.`;
      const titles = ["plain", REMEDIES[state.remedy][1]];
      const told = names().map((name, which) => drawPanel(panels[which], name, titles[which]));
      const from = `From ${place(state.query)} of ${state.picture.title}, ${heads[state.head + 1]}.`;
      if (found.signature) heard.textContent = `${from} ${told.join(" ")}`;
    };

    // What is to be computed for the present state; whatever else changes is drawing only.
    const wanted = () => {
      const half = shape.depth / 2, blocks = state.deep ? range(half, (i) => half + i) : [state.block];
      const other = samples.find((sample) => sample !== state.picture) ?? state.picture;
      const [picture, another] = [state.picture, other].map(({ key, source }) => ({ key, source }));
      const change = state.way ? { blocks, how: WAYS[state.way][0] } : null;
      return { step: "compute", names: names(), picture, other: another, change };
    };
    const signature = (message) => JSON.stringify([message.names, message.picture.key, message.change]);

    async function computeOnce() {
      const missing = names().filter((name) => !networks.isLoaded(name)).length;
      const what = missing === 2 ? "two networks" : "a network", size = number(missing * MEGABYTES[state.kind], 1);
      waiting.textContent = missing ? `loading ${what}, ${size} MB …` : "computing …";
      await script("live/samples.js");
      if (state.unchosen) {
        Object.assign(state, { picture: samples[state.kind], unchosen: false });
        picture.show(state.picture);
      }
      putSamples();
      const [loaded] = await Promise.all(names().map(networks.load));
      const message = wanted(), answer = await networks.ask(message);
      if (signature(message) !== signature(wanted())) { // the reader has gone on
        again = true;
        return;
      }
      const resized = loaded.side !== shape.side;
      shape = loaded;
      found = { ...answer, signature: signature(message) };
      picture.showSeen(answer.pixels);
      if (resized) {
        state.query = Math.min(state.query, shape.tokens - 1);
        putPatches();
      }
      waiting.textContent = "";
      draw();
    }
    // The newest wish wins: while one is computed, others wait, and only the last of them is computed.
    async function compute() {
      again = true;
      if (busy) return;
      busy = true;
      root.setAttribute("aria-busy", "true");
      while (again) {
        again = false;
        await computeOnce().catch(fail);
      }
      busy = false;
      root.removeAttribute("aria-busy");
    }
    const fail = ({ message }) => {
      const noPicture = message === "no picture", file = state.picture.source?.name ?? "The file";
      const text = noPicture ? `${file} cannot be read as a picture. Choose a JPEG, PNG or WebP file.`
        : `This could not be computed: ${message}`;
      waiting.textContent = text;
      heard.textContent = text;
      if (!noPicture) return;
      state.picture = samples[0];
      putSamples();
      picture.show(state.picture);
    };
    const set = (changes) => {
      Object.assign(state, changes);
      if (changes.picture) picture.show(changes.picture);
      const current = found.signature === signature(wanted());
      if (!current) compute();
      if (current || !(changes.picture || "kind" in changes)) draw();
    };

    putSamples();
    putPatches();
    picture.show(state.picture);
    await picture.image.decode();
    picture.showSeen();
    const question = `Click a patch of the picture: where do ${shape.depth} blocks look from there, without and with `
      + "a remedy?";
    const seenCaption = make("figcaption", {}, "as the networks see it: 32 × 32 pixels");
    const seen = make("figure", { class: "live-seen" }, picture.seen, seenCaption);
    const tools = [classToken, uploader, ...(whole ? [seen] : [])];
    const note = make("p", { class: "live-note" }, "Orange lines mark the shares before.");
    const change = make("fieldset", {}, make("legend", {}, "Replace maps"),
      controls(block.box, way.box, where.box, note));
    const others = controls(picker.box, kind.box, remedy.box, head.box, easel((file) => own(file, "your drawing")));
    const parts = [
      make("div", { class: "live-picker" }, holder, row(...tools)),
      make("div", { class: "live-panels" }, ...panels.map(({ box }) => box)),
      ...(whole ? [make("div", { class: "live-settings" }, change, others)] : []),
    ];
    fill(make("p", { class: "live-question" }, question), waiting, make("div", { class: "live-parts" }, ...parts),
      make("p", { class: "live-legend" }, "below zero", make("span"), "above zero"),
      about, heard);
    draw();
  }

  deepvitLive.figure("live-networks", begin);
})();
