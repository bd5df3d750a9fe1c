// What the figures with trained networks share: pictures to choose from, a reader's own among them; maps beside one
// another; the classes' probabilities; and computing that follows a reader's newest wish.
deepvitLive.pictures = (() => {
  const { make, range, number, choice, button, script, networks, address } = deepvitLive;
  const KINDS = [["cifar10", "photographs (CIFAR-10)"], ["shapes", "drawn shapes"]];
  const MEGABYTES = [1.7, 1]; // that a network of each kind takes to load
  const COLUMNS = 6, CELL = 64, GAP = 4; // of the blocks' maps, in pixels of the canvas
  const SEEN = 32, SHOWN = 224; // pixels along a side of a picture: for the networks, and for the reader
  const noteOn = (classes) => [
    "Your picture stays on this machine: the networks ",
    make("a", { href: address("../book/appendix/in_the_page.html") }, "run in this page"),
    ". They see it at 32 × 32 pixels, and call whatever you show them one of the ten classes that they know: "
      + `${classes.join(", ")}.`,
  ];

  const percent = (share) => `${number(100 * share, share < 0.0995 ? 1 : 0)}\u00a0%`;
  const largest = (values) => values.reduce((best, value, i) => (value > values[best] ? i : best), 0);
  const titled = (pairs) => pairs.map(([, title]) => title);
  const named = (element, name) => element.setAttribute("aria-label", name);


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

  const cornerOf = (index, columns) => [(index % columns) * (CELL + GAP), Math.floor(index / columns) * (CELL + GAP)];

  const drawNumber = (brush, left, top, index) => {
    brush.font = "bold 13px sans-serif";
    brush.fillStyle = "rgba(255, 255, 255, 0.85)";
    brush.fillRect(left, top, index > 9 ? 19 : 12, 15);
    brush.fillStyle = "#1b1f24";
    brush.fillText(index, left + 2, top + 12);
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

  const drawBars = (bars, classes, before, shares) => {
    bars.replaceChildren(...classes.map((name, i) => {
      const bar = make("span", { class: "live-bar", style: `width: ${100 * shares[i]}%` });
      const track = make("span", { class: "live-track" }, bar);
      if (before !== shares) track.append(make("span", { class: "live-before", style: `left: ${100 * before[i]}%` }));
      const share = make("span", {}, percent(shares[i]));
      return make("span", { class: "live-class" }, make("span", {}, name), track, share);
    }));
    bars.setAttribute("role", "img"); // not before there are words for it
    const each = classes.map((name, i) => `${name} ${percent(shares[i])}`);
    named(bars, `Probabilities of the classes: ${each.join(", ")}`);
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

  // Samples, a file or a drawing to choose from, also by dropping a file on the figure; `chosen` is told the picture,
  // `tell` why a file is none: then the former picture stays.
  const makeChooser = (root, chosen, tell) => {
    const { samples } = networks;
    let current, count = 0;
    const picker = choice("Picture", [], () => { if (samples[picker.value]) chosen(samples[picker.value]); });
    const put = (picture = current) => {
      current = picture;
      picker.put([...samples.map(({ title }) => title), "your own"]);
      picker.value = current.own ? samples.length : samples.indexOf(current);
      back.hidden = !current.own;
    };
    const back = button("Back to the sample", () => chosen(samples[0]));
    const own = async (source, title) => {
      root.setAttribute("aria-busy", "true");
      try {
        (await createImageBitmap(source)).close();
      } catch {
        tell(`${source.name ?? title} cannot be read as a picture. Choose a JPEG, PNG or WebP file.`);
        return;
      } finally {
        root.removeAttribute("aria-busy");
      }
      if (current.own) URL.revokeObjectURL(current.shown);
      count += 1;
      chosen({ key: `own ${count}`, title, source, shown: URL.createObjectURL(source), own: true });
    };
    const file = (files) => { if (files[0]) own(files[0], "your picture"); };
    const upload = make("input", { type: "file", accept: "image/*" });
    upload.addEventListener("change", () => { file(upload.files); upload.value = ""; });
    root.addEventListener("dragover", (event) => event.preventDefault());
    root.addEventListener("drop", (event) => { event.preventDefault(); file(event.dataTransfer.files); });
    const easel = make("details", {}, make("summary", {}, "Draw a picture"));
    easel.addEventListener("toggle", async () => {
      await script("live/easel.js");
      easel.append(...deepvitLive.easel((drawn) => own(drawn, "your drawing")));
    }, { once: true });
    return {
      box: picker.box, put, easel, back,
      uploader: make("label", { class: "live-button live-upload" }, "Your own photo…", upload),
    };
  };

  // A function that does `work` whenever it is called; of all calls while it works, the newest counts. Where it fails,
  // `tell` gets a sentence.
  const newest = (root, work, tell) => {
    let busy = false, again = false;
    const fail = ({ message }) => tell(`This could not be computed: ${message}`);
    return async () => {
      again = true;
      if (busy) return;
      busy = true;
      root.setAttribute("aria-busy", "true");
      while (again) {
        again = false;
        await work().catch(fail);
      }
      busy = false;
      root.removeAttribute("aria-busy");
    };
  };

  // What is said while networks of a kind are loaded, or while they compute.
  const waitingFor = (names, kind) => {
    const missing = names.filter((name) => !networks.isLoaded(name)).length;
    const what = missing === 2 ? "two networks" : "a network";
    return missing ? `loading ${what}, ${number(missing * MEGABYTES[kind], 1)} MB …` : "computing …";
  };

  // Before networks compute: says so, and shows the sample of their kind where the reader has chosen no picture.
  const prepare = async (state, { names, waiting, picture, chooser }) => {
    waiting.textContent = waitingFor(names, state.kind);
    await script("live/samples.js");
    if (state.unchosen) {
      Object.assign(state, { picture: networks.samples[state.kind], unchosen: false });
      picture.show(state.picture);
    }
    chooser.put(state.picture);
  };

  return {
    KINDS, COLUMNS, CELL, noteOn, percent, largest, titled, named, outline, mapCanvas, cornerOf, drawNumber, onCell,
    drawBars, makePicture, makeChooser, newest, prepare,
  };
})();
