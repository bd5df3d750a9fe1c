// Runs beside the page, so that the page never waits: the trained networks, pictures, and what was computed of them.
// One function, and nothing from outside it but `visionNetwork`, `interventions` and `readPhoto`: a page hands over
// their text.
const liveWorker = () => {
  const KEPT = 8; // unchanged runs: of two pictures in four networks
  const network = visionNetwork(), change = interventions(network);
  const models = new Map(), pictures = new Map(), bases = new Map();

  const bytesOf = (text) => {
    const letters = atob(text), bytes = new Uint8Array(letters.length);
    for (let i = 0; i < bytes.length; i++) bytes[i] = letters.charCodeAt(i);
    return bytes;
  };
  const remember = (map, key, value) => {
    map.set(key, value);
    if (map.size > KEPT) map.delete(map.keys().next().value);
    return value;
  };

  // The pixels of a picture { key, source }: a file, or the text of one in base64.
  async function pixelsOf({ key, source }, size) {
    const file = typeof source === "string" ? new Blob([bytesOf(source)]) : source;
    return pictures.get(key) ?? remember(pictures, key, await readPhoto(file, size));
  }
  async function baseOf(name, picture) {
    const model = models.get(name), key = `${name} ${picture.key}`;
    return bases.get(key) ?? remember(bases, key, network.run(model, await pixelsOf(picture, model.size)));
  }

  const steps = {
    load({ name, weights }) {
      const { blocks, heads, tokens, side, width } = models.set(name, network.build(bytesOf(weights).buffer)).get(name);
      return { depth: blocks.length, heads, tokens, side, width, hidden: blocks[0].fc1.bias.length };
    },
    forget() {
      models.clear();
      bases.clear();
    },
    // For each network: the classes' shares before and after a change { blocks, how } or none, and the maps after it.
    async compute({ names, picture, other, change: wish }) {
      const results = {};
      for (const name of names) {
        const model = models.get(name), base = await baseOf(name, picture);
        const another = wish?.how === "other" ? await baseOf(name, other) : base;
        const changed = wish ? change.replace(model, base, wish.blocks, wish.how, another) : base;
        const each = changed.maps[0].length, maps = new Float32Array(each * changed.maps.length);
        changed.maps.forEach((map, i) => maps.set(map, i * each));
        const [before, shares] = [base, changed].map(({ logits }) => network.probabilities(logits));
        results[name] = { maps, before, shares };
      }
      const pixels = await pixelsOf(picture, models.get(names[0]).size);
      return { pixels, results, key: picture.key };
    },
    // For each network: the classes' shares with all tokens and with fewer, and the places of the patches that are
    // kept, or the reason why none can be dropped. Before each block of `before`, one of `counts` goes on.
    async drop({ names, picture, rule, before, counts, seed }) {
      const results = {};
      for (const name of names) {
        const model = models.get(name), base = await baseOf(name, picture);
        const reason = change.reasons[model.attention], scores = scoresBy(rule, model.side, seed);
        const fewer = reason ? base : change.drop(model, base, before, (stage) => counts[stage], scores);
        const [all, shares] = [base, fewer].map(({ logits }) => network.probabilities(logits));
        results[name] = { before: all, shares, kept: fewer.kept, reason };
      }
      return { pixels: await pixelsOf(picture, models.get(names[0]).size), results, key: picture.key };
    },
  };

  // How patch tokens are scored by what the class token gave them and by their places; the best stay.
  const scoresBy = (rule, side, seed) => {
    const fromMiddle = (place) => Math.hypot(place % side - (side - 1) / 2, Math.floor(place / side) - (side - 1) / 2);
    const drawn = drawNumbers(side * side, seed);
    return {
      most: (looks) => looks,
      least: (looks) => looks.map((look) => -look),
      random: (looks, places) => places.map((place) => drawn[place]),
      middle: (looks, places) => places.map((place) => -fromMiddle(place)),
    }[rule];
  };
  // Random numbers by Lehmer's generator, the same ones for a seed.
  const drawNumbers = (count, seed) => {
    let last = 1 + 7919 * (seed + 1);
    const next = () => { last = (last * 48271) % 2147483647; return last; };
    next();
    return Array.from({ length: count }, next);
  };

  onmessage = async ({ data }) => {
    try {
      const answer = await steps[data.step](data);
      postMessage({ answer }, Object.values(answer?.results ?? {}).flatMap(({ maps }) => maps?.buffer ?? []));
    } catch (error) {
      postMessage({ error: error.message });
    }
  };
};
