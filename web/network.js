// A trained Vision Transformer in plain JavaScript: reads the package's .safetensors files as they are, and computes
// class scores and every attention map in 64 bits. One function, and nothing from outside it, so that its text can be
// handed to a worker, which a page opened from a folder could not load from a file. A matrix is an array of its rows.
const visionNetwork = () => {
  const range = (count, make = (i) => i) => Array.from({ length: count }, (_, i) => make(i));

  // --- Reading weights ---
  const POWERS = Float64Array.from(range(32, (exponent) => 2 ** (exponent - 25)));
  function fromHalf(bits) {
    const exponent = (bits >> 10) & 31, fraction = bits & 1023;
    const size = (exponent ? 1024 + fraction : fraction) * POWERS[exponent || 1];
    return bits & 0x8000 ? -size : size;
  }

  const READERS = {
    F32: (bytes) => Float64Array.from(new Float32Array(bytes)),
    F16: (bytes) => new Float64Array(new Uint16Array(bytes)).map(fromHalf),
  };

  // The weights by name, with what the file says of the model: { weights, config, about }.
  function read(buffer) {
    const start = 8 + Number(new DataView(buffer).getBigUint64(0, true));
    const header = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 8, start - 8)));
    const { __metadata__: metadata, ...tensors } = header, weights = {};
    for (const [name, { dtype, data_offsets: [from, to] }] of Object.entries(tensors)) {
      const bytes = buffer.slice(start + from, start + to); // a copy is aligned
      if (READERS[dtype]) weights[name] = READERS[dtype](bytes);
    }
    return { weights, config: JSON.parse(metadata.config), about: JSON.parse(metadata.about) };
  }

  // --- Building the model ---
  function build(buffer) {
    const { weights, config, about } = read(buffer);
    const { img_size: size, patch_size: patch, embed_dim: width, num_heads: heads } = config;
    const changeOf = { plain: () => null, re: mixing, refined: refinement }[config.attention.join()];
    const known = ["patch", "stem"].includes(config.tokens) && config.mlp === "plain" && !config.dense_head;
    if (!known || !changeOf) {
      throw new Error("this page computes models of patches or a stem with plain, Re- or refined attention only");
    }
    const layer = (name) => ({ weight: weights[`${name}.weight`], bias: weights[`${name}.bias`] });
    const blocks = range(config.depth, (index) => {
      const part = (name) => weights[`blocks.${index}.${name}`];
      const of = (name) => layer(`blocks.${index}.${name}`), qkv = of("attn.qkv"), each = width / heads;
      return {
        norm1: of("norm1"), proj: of("attn.proj"), scale1: part("scale1.gamma"),
        norm2: of("norm2"), fc1: of("mlp.fc1"), fc2: of("mlp.fc2"), scale2: part("scale2.gamma"),
        queries: range(heads, (head) => outputs(qkv, head * each, each)),
        keys: range(heads, (head) => outputs(qkv, width + head * each, each)),
        values: outputs(qkv, 2 * width, width),
        change: changeOf((name) => part(`attn.${name}`), heads, config.attention_options ?? {}),
      };
    });
    const stem = config.tokens === "stem" ? stemOf(weights, config.token_options?.widths ?? [64, 64]) : [];
    const cut = stem.length ? patch / 2 : patch; // a stem halves the image, so its patches are half as large
    const proj = layer(`patch_embed.${stem.length ? "patches.proj" : "proj"}`);
    return {
      blocks, about, attention: config.attention[0], size, side: size / patch, width, heads,
      tokens: weights.pos_embed.length / width, eps: config.block_norm_eps ?? config.norm_eps, lastEps: config.norm_eps,
      scale: config.branch_scale, stem, embed: { ...proj, kernel: cut, stride: cut, edge: 0 },
      classToken: weights.cls_token, positions: weights.pos_embed, norm: layer("norm"), head: layer("head"),
    };
  }

  // The convolutions of a stem; the BatchNorm after each is folded into its weight and a bias.
  function stemOf(weights, widths) {
    return widths.map((channels, index) => {
      const { slope, shift } = batchNorm((name) => weights[`patch_embed.stem.${3 * index + 1}.${name}`]);
      const weight = weights[`patch_embed.stem.${3 * index}.weight`], inputs = weight.length / channels;
      const shape = index ? { kernel: 3, stride: 1, edge: 1 } : { kernel: 7, stride: 2, edge: 3 };
      return { weight: weight.map((value, i) => value * slope[Math.floor(i / inputs)]), bias: shift, ...shape };
    });
  }

  // Some outputs of a linear layer, as a layer.
  function outputs({ weight, bias }, first, count) {
    const inputs = weight.length / bias.length, end = first + count;
    return { weight: weight.subarray(first * inputs, end * inputs), bias: bias.subarray(first, end) };
  }

  // --- What Re-attention and Refiner make of maps ---
  // BatchNorm, in evaluation, is a factor and a shift for each channel, which is a head where maps are normalised.
  function batchNorm(part, eps = 1e-5) {
    const [gain, offset, mean, variance] = ["weight", "bias", "running_mean", "running_var"].map(part);
    const slope = gain.map((value, i) => value / Math.sqrt(variance[i] + eps));
    return { slope, shift: offset.map((value, i) => value - mean[i] * slope[i]) };
  }

  // Re-attention mixes the heads; its norm is folded into the mixing.
  function mixing(part, heads, options) {
    if (!part("norm.batch.weight")) throw new Error("this page computes Re-attention with BatchNorm only");
    const norm = batchNorm((name) => part(`norm.batch.${name}`), options.eps), factor = options.map_scale ?? 1;
    const slope = norm.slope.map((value) => factor * value), bias = part("mix.bias");
    const weight = part("mix.weight").map((value, pair) => value * slope[Math.floor(pair / heads)]);
    const shift = slope.map((value, to) => value * bias[to] + factor * norm.shift[to]);
    return (maps) => {
      const area = maps.length / heads, mixed = linear(weight, { weight: transpose(maps, heads) }, area);
      return mixed.map((value, i) => value + shift[Math.floor(i / area)]);
    };
  }

  // Refiner's three convolutions have no bias: together they are one, from all heads to all heads.
  function refinement(part, heads) {
    const [expand, local, reduce] = ["expand", "local", "reduce"].map((name) => part(`${name}.weight`));
    const wide = expand.length / heads;
    if (local.length !== 9 * wide) throw new Error("this page computes refined attention with kernels of 3 x 3 only");
    const kernels = range(heads * heads, (pair) => {
      const to = Math.floor(pair / heads), from = pair % heads, kernel = new Float64Array(9);
      for (let map = 0; map < wide; map++) {
        const both = reduce[to * wide + map] * expand[map * heads + from];
        for (let i = 0; i < 9; i++) kernel[i] += both * local[map * 9 + i];
      }
      return kernel;
    });
    return (maps) => convolve(maps, heads, kernels);
  }

  function convolve(maps, heads, kernels) {
    const area = maps.length / heads, tokens = Math.sqrt(area), wide = tokens + 2, out = new Float64Array(maps.length);
    for (let from = 0; from < heads; from++) {
      const p = new Float64Array(wide * wide); // the map with zeros around
      for (let row = 0; row < tokens; row++) {
        const start = from * area + row * tokens;
        p.set(maps.subarray(start, start + tokens), (row + 1) * wide + 1);
      }
      for (let to = 0; to < heads; to++) {
        const k = kernels[to * heads + from];
        for (let row = 0; row < tokens; row++) {
          const at = to * area + row * tokens, above = row * wide, middle = above + wide, below = middle + wide;
          for (let i = 0; i < tokens; i++) {
            out[at + i] += k[0] * p[above + i] + k[1] * p[above + i + 1] + k[2] * p[above + i + 2]
              + k[3] * p[middle + i] + k[4] * p[middle + i + 1] + k[5] * p[middle + i + 2]
              + k[6] * p[below + i] + k[7] * p[below + i + 1] + k[8] * p[below + i + 2];
          }
        }
      }
    }
    return out;
  }

  // --- Arithmetic ---
  // x (rows, inputs) times the transpose of weight (outputs, inputs), plus bias; two rows and four
  // outputs at a time, so that what is read serves often. Past the edge, the last is computed again.
  function linear(x, { weight, bias }, outputs = bias.length) {
    const inputs = weight.length / outputs, rows = x.length / inputs, out = new Float64Array(rows * outputs);
    for (let row = 0; row < rows; row += 2) {
      const next = Math.min(row + 1, rows - 1), r0 = row * inputs, r1 = next * inputs;
      const p = row * outputs, q = next * outputs;
      for (let o = 0; o < outputs; o += 4) {
        const o1 = Math.min(o + 1, outputs - 1), o2 = Math.min(o + 2, outputs - 1), o3 = Math.min(o + 3, outputs - 1);
        const w0 = o * inputs, w1 = o1 * inputs, w2 = o2 * inputs, w3 = o3 * inputs;
        let a0 = 0, a1 = 0, a2 = 0, a3 = 0, b0 = 0, b1 = 0, b2 = 0, b3 = 0;
        for (let i = 0; i < inputs; i++) {
          const a = x[r0 + i], b = x[r1 + i];
          const v0 = weight[w0 + i], v1 = weight[w1 + i], v2 = weight[w2 + i], v3 = weight[w3 + i];
          a0 += a * v0; a1 += a * v1; a2 += a * v2; a3 += a * v3;
          b0 += b * v0; b1 += b * v1; b2 += b * v2; b3 += b * v3;
        }
        out[p + o] = a0; out[p + o1] = a1; out[p + o2] = a2; out[p + o3] = a3;
        out[q + o] = b0; out[q + o1] = b1; out[q + o2] = b2; out[q + o3] = b3;
      }
    }
    if (bias) for (let i = 0; i < out.length; i++) out[i] += bias[i % outputs];
    return out;
  }

  function transpose(x, rows) {
    const columns = x.length / rows, out = new Float64Array(x.length);
    for (let row = 0; row < rows; row++) {
      for (let column = 0; column < columns; column++) out[column * rows + row] = x[row * columns + column];
    }
    return out;
  }

  function layerNorm(x, { weight, bias }, eps) {
    const width = weight.length, out = new Float64Array(x.length);
    for (let start = 0; start < x.length; start += width) {
      let mean = 0, variance = 0;
      for (let i = 0; i < width; i++) mean += x[start + i] / width;
      for (let i = 0; i < width; i++) variance += (x[start + i] - mean) ** 2 / width;
      const slope = 1 / Math.sqrt(variance + eps);
      for (let i = 0; i < width; i++) out[start + i] = (x[start + i] - mean) * slope * weight[i] + bias[i];
    }
    return out;
  }

  function softmaxRows(x, width) {
    for (let start = 0; start < x.length; start += width) {
      let largest = -Infinity, sum = 0;
      for (let i = start; i < start + width; i++) largest = Math.max(largest, x[i]);
      for (let i = start; i < start + width; i++) sum += x[i] = Math.exp(x[i] - largest);
      for (let i = start; i < start + width; i++) x[i] /= sum;
    }
    return x;
  }

  // The error function by Abramowitz and Stegun's formula 7.1.26, within 1.5e-7.
  function erf(x) {
    const t = 1 / (1 + 0.3275911 * Math.abs(x));
    const series = t * (0.254829592 + t * (-0.284496736 + t * (1.421413741 + t * (-1.453152027 + t * 1.061405429))));
    return Math.sign(x) * (1 - series * Math.exp(-x * x));
  }
  const gelu = (x) => 0.5 * x * (1 + erf(x / Math.SQRT2));

  // --- One block ---
  // Its maps (heads, tokens, tokens), after softmax and whatever the attention makes of them, and its
  // values, each head's below one another (width, tokens).
  function attend({ width, heads, eps }, block, x) {
    const normed = layerNorm(x, block.norm1, eps), tokens = x.length / width, area = tokens * tokens;
    const maps = new Float64Array(heads * area);
    for (let head = 0; head < heads; head++) {
      const query = linear(normed, block.queries[head]).map((value) => value / Math.sqrt(width / heads));
      const scores = linear(query, { weight: linear(normed, block.keys[head]) }, tokens);
      maps.set(softmaxRows(scores, tokens), head * area);
    }
    return { maps: block.change ? block.change(maps) : maps, values: transpose(linear(normed, block.values), tokens) };
  }

  // The tokens (tokens, width) after a block: `attend` has found its values, and its maps are given.
  function finish({ width, heads, eps, scale }, block, x, values, maps) {
    const add = (to, branch, gamma) => to.map((value, i) => value + branch[i] * (gamma ? gamma[i % width] : 1) * scale);
    const tokens = x.length / width, each = x.length / heads, area = tokens * tokens, seen = new Float64Array(x.length);
    for (let head = 0; head < heads; head++) {
      const weight = maps.subarray(head * area, (head + 1) * area);
      seen.set(linear(values.subarray(head * each, (head + 1) * each), { weight }, tokens), head * each);
    }
    const mixed = add(x, linear(transpose(seen, width), block.proj), block.scale1);
    const inner = linear(layerNorm(mixed, block.norm2, eps), block.fc1).map(gelu);
    return add(mixed, linear(inner, block.fc2), block.scale2);
  }

  // --- From pixels to scores ---
  // What a convolution reads of an image (channels, side, side) with `edge` zeros around: a row for each place, so that
  // the convolution is a product of these rows with its weight.
  function windows(image, { weight, bias, kernel, stride, edge }) {
    const inputs = weight.length / bias.length, side = Math.sqrt(image.length / (inputs / kernel ** 2));
    const places = Math.floor((side + 2 * edge - kernel) / stride) + 1, out = new Float64Array(places ** 2 * inputs);
    for (let i = 0; i < out.length; i += kernel) { // one row of one channel's window at a time
      const place = Math.floor(i / inputs), inside = Math.floor((i % inputs) / kernel);
      const y = Math.floor(place / places) * stride - edge + inside % kernel, left = (place % places) * stride - edge;
      const start = (Math.floor(inside / kernel) * side + y) * side;
      if (y < 0 || y >= side) continue;
      for (let x = Math.max(left, 0); x < Math.min(left + kernel, side); x++) out[i + x - left] = image[start + x];
    }
    return out;
  }

  // Pixels 0 to 255, three colours after one another, (3, size, size): the tokens (tokens, width).
  function embedImage({ size, about: { mean, std }, stem, embed, classToken, positions }, pixels) {
    const colour = (i) => Math.floor(i / size ** 2);
    let image = Float64Array.from(pixels, (value, i) => (value / 255 - mean[colour(i)]) / std[colour(i)]);
    for (const layer of stem) {
      const places = linear(windows(image, layer), layer).map((value) => Math.max(value, 0)); // (places, channels)
      image = transpose(places, places.length / layer.bias.length);
    }
    const x = linear(windows(image, embed), embed), before = positions.length - x.length; // the class token, if any
    return positions.map((value, i) => value + (i < before ? classToken[i] : x[i - before]));
  }

  // The class scores: the head reads the class token or, without one, the mean of all tokens after the norm.
  function score({ width, classToken, norm, lastEps, head }, x) {
    const read = layerNorm(classToken ? x.subarray(0, width) : x, norm, lastEps), mean = new Float64Array(width);
    read.forEach((value, i) => { mean[i % width] += value * width / read.length; });
    return linear(mean, head);
  }

  // One image through the model: { logits, maps, streams }, where streams[i] enters block i.
  const run = (model, pixels) => goOn(model, [{ streams: [embedImage(model, pixels)], maps: [] }])[0];

  // Runs that have begun, on to block `until`. `change` may put other maps in the place of a block's.
  function goOn(model, runs, until = model.blocks.length, change = (index, own) => own) {
    for (let index = runs[0].maps.length; index < until; index++) {
      const block = model.blocks[index], own = runs.map(({ streams }) => attend(model, block, streams[index]));
      runs.forEach(({ streams, maps }, i) => {
        maps.push(change(index, own[i].maps, maps[index - 1], own[runs.length - 1 - i].maps));
        streams.push(finish(model, block, streams[index], own[i].values, maps[index]));
      });
    }
    return runs.map(({ streams, maps }) => ({ logits: score(model, streams.at(-1)), maps, streams }));
  }

  // What came before block `first` of a run, so that it need not be computed again.
  const upTo = ({ streams, maps }, first) => ({ streams: streams.slice(0, first + 1), maps: maps.slice(0, first) });
  const probabilities = (logits) => softmaxRows(Float64Array.from(logits), logits.length);

  return { read, build, run, goOn, upTo, probabilities };
};
