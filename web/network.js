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
    const other = config.tokens !== "patch" || !config.class_token || config.mlp !== "plain" || config.dense_head;
    if (other || !changeOf) {
      throw new Error("this page computes models of patches with plain, Re- or refined attention only");
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
    return {
      blocks, about, attention: config.attention[0], size, patch, side: size / patch, width, heads,
      tokens: (size / patch) ** 2 + 1, eps: config.block_norm_eps ?? config.norm_eps, lastEps: config.norm_eps,
      scale: config.branch_scale, embed: layer("patch_embed.proj"), classToken: weights.cls_token,
      positions: weights.pos_embed, norm: layer("norm"), head: layer("head"),
    };
  }

  // Some outputs of a linear layer, as a layer.
  function outputs({ weight, bias }, first, count) {
    const inputs = weight.length / bias.length, end = first + count;
    return { weight: weight.subarray(first * inputs, end * inputs), bias: bias.subarray(first, end) };
  }

  // --- What Re-attention and Refiner make of maps ---
  // Re-attention mixes the heads; its norm, in evaluation, is a factor and a shift for each head.
  function mixing(part, heads, options) {
    const [gain, offset, mean, variance] = ["weight", "bias", "running_mean", "running_var"]
      .map((name) => part(`norm.batch.${name}`));
    if (!gain) throw new Error("this page computes Re-attention with BatchNorm only");
    const factor = options.map_scale ?? 1, eps = options.eps ?? 1e-5;
    const slope = gain.map((value, to) => factor * value / Math.sqrt(variance[to] + eps));
    const weight = part("mix.weight").map((value, pair) => value * slope[Math.floor(pair / heads)]);
    const shift = slope.map((value, to) => (part("mix.bias")[to] - mean[to]) * value + factor * offset[to]);
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
  // Pixels 0 to 255, three colours after one another, (3, size, size): the tokens (tokens, width).
  function embedImage({ size, patch, side, width, about, embed, classToken, positions }, pixels) {
    const area = patch * patch, patches = new Float64Array(3 * size * size).map((_, place) => {
      const token = Math.floor(place / (3 * area)), colour = Math.floor(place / area) % 3, inside = place % area;
      const y = Math.floor(token / side) * patch + Math.floor(inside / patch);
      const x = (token % side) * patch + inside % patch;
      return (pixels[(colour * size + y) * size + x] / 255 - about.mean[colour]) / about.std[colour];
    });
    const x = linear(patches, embed); // (tokens - 1, width)
    return positions.map((value, i) => value + (i < width ? classToken[i] : x[i - width]));
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
    return runs.map(({ streams, maps }) => {
      const classToken = streams.at(-1).subarray(0, model.width);
      return { logits: linear(layerNorm(classToken, model.norm, model.lastEps), model.head), maps, streams };
    });
  }

  // What came before block `first` of a run, so that it need not be computed again.
  const upTo = ({ streams, maps }, first) => ({ streams: streams.slice(0, first + 1), maps: maps.slice(0, first) });
  const probabilities = (logits) => softmaxRows(Float64Array.from(logits), logits.length);

  return { read, build, run, goOn, upTo, probabilities };
};
