// Chapter 7: tokens vanish block by block. Two trained networks on a picture: which patches go through each of their
// blocks, and what the networks say with all of them and with those alone.
(() => {
  const { make, range, number, choice, slider, button, row, controls, listener, script, networks, linked } =
    deepvitLive;
  const { KINDS, COLUMNS, CELL, noteOn, percent, largest, titled, named, mapCanvas, cornerOf } = deepvitLive.pictures;
  const { drawNumber, drawBars, makePicture, makeChooser, newest, prepare } = deepvitLive.pictures;
  const NETWORKS = [["plain", "plain"], ["layerscale", "LayerScale"], ["re", "Re-attention"], ["refiner", "Refiner"]];
  const RULES = [
    ["most", "most attended"],
    ["least", "least attended"],
    ["random", "drawn at random"],
    ["middle", "in the middle"],
  ];
  const EVERY = [[Infinity, "only then"], [6, "and every 6 blocks"], [3, "and every 3 blocks"], [1, "and every block"]];
  const SIXTEENTHS = 16;

  // Multiplications of a block: projections, MLP, and the two products with the map.
  const multiplications = (tokens, { width, hidden }) => (
    tokens * width * (4 * width + 2 * hidden) + 2 * tokens * tokens * width
  );

  const makePanel = () => {
    const title = make("p", { class: "live-title" }), maps = mapCanvas(COLUMNS, 4), caption = make("figcaption");
    const bars = make("div", { class: "live-bars" }), answer = make("p", { class: "live-answer" });
    return { box: make("figure", { class: "live-panel" }, title, maps, caption, bars, answer), title, maps, caption,
      bars, answer };
  };

  // The picture as it enters each block, `places[block]` those of its patches that are there; the others are dark.
  const drawBlocks = (canvas, seen, places, side) => {
    const brush = canvas.getContext("2d"), patch = CELL / side;
    brush.imageSmoothingEnabled = false;
    places.forEach((there, block) => {
      const [left, top] = cornerOf(block, COLUMNS);
      brush.drawImage(seen, left, top, CELL, CELL);
      brush.fillStyle = "rgba(16, 20, 26, 0.9)";
      range(side * side).filter((place) => !there.has(place)).forEach((place) => {
        brush.fillRect(left + (place % side) * patch, top + Math.floor(place / side) * patch, patch, patch);
      });
      drawNumber(brush, left, top, block);
    });
  };

  async function begin(root, fill) {
    await script("live/start.js");
    const { start, samples } = networks;
    const link = linked("live-drop", () => {
      const { picture: { own }, ...others } = state;
      return { ...others, picture: own ? 0 : samples.indexOf(state.picture) };
    }, () => state.picture.own);
    if (link.opened) await script("live/samples.js");
    const state = {
      kind: link.given("kind", 0, 1), beside: link.given("beside", 1, 3, 1), rule: link.given("rule", 0, 3),
      first: link.given("first", 12, 23, 1), every: link.given("every", 0, 3), keep: link.given("keep", 4, 16, 1),
      seed: link.given("seed", 0, 1e6), picture: samples[link.given("picture", 0, samples.length - 1)],
    };
    let shape = { depth: 24, tokens: 17, side: 4, width: 64, hidden: 128 }, found = { results: {} };
    const names = () => ["plain", NETWORKS[state.beside][0]].map((each) => `${each}_${KINDS[state.kind][0]}`);
    const picture = makePicture(), holder = make("div", { class: "live-image" }, picture.image);
    const heard = listener(), waiting = make("p", { class: "live-waiting", "aria-hidden": "true" });

    const tell = (text) => { waiting.textContent = heard.textContent = text; };
    const chooser = makeChooser(root, (chosen) => set({ picture: chosen }), tell);
    const kind = choice("Networks trained on", titled(KINDS), () => set({
      kind: kind.value, unchosen: !state.picture.own,
    }));
    const others = titled(NETWORKS.slice(1));
    const beside = choice("Beside the plain network", others, () => set({ beside: beside.value + 1 }));
    const rule = choice("Which stay", titled(RULES), () => set({ rule: rule.value }));
    const again = button("Draw others", () => set({ seed: state.seed + 1 }));
    const first = slider("Dropped before block", { min: 1, max: shape.depth - 1, value: state.first },
      () => set({ first: first.value }));
    const every = choice("How often", titled(EVERY), () => set({ every: every.value }));
    const told = (value) => percent(value / SIXTEENTHS);
    const keep = slider("Patches that stay", { min: 1, max: SIXTEENTHS, value: state.keep, told },
      () => set({ keep: keep.value }));
    [kind.value, beside.value, rule.value, every.value] = [state.kind, state.beside - 1, state.rule, state.every];
    const panels = range(2, makePanel), about = make("p", { class: "live-note" });
    const legend = make("p", { class: "live-note" }, "Orange lines in the bars: the probabilities with all patches.");

    // Blocks before which patches are dropped, and how many stay: as the package counts, and at least one.
    const stages = () => {
      const step = EVERY[state.every][0], before = range(shape.depth).filter((block) => (
        block === state.first || (block > state.first && (block - state.first) % step === 0)
      ));
      const left = (stage) => Math.floor((shape.tokens - 1) * (state.keep / SIXTEENTHS) ** (stage + 1));
      return { before, counts: before.map((_, stage) => Math.max(1, left(stage))) };
    };

    const drawPanel = (panel, name, title) => {
      const result = found.results[name], classes = start.classes[KINDS[state.kind][0]];
      const all = range(shape.tokens - 1), { before } = stages();
      const places = range(shape.depth, (block) => {
        const stage = before.filter((each) => each <= block).length;
        return new Set(result?.kept && stage ? result.kept[stage - 1] : all);
      });
      panel.title.textContent = title;
      drawBlocks(panel.maps, picture.seen, places, shape.side);
      panel.answer.textContent = "";
      panel.caption.textContent = "Nothing is dropped yet.";
      panel.bars.hidden = !result;
      if (result) {
        const cost = (of) => of.reduce((sum, { size }) => sum + multiplications(size + 1, shape), 0);
        const left = cost(places) / cost(places.map(() => new Set(all)));
        panel.caption.textContent = result.reason ? `No token can be dropped here: ${result.reason}.`
          : `${places.at(-1).size} of ${all.length} patches come to the end, with ${percent(left)} of the `
            + "multiplications.";
        const old = largest(result.before), top = largest(result.shares);
        const after = `${top === old ? "" : `${classes[top]}, `}${percent(result.shares[top])}`;
        panel.answer.textContent = `It says: ${classes[old]}, ${percent(result.before[old])}`
          + (result.reason ? "." : ` → ${after}.`);
        drawBars(panel.bars, classes, result.before, result.shares);
      }
      named(panel.maps, `${title}: the patches that go through each of ${shape.depth} blocks. `
        + panel.caption.textContent);
      return `${title}: ${panel.caption.textContent} ${panel.answer.textContent}`;
    };
    const draw = () => {
      again.hidden = RULES[state.rule][0] !== "random";
      legend.hidden = !found.signature;
      about.replaceChildren(...noteOn(start.classes[KINDS[state.kind][0]]));
      const titles = ["plain", NETWORKS[state.beside][1]];
      const said = names().map((name, which) => drawPanel(panels[which], name, titles[which]));
      if (found.signature) heard.textContent = `${state.picture.title}, before block ${state.first}. ${said.join(" ")}`;
    };

    const wanted = () => ({
      step: "drop", names: names(), picture: { key: state.picture.key, source: state.picture.source },
      rule: RULES[state.rule][0], seed: state.seed, ...stages(),
    });
    const signature = () => JSON.stringify({ ...state, picture: state.picture.key });

    async function work() {
      await prepare(state, { names: names(), waiting, picture, chooser });
      const before = signature();
      [shape] = await Promise.all(names().map(networks.load));
      const answer = await networks.ask(wanted());
      if (before !== signature()) return; // the reader has gone on, and it is computed again
      found = { ...answer, signature: before };
      picture.showSeen(answer.pixels);
      waiting.textContent = "";
      draw();
    }
    const compute = newest(root, work, tell);
    const set = (changes) => {
      Object.assign(state, changes);
      if (changes.picture) picture.show(changes.picture);
      again.hidden = RULES[state.rule][0] !== "random";
      compute();
    };

    chooser.put(state.picture);
    picture.show(state.picture);
    await picture.image.decode();
    picture.showSeen();
    const go = button("Drop them", () => compute());
    fill(make("p", { class: "live-question" }, "Drop patches on the way: which can go without the answer changing?"),
      waiting,
      make("div", { class: "live-parts" },
        make("div", { class: "live-picker" }, holder, row(first.box, keep.box, go, chooser.uploader)),
        make("div", { class: "live-panels" }, ...panels.map(({ box }) => box)),
        make("div", { class: "live-settings" },
          controls(rule.box, again, every.box, beside.box, kind.box, chooser.box,
            chooser.easel, legend))),
      about, link.box, heard);
    draw();
    if (link.opened) compute();
  }

  deepvitLive.figure("live-drop", begin);
})();
