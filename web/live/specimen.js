// The book's trained networks at work on a picture: where each block looks from a patch, with a remedy and without, what
// the networks take the picture for, and what changes when the maps of a block are replaced. A place on a page of class
// `live-networks` gets the picture and the maps; with `live-whole`, all of it.
(() => {
  const { make, range, number, signed, choice, slider, button, row, controls, listener, squares, colour, script } = deepvitLive;
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
  const COLUMNS = 6, CELL = 64, GAP = 4; // of the blocks' maps, in pixels of the canvas
  const COLOURS = ["#1b1f24", "#ffffff", "#c0392b", "#e08e0b", "#2e8b57", "#2f6fbf", "#8e5a2b"];
  const PAPER = "#9cc7ee";
  const percent = (share) => `${number(100 * share, share < 0.0995 ? 1 : 0)} %`;
  const largest = (values) => values.reduce((best, value, i) => (value > values[best] ? i : best), 0);

  // --- the networks, in a worker: loaded when first asked for, and those of one kind kept --------------------------
  const effects = new Map(), arrived = new Map(), loaded = new Map();
  let worker, keptKind, queue = Promise.resolve();
  deepvitLive.takeSpecimen = ({ name, effects: costs, weights }) => {
    effects.set(name, costs);
    arrived.set(name, weights);
  };
  async function startWorker() {
    await Promise.all(["network.js", "photo.js", "live/worker.js"].map(script));
    const parts = { visionNetwork, photoPixels, readPhoto, liveWorker };
    const text = Object.entries(parts).map(([name, part]) => `const ${name} = ${part};`).join("\n");
    return new Worker(URL.createObjectURL(new Blob([`${text}\nliveWorker();`], { type: "text/javascript" })));
  }
  const ask = (message) => {
    const answered = queue.then(async () => {
      worker ??= await startWorker();
      return new Promise((resolve, reject) => {
        worker.onmessage = ({ data }) => (data.error ? reject(new Error(data.error)) : resolve(data.answer));
        worker.postMessage(message);
      });
    });
    queue = answered.catch(() => {});
    return answered;
  };
  async function fetchSpecimen(name) {
    const file = `live/${name}.js`;
    await script(file);
    deepvitLive.forget(file); // its text is not kept: who wants it again loads it again
    const weights = arrived.get(name);
    arrived.delete(name);
    return ask({ step: "load", name, weights });
  }
  function load(name) {
    const kind = name.split("_")[1];
    if (kind !== keptKind) {
      keptKind = kind;
      loaded.clear();
      ask({ step: "forget" });
    }
    if (!loaded.has(name)) {
      loaded.set(name, fetchSpecimen(name).catch((error) => {
        loaded.delete(name);
        throw error;
      }));
    }
    return loaded.get(name);
  }

  let start;
  const samples = []; // the first is known from the start, with more pixels for the reader than the networks see
  deepvitLive.takeStart = (given) => {
    start = given;
    samples.push({ key: start.title, title: start.title, shown: deepvitLive.address(`live/${start.shown}`) });
  };
  deepvitLive.takeSamples = (given) => given.forEach(({ title, png }, i) => {
    samples[i] = Object.assign(samples[i] ?? { key: title, title, shown: `data:image/png;base64,${png}` }, { source: png });
  });

  // --- a figure ----------------------------------------------------------------------------------------------------
  async function begin(root, fill) {
    const whole = root.classList.contains("live-whole");
    await script("live/start.js");
    const state = { kind: 0, remedy: 0, picture: samples[0], query: start.query, head: -1, block: 12, way: 0, deep: false };
    let shape = { depth: 24, heads: 8, tokens: 17, side: 4 }; // of the networks that are shown
    let found = null, busy = false, again = false;
    const names = () => ["plain", REMEDIES[state.remedy][0]].map((remedy) => `${remedy}_${KINDS[state.kind][0]}`);
    const titles = () => ["plain", REMEDIES[state.remedy][1]];
    const place = (token) => (token ? `row ${Math.floor((token - 1) / shape.side) + 1}, column ${((token - 1) % shape.side) + 1}`
      : "the class token");

    // The picture: as the reader sees it, with the patches over it, and as the network does.
    const image = make("img", { alt: "", width: 192, height: 192 });
    const seen = make("canvas", { width: 32, height: 32 }), pale = make("canvas", { width: 32, height: 32 });
    const holder = make("div", { class: "live-image" }, image);
    const seenFigure = make("figure", { class: "live-seen" }, seen, make("figcaption", {}, "as the networks see it: 32 × 32 pixels"));
    const classToken = button("Ask the class token", () => set({ query: 0 }));
    let patches;
    const putPatches = () => {
      patches?.box.remove();
      patches = squares("Patch that is asked where it looks; move with the arrow keys", shape.side,
        (i) => `patch in row ${Math.floor(i / shape.side) + 1}, column ${(i % shape.side) + 1}`, (i) => set({ query: i + 1 }));
      holder.append(patches.box);
    };
    const showPicture = () => {
      image.src = state.picture.shown;
      image.alt = state.picture.title;
      image.classList.toggle("live-pixels", state.picture.shown.startsWith("data:"));
    };
    const showSeen = (source) => { // an image or pixels (3, 32, 32)
      const brush = seen.getContext("2d");
      if (source === image) brush.drawImage(image, 0, 0, 32, 32);
      else {
        const data = brush.createImageData(32, 32);
        for (let i = 0; i < 1024; i++) data.data.set([source[i], source[1024 + i], source[2048 + i], 255], 4 * i);
        brush.putImageData(data, 0, 0);
      }
      const light = pale.getContext("2d"); // lets the weights stand out
      light.filter = "grayscale(1)";
      light.drawImage(seen, 0, 0);
      light.filter = "none";
      light.fillStyle = "rgba(255, 255, 255, 0.6)";
      light.fillRect(0, 0, 32, 32);
    };

    // A picture of one's own: it stays on this machine.
    const own = (file, title) => {
      if (state.picture.own) URL.revokeObjectURL(state.picture.shown);
      own.count = (own.count ?? 0) + 1;
      set({ picture: { key: `${title} ${own.count}`, title, source: file, shown: URL.createObjectURL(file), own: true } });
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
    const privacy = make("p", { class: "live-note" }, "Your picture stays on this machine: the networks run in this page. They see "
      + "it at 32 × 32 pixels and know ten classes, so they call whatever you show them one of the ten.");

    // Controls
    const picker = choice("Picture", [], () => {
      if (samples[picker.value]) set({ picture: samples[picker.value] });
    });
    const putSamples = () => {
      picker.put([...samples.map(({ title }) => title), "your own"]);
      picker.value = state.picture.own ? samples.length : samples.indexOf(state.picture);
    };
    const kind = choice("Networks trained on", KINDS.map(([, title]) => title), () => changeKind());
    const remedy = choice("Beside the plain network", REMEDIES.map(([, title]) => title), () => set({ remedy: remedy.value }));
    const head = choice("Head", ["mean of all heads", ...range(shape.heads, (i) => `head ${i}`)], () => set({ head: head.value - 1 }));
    const block = slider("Block", { max: shape.depth - 1, value: state.block }, () => set({ block: block.value }));
    // Networks of another kind start with a picture of theirs; which there are is known when their file is loaded.
    const changeKind = () => set({ kind: kind.value, unchosen: !state.picture.own });
    const way = choice("Replace its map by", WAYS.map(([, title]) => title), () => set({ way: way.value }));
    const where = choice("in", ["this block", "the deep half, all its blocks"], () => set({ deep: where.value === 1 }));

    // One panel for each of both networks
    const heard = listener(), waiting = make("p", { class: "live-waiting", "aria-hidden": "true" });
    const panels = [0, 1].map((which) => {
      const rows = Math.ceil(shape.depth / COLUMNS), wide = (count) => count * (CELL + GAP) - GAP;
      const maps = make("canvas", { width: wide(COLUMNS), height: wide(rows), role: "img" });
      const heads = make("canvas", { width: wide(4), height: wide(2), role: "img" });
      const pick = (canvas, columns, count, choose) => canvas.addEventListener("click", (event) => {
        const box = canvas.getBoundingClientRect(), at = (position, length, cells) => Math.min(cells - 1, Math.floor((position / length) * cells));
        choose(at(event.clientY - box.top, box.height, count / columns) * columns + at(event.clientX - box.left, box.width, columns));
      });
      pick(maps, COLUMNS, shape.depth, (chosen) => {
        block.value = chosen;
        set({ block: chosen });
      });
      pick(heads, 4, shape.heads, (chosen) => {
        head.value = chosen + 1;
        set({ head: chosen });
      });
      const title = make("h4", { class: "live-title" }), caption = make("figcaption"), answer = make("p", { class: "live-answer" });
      const bars = make("div", { class: "live-bars", role: "img" }), headsTitle = make("p", { class: "live-note" });
      const box = make("figure", { class: "live-panel" }, title, maps, caption, ...(whole ? [headsTitle, heads, bars] : []), answer);
      return { maps, heads, headsTitle, title, caption, answer, bars, box };
    });

    // The weights of a block from the query, or null while they are not computed.
    const rowOf = (name, index, which = state.head) => {
      const { tokens, heads } = shape, { query } = state;
      const { maps, rows } = found?.results[name] ?? {};
      if (!maps) return query === start.query && which < 0 && rows ? rows[index] : null;
      const at = (one) => ((index * heads + one) * tokens + query) * tokens;
      if (which >= 0) return maps.subarray(at(which), at(which) + tokens);
      const mean = new Float32Array(tokens);
      for (let one = 0; one < heads; one++) for (let i = 0; i < tokens; i++) mean[i] += maps[at(one) + i] / heads;
      return mean;
    };
    const strongest = (weights) => Array.from(weights).reduce((best, weight, i) => (i && Math.abs(weight) > Math.abs(weights[best]) ? i : best), 1);

    // Some rows as maps over the picture, all on one scale.
    const drawRows = (canvas, columns, rows, chosen) => {
      const brush = canvas.getContext("2d"), { side } = shape, patch = CELL / side;
      const scale = Math.max(...rows.map((weights) => (weights ? Math.abs(weights[strongest(weights)]) : 0)));
      brush.clearRect(0, 0, canvas.width, canvas.height);
      brush.imageSmoothingEnabled = false;
      rows.forEach((weights, index) => {
        const left = (index % columns) * (CELL + GAP), top = Math.floor(index / columns) * (CELL + GAP);
        brush.drawImage(pale, left, top, CELL, CELL);
        for (let i = 0; weights && i < side * side; i++) {
          brush.fillStyle = colour(weights[i + 1], scale);
          brush.fillRect(left + (i % side) * patch, top + Math.floor(i / side) * patch, patch, patch);
        }
        if (state.query) outline(brush, left + ((state.query - 1) % side) * patch, top + Math.floor((state.query - 1) / side) * patch, patch, 1);
        if (index === chosen) outline(brush, left, top, CELL, 3);
        brush.font = "bold 13px sans-serif";
        brush.fillStyle = "rgba(255, 255, 255, 0.85)";
        brush.fillRect(left, top, index > 9 ? 19 : 12, 15);
        brush.fillStyle = "#1b1f24";
        brush.fillText(index, left + 2, top + 12);
      });
      return scale;
    };
    const outline = (brush, x, y, size, width) => { // dark within light is seen on any ground
      for (const [shade, wider] of [["#fff", 2], ["#000", 0]]) {
        brush.strokeStyle = shade;
        brush.lineWidth = width + wider;
        brush.strokeRect(x + width / 2, y + width / 2, size - width, size - width);
      }
    };

    const drawBars = (bars, classes, before, shares) => {
      bars.replaceChildren(...classes.map((name, i) => {
        const track = make("span", { class: "live-track" }, make("span", { class: "live-bar", style: `width: ${100 * shares[i]}%` }));
        if (before !== shares) track.append(make("span", { class: "live-before", style: `left: ${100 * before[i]}%` }));
        return make("span", { class: "live-class" }, make("span", {}, name), track, make("span", {}, percent(shares[i])));
      }));
      bars.setAttribute("aria-label", `Shares of the classes: ${classes.map((name, i) => `${name} ${percent(shares[i])}`).join(", ")}`);
    };

    // What the answer is, how a replacement changed it, and what it did to the loss on many test images.
    const tellAnswer = (name, classes, { before, shares }) => {
      const top = largest(shares), old = largest(before);
      if (!state.way) return `It says: ${classes[top]}, ${percent(shares[top])}.`;
      const divergence = before.reduce((sum, share, i) => sum + share * Math.log(share / shares[i]), 0);
      const recorded = state.deep ? null : effects.get(name)?.[WAYS[state.way][2]]?.[state.block];
      const cost = state.deep || !recorded || recorded[0] === null ? "No record of this on test images."
        : `Recorded on ${start.recorded} test images: loss ${signed(recorded[0], 3)} ± ${number(recorded[1], 3)}.`;
      const moved = top === old ? `${classes[old]}, ${percent(before[old])} → ${percent(shares[old])}`
        : `${classes[old]}, ${percent(before[old])} → ${classes[top]}, ${percent(shares[top])}`;
      return `It says: ${moved} (divergence ${number(divergence, 3)}). ${cost}`;
    };

    const draw = () => {
      patches.mark(state.query - 1);
      classToken.setAttribute("aria-pressed", state.query === 0);
      const classes = start.classes[KINDS[state.kind][0]];
      const told = names().map((name, which) => {
        const panel = panels[which], rows = range(shape.depth, (index) => rowOf(name, index)), weights = rows[state.block];
        const scale = drawRows(panel.maps, COLUMNS, rows, state.block);
        panel.title.textContent = titles()[which];
        const best = weights && strongest(weights);
        panel.caption.textContent = weights ? `Block ${state.block}: most to ${place(best)} (${number(weights[best])}); class token ${number(weights[0])}. `
          + `Full colour: ${number(scale)}.` : "…";
        panel.maps.setAttribute("aria-label", `${titles()[which]}: where ${shape.depth} blocks look from ${place(state.query)}. ${panel.caption.textContent}`);
        const result = found?.results[name];
        if (whole) {
          panel.headsTitle.textContent = `The ${shape.heads} heads of block ${state.block}:`;
          drawRows(panel.heads, 4, range(shape.heads, (one) => (result?.maps ? rowOf(name, state.block, one) : null)), state.head);
          panel.heads.setAttribute("aria-label", `${titles()[which]}: the same from the ${shape.heads} heads of block ${state.block}`);
          if (result) drawBars(panel.bars, classes, state.way ? result.before : result.shares, result.shares);
        }
        panel.answer.textContent = result ? tellAnswer(name, classes, result) : "";
        return `${titles()[which]}: ${panel.caption.textContent} ${panel.answer.textContent}`;
      });
      const shown = `From ${place(state.query)} of ${state.picture.title}, ${state.head < 0 ? "mean of all heads" : `head ${state.head}`}. `;
      if (found) heard.textContent = shown + told.join(" ");
    };

    // What is to be computed for a state; the rest is drawing only.
    const wanted = () => {
      const { picture, way: kindOfChange, deep, block: at } = state;
      const blocks = !kindOfChange ? null : deep ? range(shape.depth / 2, (i) => shape.depth / 2 + i) : [at];
      const others = samples.filter((sample) => sample !== picture);
      const strip = ({ key, source }) => ({ key, source });
      return {
        step: "compute", names: names(), picture: strip(picture), other: strip(others[0] ?? picture),
        change: blocks && { blocks, how: WAYS[kindOfChange][0] },
      };
    };
    const signature = ({ names: who, picture, change }) => JSON.stringify([who, picture.key, change]);

    // The newest wish wins: while one is computed, others wait, and only the last of them is computed.
    async function compute() {
      if (busy) { again = true; return; }
      busy = true;
      root.setAttribute("aria-busy", "true");
      try {
        do {
          again = false;
          const missing = names().filter((name) => !loaded.has(name));
          const megabytes = missing.length * (state.kind ? 1 : 1.7);
          waiting.textContent = missing.length ? `loading ${missing.length === 2 ? "two networks" : "a network"}, ${number(megabytes, 1)} MB …` : "computing …";
          await script("live/samples.js");
          if (state.unchosen) {
            Object.assign(state, { picture: samples[state.kind], unchosen: false });
            showPicture();
          }
          putSamples();
          const [newShape] = await Promise.all(names().map(load));
          const resized = newShape.side !== shape.side;
          const message = wanted();
          const answer = await ask(message);
          if (signature(message) !== signature(wanted())) { again = true; continue; }
          shape = newShape;
          found = { ...answer, signature: signature(message) };
          showSeen(answer.pixels);
          if (resized) {
            state.query = Math.min(state.query, shape.tokens - 1);
            putPatches();
          }
          waiting.textContent = "";
          draw();
        } while (again);
      } catch (error) {
        fail(error);
      } finally {
        busy = false;
        root.removeAttribute("aria-busy");
      }
    }
    const fail = (error) => {
      const text = error.message === "no picture" ? `${state.picture.source.name ?? "The file"} cannot be read as a picture. Choose a JPEG, PNG or WebP file.`
        : `This could not be computed: ${error.message}`;
      waiting.textContent = text;
      heard.textContent = text;
      if (error.message === "no picture") {
        state.picture = samples[0];
        putSamples();
        showPicture();
      }
    };
    const set = (changes) => {
      Object.assign(state, changes);
      if (changes.picture) showPicture();
      const current = found?.signature === signature(wanted());
      if (current) draw();
      else compute();
      if (!current && !changes.picture && changes.kind === undefined) draw();
    };

    // A small canvas to draw on: each stroke is a new picture.
    const easel = () => {
      const canvas = make("canvas", { class: "live-easel", width: 192, height: 192, role: "img", "aria-label": "A place to draw with a pointer; a file does the same by keyboard" });
      const brush = canvas.getContext("2d");
      let ink = COLOURS[0], last = null;
      const clear = () => {
        brush.fillStyle = PAPER;
        brush.fillRect(0, 0, 192, 192);
      };
      clear();
      const at = (event) => {
        const box = canvas.getBoundingClientRect();
        return [((event.clientX - box.left) / box.width) * 192, ((event.clientY - box.top) / box.height) * 192];
      };
      const stroke = (event) => {
        const next = at(event);
        Object.assign(brush, { strokeStyle: ink, lineWidth: 16, lineCap: "round" });
        brush.beginPath();
        brush.moveTo(...(last ?? next));
        brush.lineTo(...next);
        brush.stroke();
        last = next;
      };
      canvas.addEventListener("pointerdown", (event) => { canvas.setPointerCapture(event.pointerId); stroke(event); });
      canvas.addEventListener("pointermove", (event) => { if (last) stroke(event); });
      canvas.addEventListener("pointerup", () => {
        last = null;
        canvas.toBlob((file) => own(file, "your drawing"));
      });
      canvas.addEventListener("pointercancel", () => { last = null; });
      const inks = COLOURS.map((shade, i) => {
        const pot = make("button", { type: "button", class: "live-ink", style: `background: ${shade}`, "aria-label": `colour ${i + 1}`, "aria-pressed": i === 0 });
        pot.addEventListener("click", () => {
          ink = shade;
          inks.forEach((each) => each.setAttribute("aria-pressed", each === pot));
        });
        return pot;
      });
      return make("details", {}, make("summary", {}, "Draw a picture"), canvas, row(...inks, button("Clear", clear)));
    };

    putSamples();
    putPatches();
    showPicture();
    const first = Object.values(start.networks);
    found = { results: Object.fromEntries(names().map((name, i) => [name, { ...first[i], before: first[i].shares }])), signature: null };
    await image.decode();
    showSeen(image);
    const question = make("p", { class: "live-question" }, `Click a patch of the picture: where do ${shape.depth} blocks look from there, without and with a remedy?`);
    const pickerBox = make("div", { class: "live-picker" }, holder, row(classToken, uploader, ...(whole ? [seenFigure] : [])));
    const panelRow = make("div", { class: "live-panels" }, ...panels.map(({ box }) => box));
    const legend = make("p", { class: "live-legend" }, "below zero", make("span"), "above zero");
    const change = make("fieldset", {}, make("legend", {}, "Replace maps"),
      controls(block.box, way.box, where.box, make("p", { class: "live-note" }, "Orange lines mark the shares before.")));
    const settings = make("div", { class: "live-settings" }, change, controls(picker.box, kind.box, remedy.box, head.box, easel()));
    const parts = make("div", { class: "live-parts" }, pickerBox, panelRow, ...(whole ? [settings] : []));
    fill(question, waiting, parts, legend, privacy, heard);
    draw();
  }

  deepvitLive.figure("live-networks", begin);
})();
