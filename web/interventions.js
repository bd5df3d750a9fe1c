// What can be changed in a network while it computes: maps replaced, tokens dropped, as by the package's
// `INTERVENTIONS` and selections. One function, so that a worker can be made from its text; it is given what
// `visionNetwork` returns.
const interventions = ({ goOn, upTo }) => {
  // --- Replacing maps ---
  // Every entry as the mean of its row, or of its column where `step` is a whole row.
  const means = (map, tokens, step) => map.map((_, i) => {
    const first = i - (Math.floor(i / step) % tokens) * step;
    let sum = 0;
    for (let k = 0; k < tokens; k++) sum += map[first + k * step];
    return sum / tokens;
  });

  // `last` is the map of the block before, `other` that of another image.
  const REPLACEMENTS = {
    previous: (map, tokens, last) => last ?? map,
    other: (map, tokens, last, other) => other,
    none: (map) => new Float64Array(map.length),
    uniform: (map, tokens) => means(map, tokens, 1), // each row keeps its sum
    mean: (map, tokens) => means(map, tokens, tokens), // all queries use the mean of their rows
  };

  // The run `base` with the maps of some blocks replaced. Of `base` and `other`, each gets the other's.
  function replace(model, base, blocks, how, other = base) {
    const begun = how === "other" ? [base, other] : [base];
    const runs = begun.map((each) => upTo(each, Math.min(...blocks)));
    const change = (index, own, last, others) => (
      blocks.includes(index) ? REPLACEMENTS[how](own, model.tokens, last, others) : own
    );
    return goOn(model, runs, model.blocks.length, change)[0];
  }

  // --- Dropping tokens ---
  const REASONS = {
    re: "the norm of its maps has learned their mean, 1/N with all N tokens; with fewer tokens it is another",
    refined: "its convolution mixes neighbouring entries of a map, and dropped tokens give them other neighbours",
  };

  const NO_CLASS_TOKEN = "it is the class token's attention that chooses, and this network has no class token";

  // How much the class token looked at each patch token in a block with these maps, over all heads.
  function classAttention(maps, heads) {
    const area = maps.length / heads, tokens = Math.sqrt(area), looks = new Float64Array(tokens - 1);
    for (let head = 0; head < heads; head++) {
      for (let i = 0; i < tokens - 1; i++) looks[i] += maps[head * area + i + 1];
    }
    return looks;
  }

  // The run `base` with fewer tokens: before each block of `before`, which is at least 1, the class
  // token goes on and `count(stage)` patch tokens, those with the largest `scores(looks, places)`;
  // `kept` says where these are in the image.
  function drop(model, base, before, count, scores) {
    const reason = REASONS[model.attention] ?? (model.classToken ? null : NO_CLASS_TOKEN);
    if (reason) throw new Error(`no token can be dropped here: ${reason}`);
    const { width } = model, row = (x, token) => x.subarray(token * width, (token + 1) * width);
    let run = base, places = Array.from({ length: model.tokens - 1 }, (_, i) => i);
    const kept = before.map((first, stage) => {
      run = upTo(run, first);
      const values = scores(classAttention(run.maps.at(-1), model.heads), places);
      const order = places.map((_, i) => i).sort((one, two) => values[two] - values[one]);
      const stay = order.slice(0, count(stage)).sort((one, two) => one - two);
      const x = run.streams[first], fewer = new Float64Array((stay.length + 1) * width);
      [0, ...stay.map((i) => i + 1)].forEach((token, i) => fewer.set(row(x, token), i * width));
      run.streams[first] = fewer;
      [run] = goOn(model, [run], before[stage + 1]);
      places = stay.map((i) => places[i]);
      return places;
    });
    return { ...run, kept };
  }

  return { replace, drop, replacements: Object.keys(REPLACEMENTS), reasons: REASONS };
};
