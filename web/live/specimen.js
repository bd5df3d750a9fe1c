// The book's trained networks at work on a picture: where each block looks from a patch, with a remedy and without;
// what the networks take the picture for; and what changes when the maps of a block are replaced. A place on a page
// of class `live-networks` gets the picture and the maps; with `live-whole`, all of it.
(() => {
  const { make, range, number, signed, choice, slider, button, row, controls, listener } = deepvitLive;
  const { squares, colour, script, networks, linked } = deepvitLive;
  const { KINDS, COLUMNS, CELL, noteOn, percent, largest, titled, named, outline, drawNumber } = deepvitLive.pictures;
  const { mapCanvas, cornerOf, onCell, drawBars, makePicture, makeChooser, newest, prepare } = deepvitLive.pictures;
  const REMEDIES = [["re", "Re-attention"], ["refiner", "Refiner"], ["layerscale", "LayerScale"]];
  const WAYS = [ // for the network, for the reader, in the records
    [null, "nothing: leave it"],
    ["previous", "the map of the block before", "previous"],
    ["mean", "the mean of its rows, for every query", "query-mean"],
    ["uniform", "the uniform map", "uniform"],
    ["other", "another picture's map", "other image"],
    ["none", "no map at all, zeros", "no attention"],
  ];

  // --- pieces of a figure ------------------------------------------------------------------------------------------

  // The token, but for the class token's, whose weight is the largest on either side of zero.
  const strongest = (weights) => {
    let best = 1;
    for (let i = 2; i < weights.length; i++) if (Math.abs(weights[i]) > Math.abs(weights[best])) best = i;
    return best;
  };

  // The largest weight of patches in rows of maps, of which some may be missing.
  const largestIn = (rows) => Math.max(...rows.map((weights) => (weights ? Math.abs(weights[strongest(weights)]) : 0)));

  // Rows of maps as shades over a pale picture, of which `scale` has the full colour; a row may be missing.
  const drawRows = (canvas, columns, rows, { pale, side, query, chosen, scale, numbers = true }) => {
    const brush = canvas.getContext("2d"), patch = CELL / side;
    brush.clearRect(0, 0, canvas.width, canvas.height);
    brush.imageSmoothingEnabled = false;
    rows.forEach((weights, index) => {
      const [left, top] = cornerOf(index, columns);
      const place = (i) => [left + (i % side) * patch, top + Math.floor(i / side) * patch];
      brush.drawImage(pale, left, top, CELL, CELL);
      for (let i = 0; weights && i < side * side; i++) {
        brush.fillStyle = colour(weights[i + 1], scale);
        brush.fillRect(...place(i), patch, patch);
      }
      if (query) outline(brush, ...place(query - 1), patch, 1);
      if (index === chosen) outline(brush, left, top, CELL, 3);
      if (numbers) drawNumber(brush, left, top, index);
    });
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
    const title = make("p", { class: "live-title" }), maps = mapCanvas(COLUMNS, 4), caption = make("figcaption");
    const enlarged = mapCanvas(1, 1); // the chosen block's map, which among the others is small for an eye
    enlarged.classList.add("live-enlarged");
    const headsTitle = make("p", { class: "live-note" }), heads = mapCanvas(4, 2);
    const bars = make("div", { class: "live-bars" }), answer = make("p", { class: "live-answer" });
    const more = whole ? [headsTitle, heads, bars] : [];
    const box = make("figure", { class: "live-panel" }, title, enlarged, caption, maps, ...more, answer);
    return { box, title, enlarged, maps, caption, headsTitle, heads, bars, answer };
  };

  // --- a figure ----------------------------------------------------------------------------------------------------
  async function begin(root, fill) {
    const whole = root.classList.contains("live-whole");
    await script("live/start.js");
    const { start, samples, effects } = networks;
    const link = linked("live-networks", () => ({
      kind: state.kind, remedy: state.remedy, way: state.way, deep: Number(state.deep), query: state.query,
      head: state.head, block: state.block, picture: state.picture.own ? 0 : samples.indexOf(state.picture),
    }), () => state.picture.own);
    if (link.opened) await script("live/samples.js");
    const state = {
      kind: link.given("kind", 0, 1), remedy: link.given("remedy", 0, 2), way: link.given("way", 0, 5),
      deep: link.given("deep", 0, 1) === 1, picture: samples[link.given("picture", 0, samples.length - 1)],
      query: link.given("query", start.query, 64), head: link.given("head", -1, 7, -1),
      block: link.given("block", 12, 23),
    };
    let shape = { depth: 24, heads: 8, tokens: 17, side: 4 }; // of the networks that are shown
    const names = () => ["plain", REMEDIES[state.remedy][0]].map((remedy) => `${remedy}_${KINDS[state.kind][0]}`);
    const place = (token) => {
      if (!token) return "the class token";
      return `row ${Math.floor((token - 1) / shape.side) + 1}, column ${((token - 1) % shape.side) + 1}`;
    };
    // What was computed, by network: at first the rows of one patch, from the book's build.
    const known = Object.entries(start.networks).map(([name, each]) => [name, { ...each, before: each.shares }]);
    let found = { results: Object.fromEntries(known), signature: null };

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
    // Controls
    const heard = listener(), waiting = make("p", { class: "live-waiting", "aria-hidden": "true" });
    const tell = (text) => { waiting.textContent = heard.textContent = text; };
    const chooser = makeChooser(root, (chosen) => set({ picture: chosen }), tell);
    // Networks of another kind start with a picture of theirs; which there are is known when their file is loaded.
    const changeKind = () => set({ kind: kind.value, unchosen: !state.picture.own });
    const kind = choice("Networks trained on", titled(KINDS), changeKind);
    const remedy = choice("Beside the plain network", titled(REMEDIES), () => set({ remedy: remedy.value }));
    const heads = ["mean of all heads", ...range(shape.heads, (i) => `head ${i}`)];
    const head = choice("Head", heads, () => set({ head: head.value - 1 }));
    const block = slider("Block", { max: shape.depth - 1, value: state.block }, () => set({ block: block.value }));
    const way = choice("Replace its map by", titled(WAYS), () => set({ way: way.value }));
    const where = choice("in", ["this block", "the deep half, all its blocks"], () => set({ deep: where.value === 1 }));

    [kind.value, remedy.value, head.value] = [state.kind, state.remedy, state.head + 1];
    [way.value, where.value] = [state.way, Number(state.deep)];

    const panels = range(2, () => makePanel(whole));
    panels.forEach((panel) => {
      onCell(panel.maps, COLUMNS, shape.depth, (chosen) => { block.value = chosen; set({ block: chosen }); });
      onCell(panel.heads, 4, shape.heads, (chosen) => { head.value = chosen + 1; set({ head: chosen }); });
    });
    const [about, scales] = range(2, () => make("p", { class: "live-note" }));

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
      const scale = largestIn(rows), common = { pale: picture.pale, side: shape.side, query: state.query };
      drawRows(panel.maps, COLUMNS, rows, { ...common, scale, chosen: state.block });
      drawRows(panel.enlarged, 1, [weights], { ...common, scale, numbers: false });
      panel.title.textContent = title;
      panel.caption.textContent = "…";
      if (weights) {
        const best = strongest(weights);
        panel.caption.textContent = `Block ${state.block}: strongest to ${place(best)} (${number(weights[best])}); `
          + `class token ${number(weights[0])}. Deepest colour: ${number(scale)}.`;
      }
      named(panel.enlarged, `${title}: block ${state.block}, enlarged`);
      const what = `${title}: where ${shape.depth} blocks look from ${place(state.query)}.`;
      named(panel.maps, `${what} ${panel.caption.textContent}`);
      if (whole) {
        const each = range(shape.heads, (one) => (result?.maps ? rowOf(name, state.block, one) : null));
        const theirs = `${shape.heads} heads of block ${state.block}`;
        panel.headsTitle.textContent = result?.maps ? `The ${theirs}:` : `Choose another patch, and the ${theirs} appear:`;
        drawRows(panel.heads, 4, each, { ...common, scale: largestIn(each), chosen: state.head });
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
      about.replaceChildren(...noteOn(start.classes[KINDS[state.kind][0]]));
      scales.textContent = `Each side has a scale of its own. Were all ${shape.tokens} tokens looked at alike, each `
        + `would get ${number(1 / shape.tokens)}.`;
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
      await prepare(state, { names: names(), waiting, picture, chooser });
      const [loaded] = await Promise.all(names().map(networks.load));
      const message = wanted(), answer = await networks.ask(message);
      if (signature(message) !== signature(wanted())) return; // the reader has gone on, and it is computed again
      const resized = loaded.side !== shape.side;
      shape = loaded;
      found = { ...answer, signature: signature(message) };
      picture.showSeen(answer.pixels);
      state.query = Math.min(state.query, shape.tokens - 1);
      if (resized) putPatches();
      waiting.textContent = "";
      draw();
    }
    const compute = newest(root, computeOnce, tell);
    const set = (changes) => {
      Object.assign(state, changes);
      if (changes.picture) picture.show(changes.picture);
      const current = found.signature === signature(wanted());
      if (!current) compute();
      if (current || !(changes.picture || "kind" in changes)) draw();
    };

    chooser.put(state.picture);
    putPatches();
    picture.show(state.picture);
    await picture.image.decode();
    picture.showSeen();
    const question = `Choose a patch of the picture: where do ${shape.depth} blocks look from there, without and with `
      + "a remedy?";
    const seenCaption = make("figcaption", {}, "as the networks see it: 32 × 32 pixels");
    const seen = make("figure", { class: "live-seen" }, picture.seen, seenCaption);
    const tools = [classToken, chooser.uploader, ...(whole ? [seen] : [chooser.back, block.box])];
    const note = make("p", { class: "live-note" }, "Orange lines mark the probabilities before.");
    const change = make("fieldset", {}, make("legend", {}, "Replace maps"),
      controls(block.box, way.box, where.box, note));
    const others = controls(chooser.box, kind.box, remedy.box, head.box, chooser.easel);
    const parts = [
      make("div", { class: "live-picker" }, holder, row(...tools)),
      make("div", { class: "live-panels" }, ...panels.map(({ box }) => box)),
      ...(whole ? [make("div", { class: "live-settings" }, change, others)] : []),
    ];
    fill(make("p", { class: "live-question" }, question), waiting, make("div", { class: "live-parts" }, ...parts),
      make("p", { class: "live-legend" }, "below zero", make("span"), "above zero"), scales,
      about, link.box, heard);
    draw();
    if (link.opened) compute();
  }

  deepvitLive.figure("live-networks", begin);
})();
