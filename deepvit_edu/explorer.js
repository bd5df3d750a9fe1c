// Draws the explorers of explorer.py: plain JavaScript, native controls, and nothing fetched from anywhere.
window.deepvitExplorer = async (id) => {
  const root = document.getElementById(id);
  const live = root.querySelector(".explorer-live");
  const data = JSON.parse(root.querySelector('script[type="application/json"]').textContent);
  const NEGATIVE = [33, 102, 172], POSITIVE = [178, 24, 43]; // the blue and red of explorer.py
  const CANVAS = 288; // pixels along a side, a multiple of most grids

  // Small helpers

  const make = (tag, attributes = {}, ...children) => {
    const element = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
    element.append(...children);
    return element;
  };

  const unpack = async (text, Kind) => {
    const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
    return new Kind(await new Response(stream).arrayBuffer());
  };

  // A label holds its control, so that each has a name without an id.
  const choice = (text, options, change) => {
    const select = make("select", {}, ...options.map((name, i) => make("option", { value: i }, name)));
    select.addEventListener("change", change);
    return {
      box: make("label", {}, text, select), most: options.length - 1,
      get value() { return Number(select.value); },
      set value(index) { select.value = index; },
    };
  };

  const slider = (text, names, start, change) => {
    const input = make("input", { type: "range", min: 0, max: names.length - 1, step: 1, value: start });
    const told = make("span"); // an <output> would take the label from the input
    const tell = () => {
      told.textContent = names[input.value];
      input.setAttribute("aria-valuetext", names[input.value]);
    };
    input.addEventListener("input", () => { tell(); change(); });
    tell();
    return {
      box: make("label", {}, `${text}: `, told, input), most: names.length - 1,
      get value() { return Number(input.value); },
      set value(number) { input.value = number; tell(); },
    };
  };

  const pressed = (text, press) => {
    const button = make("button", { type: "button", class: "explorer-button" }, text);
    button.addEventListener("click", press);
    return button;
  };

  // In the book, a link to what is shown: the page's address, and after it "#explorer-1&epoch=3", with the number of
  // the explorer on its page. `controls` by their names in the link.
  const linked = (controls) => {
    const place = [...document.querySelectorAll(".deepvit-explorer")].indexOf(root) + 1, start = `#explorer-${place}&`;
    const values = new URLSearchParams(location.hash.startsWith(start) ? location.hash.slice(start.length) : "");
    for (const [name, control] of Object.entries(controls)) {
      if (/^\d+$/.test(values.get(name) ?? "")) control.value = Math.min(Number(values.get(name)), control.most);
    }
    const says = make("span", { role: "status" });
    const copy = async () => {
      const state = Object.entries(controls).map(([name, { value }]) => `${name}=${value}`);
      history.replaceState(null, "", start + state.join("&"));
      try {
        await navigator.clipboard.writeText(location.href);
        says.textContent = "Copied.";
      } catch { // a browser may forbid it
        says.textContent = "The link is in the address bar.";
      }
      const forget = () => { says.textContent = ""; };
      for (const change of ["input", "pointerdown"]) root.addEventListener(change, forget, { once: true });
    };
    const box = make("p", { class: "explorer-legend" }, pressed("Link to this view", copy), says);
    box.hidden = !document.querySelector("article.bd-article"); // in a notebook the address leads nowhere
    return box;
  };

  // A button that moves a slider on by itself, to its end; for readers who asked for little motion, step by step.
  const player = (control, moved) => {
    const still = matchMedia("(prefers-reduced-motion: reduce)").matches, PAUSE = 350; // milliseconds
    let timer = null;
    const stop = () => {
      clearInterval(timer);
      timer = null;
      button.textContent = still ? "Next" : "Play";
    };
    const step = () => {
      control.value = control.value >= control.most ? 0 : control.value + 1;
      if (control.value >= control.most) stop();
      moved(timer !== null);
    };
    const button = pressed(still ? "Next" : "Play", () => {
      if (timer !== null) {
        stop();
        moved(false);
      } else if (still) step();
      else {
        timer = setInterval(step, PAUSE);
        button.textContent = "Pause";
        step();
      }
    });
    return button;
  };

  // A picture can be pointed at; the same can be set with the controls, by keyboard. Gives row and column.
  const point = (picture, event, cells) => {
    const place = picture.getBoundingClientRect();
    const cell = (at, start, length) => Math.max(0, Math.min(cells - 1, Math.floor(((at - start) / length) * cells)));
    return [cell(event.clientY, place.top, place.height), cell(event.clientX, place.left, place.width)];
  };

  // A mouse that only passes shows the cell under it, until it leaves (then `show` gets null); a finger cannot pass.
  const passing = (picture, cells, show) => {
    let last = null;
    const pass = (cell) => {
      if (String(cell) === String(last)) return; // it moved within a cell
      last = cell;
      show(cell);
    };
    picture.addEventListener("pointermove", (event) => {
      if (event.pointerType === "mouse") pass(point(picture, event, cells));
    });
    picture.addEventListener("pointerleave", () => pass(null));
  };

  const panel = (name, choose) => {
    const canvas = make("canvas", { width: CANVAS, height: CANVAS, role: "img" });
    const caption = make("figcaption");
    choose(canvas);
    const say = (text) => {
      caption.replaceChildren(make("strong", {}, name), make("br"), text);
      canvas.setAttribute("aria-label", `${name}: ${text}`);
    };
    return { figure: make("figure", {}, canvas, caption), brush: canvas.getContext("2d"), say };
  };

  // White on black is seen on any ground.
  const mark = (brush, column, row, cell) => {
    for (const [colour, width] of [["#000", 5], ["#fff", 2]]) {
      brush.strokeStyle = colour;
      brush.lineWidth = width;
      brush.strokeRect(column * cell, row * cell, cell, cell);
    }
  };

  const number = (value, digits = 3) => value.toFixed(digits).replace("-", "−");
  const signed = (value, digits) => (value < 0 ? "" : "+") + number(value, digits);
  const brief = (value) => String(Number(value.toPrecision(3))).replaceAll("-", "−"); // three digits that count
  const range = (count, name) => Array.from({ length: count }, (_, i) => name(i));
  const legend = (low, high) => make("p", { class: "explorer-legend" }, low, make("span"), high);
  const listener = () => make("p", { class: "explorer-heard", role: "status", "aria-live": "polite" });

  // What a patch attends to

  const attention = async () => {
    const { grid, extra, side, heads, layers, images, models, levels } = data;
    const pictures = await unpack(data.pictures, Uint8ClampedArray); // (B, S, S, 3)
    const steps = await unpack(data.steps, Int8Array); // (models, L, B, H, N, N)
    const scales = await unpack(data.scales, Float32Array); // (models, L, B, H, N)
    const tokens = grid * grid + extra, cell = CANVAS / grid;
    let query = extra + Math.floor(grid / 2) * (grid + 1); // a token; 0 is the class token where there is one
    let passed = null; // the token under a mouse that passes
    const below = models.map((_, model) => { // whether a network's entries can be below zero
      const size = steps.length / models.length;
      return steps.subarray(model * size, (model + 1) * size).some((step) => step < 0);
    });

    const image = choice("Image", images, () => draw());
    const view = choice("Show", ["the entries", "the entries less their mean"], () => draw());
    const ground = choice("Full colour is", ["the largest of each row", "the largest of all networks"], () => draw());
    const layer = slider("Block", layers.map(String), layers.length >> 1, () => draw());
    const head = slider("Head", range(heads, String), 0, () => draw());

    const tokenAt = ([row, column]) => extra + row * grid + column;
    const choose = (canvas) => canvas.addEventListener("click", (event) => ask(tokenAt(point(canvas, event, grid))));
    const panels = models.map((name) => panel(name, choose));
    const ends = panels.map(({ figure }) => { // each panel may have a scale of its own, so each has its numbers
      const scale = legend("", "");
      figure.lastChild.before(scale);
      return scale;
    });
    const input = make("canvas", { width: CANVAS, height: CANVAS, role: "img" });
    const heard = listener();

    // The patches are buttons over the image. One of them can be reached with Tab, the others from it with arrows.
    const patches = range(grid * grid, (i) => make("button", {
      type: "button", "aria-label": `patch in row ${Math.floor(i / grid) + 1}, column ${(i % grid) + 1}`,
    }));
    patches.forEach((button, i) => {
      button.addEventListener("click", () => ask(extra + i));
      button.addEventListener("keydown", (event) => {
        const [down, right] = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[event.key] ?? [0, 0];
        if (!down && !right) return;
        event.preventDefault();
        const row = Math.floor(i / grid) + down, column = (i % grid) + right;
        if (row < 0 || column < 0 || row >= grid || column >= grid) return;
        patches[row * grid + column].focus();
        ask(tokenAt([row, column]));
      });
    });
    const overlay = make("div", {
      class: "explorer-patches", role: "group", "aria-label": "Patch whose attention is shown; move with the arrow keys",
      style: `grid-template: repeat(${grid}, 1fr) / repeat(${grid}, 1fr)`,
    }, ...patches);
    // Not over the maps: one that is looked at should stay.
    passing(overlay, grid, (cell) => { passed = cell && tokenAt(cell); draw(true); });
    const classToken = make("button", { type: "button", class: "explorer-button" }, "Ask the class token");
    classToken.addEventListener("click", () => ask(0));

    const ask = (token) => { query = token; draw(); };
    const asked = { most: tokens - 1, get value() { return query; }, set value(token) { query = token; } };

    const paint = (brush, shade) => {
      const pixels = new ImageData(side, side);
      const from = image.value * side * side * 3;
      for (let i = 0; i < side * side; i++) {
        pixels.data.set([...shade(pictures.subarray(from + 3 * i, from + 3 * i + 3)), 255], 4 * i);
      }
      const small = make("canvas", { width: side, height: side });
      small.getContext("2d").putImageData(pixels, 0, 0);
      brush.imageSmoothingEnabled = false;
      brush.drawImage(small, 0, 0, CANVAS, CANVAS);
    };
    const pale = ([red, green, blue]) => Array(3).fill(152 + 0.4 * (red + green + blue) / 3); // lets the weights stand out

    const place = (token) => token < extra ? "the class token"
      : `row ${Math.floor((token - extra) / grid) + 1}, column ${((token - extra) % grid) + 1}`;

    const link = linked({ image, block: layer, head, view, colour: ground, query: asked });
    // `quietly` while a mouse passes: the choice stays, and a screen reader could not follow. Any choice ends it.
    const draw = (quietly = false) => {
      if (!quietly) passed = null;
      paint(input.getContext("2d"), (pixel) => pixel);
      input.setAttribute("aria-label", `Image ${images[image.value]}`);
      patches.forEach((button, i) => {
        button.setAttribute("aria-pressed", i + extra === query);
        button.tabIndex = i + extra === Math.max(query, extra) ? 0 : -1;
      });
      classToken.setAttribute("aria-pressed", query < extra);
      const rows = models.map((_, model) => weightsOf(model, passed ?? query));
      const largest = rows.map((row) => Math.max(...row.map(Math.abs)));
      const full = ground.value ? largest.map(() => Math.max(...largest)) : largest;
      full.forEach((end, i) => tellEnds(ends[i], end, below[i] || view.value));
      const said = models.map((name, i) => `${name}: ${drawMap(panels[i], rows[i], full[i], passed ?? query)}`);
      const where = `Block ${layers[layer.value]}, head ${head.value}, from ${place(query)} of image ${images[image.value]}`
        + (view.value ? ", less the mean." : ".");
      if (!quietly) heard.textContent = `${where} ${said.join("; ")}.`;
    };

    const tellEnds = (scale, end, below) => {
      scale.classList.toggle("explorer-above", !below);
      scale.firstChild.data = brief(below ? -end : 0);
      scale.lastChild.data = brief(end);
    };

    // The weights of a network from a token, of the chosen block, image and head.
    const weightsOf = (model, token) => {
      const block = (model * layers.length + layer.value) * images.length + image.value;
      const place = (block * heads + head.value) * tokens + token;
      const weights = Array.from(steps.subarray(place * tokens, (place + 1) * tokens), (step) => scales[place] * step / levels);
      const mean = view.value ? weights.reduce((sum, weight) => sum + weight, 0) / tokens : 0;
      return weights.map((weight) => weight - mean);
    };

    const drawMap = ({ brush, say }, weights, full, token) => {
      const largest = weights.reduce((best, weight, i) => (Math.abs(weight) > Math.abs(weights[best]) ? i : best), 0);
      paint(brush, pale);
      for (let i = extra; i < tokens; i++) {
        const [red, green, blue] = weights[i] < 0 ? NEGATIVE : POSITIVE;
        const share = Math.abs(weights[i] / full) || 0;
        brush.fillStyle = `rgba(${red}, ${green}, ${blue}, ${0.9 * share})`;
        brush.fillRect(((i - extra) % grid) * cell, Math.floor((i - extra) / grid) * cell, cell, cell);
      }
      if (token >= extra) mark(brush, (token - extra) % grid, Math.floor((token - extra) / grid), cell);
      const text = `largest ${number(weights[largest])} at ${place(largest)}`
        + (extra ? `; class token ${number(weights[0])}` : "");
      say(text);
      return text;
    };

    live.append(
      make("div", { class: "explorer-row" },
        make("div", { class: "explorer-picker" },
          make("div", { class: "explorer-image" }, input, overlay), ...(extra ? [classToken] : [])),
        make("div", { class: "explorer-controls" }, image.box, layer.box, head.box, view.box, ground.box,
          "Choose a patch of the image: click, tap, or move with the arrow keys. A mouse that passes shows the patch "
          + "under it.")),
      make("div", { class: "explorer-panels" }, ...panels.map(({ figure }) => figure)),
      link, heard);
    draw();
  };

  // How alike the blocks' maps are, and what replacing one does

  const collapse = async () => {
    const { models, measures, epochs, depth, steps, missing, replacements, effects } = data;
    const cosines = await unpack(data.cosines, Int16Array); // (models, measures, E, L, L)
    const cell = CANVAS / depth;
    const blocks = range(depth, String);

    const measure = choice("Compare the maps of", measures, () => draw());
    const epoch = slider("Epoch", epochs.map((e) => (e ? String(e) : "0, before training")), epochs.length - 1, () => draw());
    const play = player(epoch, (playing) => draw(playing));
    const first = slider("One block", blocks, (depth >> 1) - 1, () => draw());
    const second = slider("Other block", blocks, depth >> 1, () => draw());

    // A click chooses a pair of blocks.
    let passed = null; // the pair under a mouse that passes
    const choose = (canvas) => {
      canvas.addEventListener("click", (event) => {
        [first.value, second.value] = point(canvas, event, depth);
        draw();
      });
      passing(canvas, depth, (cell) => { passed = cell; draw(true); });
    };
    const panels = models.map((name) => panel(name, choose));
    const heard = listener();

    const matrixOf = (model) => {
      const start = ((model * measures.length + measure.value) * epochs.length + epoch.value) * depth * depth;
      return cosines.subarray(start, start + depth * depth);
    };

    // `quietly` while a mouse passes or the epochs play: a screen reader could not follow. Any choice ends what passes.
    const draw = (quietly = false) => {
      if (!quietly) passed = null;
      const said = models.map((name, model) => `${name}: ${drawMatrix(panels[model], matrixOf(model))}`);
      if (!quietly) heard.textContent = `${measures[measure.value]}, epoch ${epochs[epoch.value]}. ${said.join("; ")}.`;
    };

    const drawMatrix = ({ brush, say }, matrix) => {
      brush.clearRect(0, 0, CANVAS, CANVAS);
      matrix.forEach((value, i) => {
        if (value === missing) return;
        const share = Math.min(1, Math.abs(value) / steps);
        const colour = (value < 0 ? NEGATIVE : POSITIVE).map((end) => 247 + share * (end - 247));
        brush.fillStyle = `rgb(${colour.map(Math.round).join(", ")})`;
        brush.fillRect((i % depth) * cell, Math.floor(i / depth) * cell, cell, cell);
      });
      const [one, other] = passed ?? [first.value, second.value];
      mark(brush, second.value, first.value, cell);
      if (passed) mark(brush, other, one, cell);
      const value = (i, j) => matrix[i * depth + j];
      const pair = value(one, other);
      const neighbours = range(depth - 1, (i) => value(i, i + 1)).filter((cosine) => cosine !== missing);
      const mean = neighbours.reduce((sum, cosine) => sum + cosine, 0) / (neighbours.length || 1);
      const text = `blocks ${one} and ${other}: ${pair === missing ? "none" : number(pair / steps, 2)}; `
        + `neighbours: ${number(mean / steps, 2)} on average`;
      say(text);
      return text;
    };

    // What if: the answer appears when it is asked for, so that there is time to guess.
    const GUESS = "Guess first: how much does each network lose? Then press.";
    const answer = make("div", { role: "status", "aria-live": "polite" }, GUESS);
    const hide = () => answer.replaceChildren(GUESS);
    const block = slider("Replace the map of block", blocks, depth >> 1, hide);
    const replacement = choice("by", replacements, hide);
    const link = linked({ measure, epoch, first, second, block, by: replacement });
    const tell = ([loss, lossError, accuracy, accuracyError]) => [
      `${signed(loss, 3)} ± ${number(lossError, 3)}`,
      `${signed(100 * accuracy, 1)} ± ${number(100 * accuracyError, 1)} points`,
    ];
    const button = pressed("Replace the map", () => {
      const rows = models.map((name, model) => {
        const effect = effects[model][replacement.value][block.value];
        const cells = effect ? tell(effect) : ["not measured", ""];
        return make("tr", {}, make("th", { scope: "row" }, name), ...cells.map((text) => make("td", {}, text)));
      });
      const head = ["network", "change of loss", "change of accuracy"].map((text) => make("th", { scope: "col" }, text));
      const what = `Block ${block.value}: ${replacements[replacement.value]} in its place, in the trained networks`;
      answer.replaceChildren(make("table", {}, make("caption", {}, what), make("thead", {}, make("tr", {}, ...head)),
        make("tbody", {}, ...rows)));
    });

    live.append(
      make("div", { class: "explorer-row" },
        make("div", { class: "explorer-controls" }, measure.box, epoch.box, make("div", {}, play)),
        make("div", { class: "explorer-controls" }, first.box, second.box)),
      make("div", { class: "explorer-panels" }, ...panels.map(({ figure }) => figure)),
      make("p", { class: "explorer-axes" }, `Downwards one block, to the right the other: 0 to ${depth - 1}. A click or `
        + "tap keeps a pair; a mouse that passes shows the pair under it."),
      legend("−1", "1, the same scale in all"), link, heard,
      make("fieldset", {}, make("legend", {}, "What if?"),
        make("div", { class: "explorer-row" },
          make("div", { class: "explorer-controls" }, block.box, replacement.box, make("div", {}, button)),
          make("div", { class: "explorer-controls" }, answer))));
    draw();
  };

  if (!("DecompressionStream" in window)) return; // browsers of before 2023 keep the plain picture
  await { attention, collapse }[data.kind]();
  live.hidden = false;
  root.querySelector(".explorer-plain").hidden = true;
};
