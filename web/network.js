// A trained Vision Transformer in plain JavaScript: reads the package's .safetensors files as they are and computes
// class scores and every attention map, in 64 bits. One function, and nothing from outside it, so that its text can
// be handed to a worker, which a page opened from a folder could not load from a file.
const visionNetwork = () => {
  // --- reading weights -----------------------------------------------------------------------------------------
  const POWERS = Float64Array.from({ length: 32 }, (_, exponent) => 2 ** (exponent - 25));

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
    const { __metadata__: metadata, ...tensors } = header;
    const weights = {};
    for (const [name, { dtype, data_offsets: [from, to] }] of Object.entries(tensors)) {
      if (READERS[dtype]) weights[name] = READERS[dtype](buffer.slice(start + from, start + to)); // a copy is aligned
    }
    return { weights, config: JSON.parse(metadata.config), about: JSON.parse(metadata.about) };
  }

  // --- the model -----------------------------------------------------------------------------------------------
  function build(buffer) {
    const { weights, config, about } = read(buffer);
    const size = config.img_size, patch = config.patch_size, side = size / patch;
    const unknown = config.tokens !== "patch" || !config.class_token || config.mlp !== "plain" || config.dense_head;
    const changeOf = { plain: () => null, re: mixing, refined: refinement }[config.attention[0]];
    if (unknown || config.attention.length > 1 || !changeOf) {
      throw new Error("this page computes models of patches with plain, Re- or refined attention only");
    }
    const layer = (name) => ({ weight: weights[`${name}.weight`], bias: weights[`${name}.bias`] });
    const blocks = Array.from({ length: config.depth }, (_, index) => {
      const name = (part) => `blocks.${index}.${part}`;
      return {
        norm1: layer(name("norm1")), qkv: layer(name("attn.qkv")), proj: layer(name("attn.proj")),
        scale1: weights[name("scale1.gamma")], norm2: layer(name("norm2")),
        fc1: layer(name("mlp.fc1")), fc2: layer(name("mlp.fc2")), scale2: weights[name("scale2.gamma")],
        change: changeOf((part) => weights[name(`attn.${part}`)], config.num_heads, config.attention_options ?? {}),
      };
    });
    return {
      blocks, about, size, patch, side, tokens: side * side + 1, width: config.embed_dim, heads: config.num_heads,
      eps: config.block_norm_eps ?? config.norm_eps, lastEps: config.norm_eps, scale: config.branch_scale,
      embed: layer("patch_embed.proj"), classToken: weights.cls_token, positions: weights.pos_embed,
      norm: layer("norm"), head: layer("head"),
    };
  }

  // Re-attention: mixing, then BatchNorm over heads, which in evaluation is one matrix and one shift for each head.
  function mixing(part, heads, options) {
    const norm = (name) => part(`norm.batch.${name}`), mean = norm("running_mean"), variance = norm("running_var");
    const gain = norm("weight"), offset = norm("bias");
    if (!gain) throw new Error("this page computes Re-attention with BatchNorm only");
    const factor = options.map_scale ?? 1;
    const slope = gain.map((value, to) => factor * value / Math.sqrt(variance[to] + (options.eps ?? 1e-5)));
    return {
      kernels: Array.from(part("mix.weight"), (weight, pair) => [weight * slope[Math.floor(pair / heads)]]),
      shift: slope.map((value, to) => (part("mix.bias")[to] - mean[to]) * value + factor * offset[to]),
    };
  }

  // Refiner: three convolutions without bias in a row are one convolution, from every head to every head.
  function refinement(part, heads) {
    const [expand, local, reduce] = ["expand", "local", "reduce"].map((name) => part(`${name}.weight`));
    const wide = expand.length / heads;
    if (local.length !== 9 * wide) throw new Error("this page computes refined attention with kernels of 3 x 3 only");
    const kernels = Array.from({ length: heads * heads }, (_, pair) => {
      const to = Math.floor(pair / heads), from = pair % heads, kernel = new Float64Array(9);
      for (let map = 0; map < wide; map++) {
        const both = reduce[to * wide + map] * expand[map * heads + from];
        for (let i = 0; i < 9; i++) kernel[i] += both * local[map * 9 + i];
      }
      return kernel;
    });
    return { kernels, shift: new Float64Array(heads) };
  }

  // Every head's map from all heads' maps, each pair with a kernel of 3 x 3 entries or of one; zeros lie around them.
  function combine(maps, heads, tokens, { kernels, shift }) {
    const large = kernels[0].length > 1, pad = large ? 1 : 0, width = tokens + 2 * pad, area = tokens * tokens;
    const p = new Float64Array(width * width), out = maps.map((_, i) => shift[Math.floor(i / area)]);
    for (let from = 0; from < heads; from++) {
      for (let row = 0; row < tokens; row++) {
        const start = from * area + row * tokens;
        p.set(maps.subarray(start, start + tokens), (row + pad) * width + pad);
      }
      for (let to = 0; to < heads; to++) {
        const k = kernels[to * heads + from];
        for (let row = 0; row < tokens; row++) {
          const at = to * area + row * tokens, above = row * width, middle = above + width, below = middle + width;
          if (!large) for (let i = 0; i < tokens; i++) out[at + i] += k[0] * p[above + i];
          else for (let i = 0; i < tokens; i++) {
            out[at + i] += k[0] * p[above + i] + k[1] * p[above + i + 1] + k[2] * p[above + i + 2]
              + k[3] * p[middle + i] + k[4] * p[middle + i + 1] + k[5] * p[middle + i + 2]
              + k[6] * p[below + i] + k[7] * p[below + i + 1] + k[8] * p[below + i + 2];
          }
        }
      }
    }
    return out;
  }

  // --- arithmetic ----------------------------------------------------------------------------------------------
  // x (rows, inputs) times the transpose of weight (outputs, inputs), plus bias: two rows and four outputs at a time.
  // Past the edge, the last one is computed again.
  function linear(x, rows, weight, bias, outputs) {
    const inputs = weight.length / outputs, out = new Float64Array(rows * outputs);
    const upTo = (place, end) => Math.min(place, end - 1);
    for (let row = 0; row < rows; row += 2) {
      const next = upTo(row + 1, rows), first = row * inputs, second = next * inputs;
      const at = row * outputs, below = next * outputs;
      for (let o0 = 0; o0 < outputs; o0 += 4) {
        const o1 = upTo(o0 + 1, outputs), o2 = upTo(o0 + 2, outputs), o3 = upTo(o0 + 3, outputs);
        const w0 = o0 * inputs, w1 = o1 * inputs, w2 = o2 * inputs, w3 = o3 * inputs;
        let a0 = 0, a1 = 0, a2 = 0, a3 = 0, b0 = 0, b1 = 0, b2 = 0, b3 = 0;
        for (let i = 0; i < inputs; i++) {
          const a = x[first + i], b = x[second + i];
          const v0 = weight[w0 + i], v1 = weight[w1 + i], v2 = weight[w2 + i], v3 = weight[w3 + i];
          a0 += a * v0; a1 += a * v1; a2 += a * v2; a3 += a * v3;
          b0 += b * v0; b1 += b * v1; b2 += b * v2; b3 += b * v3;
        }
        out[at + o0] = a0; out[at + o1] = a1; out[at + o2] = a2; out[at + o3] = a3;
        out[below + o0] = b0; out[below + o1] = b1; out[below + o2] = b2; out[below + o3] = b3;
      }
    }
    if (bias) for (let i = 0; i < out.length; i++) out[i] += bias[i % outputs];
    return out;
  }

  function layerNorm(x, width, { weight, bias }, eps) {
    const out = new Float64Array(x.length);
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

  // --- running the model ---------------------------------------------------------------------------------------
  // Pixels 0 to 255, three colours after one another, (3, size, size): the tokens (tokens, width).
  function embedImage(model, pixels) {
    const { size, patch, side, tokens, width, about } = model, area = patch * patch;
    const patches = new Float64Array((tokens - 1) * 3 * area);
    for (let colour = 0; colour < 3; colour++) {
      for (let y = 0; y < size; y++) {
        for (let x = 0; x < size; x++) {
          const token = Math.floor(y / patch) * side + Math.floor(x / patch);
          const value = pixels[(colour * size + y) * size + x] / 255;
          const place = (token * 3 + colour) * area + (y % patch) * patch + (x % patch);
          patches[place] = (value - about.mean[colour]) / about.std[colour];
        }
      }
    }
    const x = new Float64Array(tokens * width);
    x.set(model.classToken);
    x.set(linear(patches, tokens - 1, model.embed.weight, model.embed.bias, width), width);
    return x.map((value, i) => value + model.positions[i]);
  }

  function headsOf(qkv, tokens, width, heads) {
    const each = width / heads, part = (which, head, transposed) => {
      const out = new Float64Array(tokens * each);
      for (let token = 0; token < tokens; token++) {
        for (let i = 0; i < each; i++) {
          out[transposed ? i * tokens + token : token * each + i] = qkv[(token * 3 + which) * width + head * each + i];
        }
      }
      return out;
    };
    return { query: (head) => part(0, head), key: (head) => part(1, head), columns: (head) => part(2, head, true) };
  }

  // The map of one block, after the softmax and whatever the attention makes of it: (heads, tokens, tokens).
  function mapOf(model, block, split) {
    const { tokens, width, heads } = model, maps = new Float64Array(heads * tokens * tokens);
    for (let head = 0; head < heads; head++) {
      const query = split.query(head), factor = Math.sqrt(heads / width);
      for (let i = 0; i < query.length; i++) query[i] *= factor;
      maps.set(softmaxRows(linear(query, tokens, split.key(head), null, tokens), tokens), head * tokens * tokens);
    }
    return block.change ? combine(maps, heads, tokens, block.change) : maps;
  }

  // Every entry as the mean of its row, or of its column where `step` is a whole row.
  const means = (map, tokens, step) => map.map((_, i) => {
    const first = i - (Math.floor(i / step) % tokens) * step;
    let sum = 0;
    for (let k = 0; k < tokens; k++) sum += map[first + k * step];
    return sum / tokens;
  });

  // What may stand in for a block's map, as in the package's `INTERVENTIONS`; `last` is the map of the block before.
  const REPLACEMENTS = {
    previous: (map, tokens, last) => last ?? map,
    other: (map, tokens, last, other) => other,
    none: (map) => new Float64Array(map.length),
    uniform: (map, tokens) => means(map, tokens, 1), // each row keeps its sum
    mean: (map, tokens) => means(map, tokens, tokens), // all queries use the mean of their rows
  };

  function addBranch(x, branch, gamma, factor) {
    return x.map((value, i) => value + branch[i] * (gamma ? gamma[i % gamma.length] : 1) * factor);
  }

  // The stream (tokens, width) after a block whose values `split` holds and whose map is `map`.
  function finishBlock(model, block, x, split, map) {
    const { tokens, width, heads } = model, each = width / heads, area = tokens * tokens;
    const seen = new Float64Array(tokens * width);
    for (let head = 0; head < heads; head++) {
      const rows = linear(map.subarray(head * area, (head + 1) * area), tokens, split.columns(head), null, each);
      for (let token = 0; token < tokens; token++) {
        seen.set(rows.subarray(token * each, (token + 1) * each), token * width + head * each);
      }
    }
    const branch = linear(seen, tokens, block.proj.weight, block.proj.bias, width);
    const mixed = addBranch(x, branch, block.scale1, model.scale), hidden = block.fc1.bias.length;
    const normed = layerNorm(mixed, width, block.norm2, model.eps);
    const inner = linear(normed, tokens, block.fc1.weight, block.fc1.bias, hidden).map(gelu);
    return addBranch(mixed, linear(inner, tokens, block.fc2.weight, block.fc2.bias, width), block.scale2, model.scale);
  }

  // One image through the model: { logits, maps, streams }, where streams[i] enters block i.
  const run = (model, pixels) => goOn(model, [{ streams: [embedImage(model, pixels)], maps: [] }])[0];

  // The same with the maps of some blocks replaced. What lies before them is taken from `base`, an unchanged run; where
  // maps of another image take their place, `other` is its unchanged run, and each gets the other's.
  function replace(model, base, blocks, how, other = base) {
    const first = Math.min(...blocks), started = ({ streams, maps }) => ({
      streams: streams.slice(0, first + 1), maps: maps.slice(0, first),
    });
    return goOn(model, (how === "other" ? [base, other] : [base]).map(started), blocks, how)[0];
  }

  function goOn(model, runs, blocks = [], how = null) {
    const { tokens, width, heads } = model;
    for (let index = runs[0].maps.length; index < model.blocks.length; index++) {
      const block = model.blocks[index];
      const splits = runs.map(({ streams }) => {
        const normed = layerNorm(streams[index], width, block.norm1, model.eps);
        return headsOf(linear(normed, tokens, block.qkv.weight, block.qkv.bias, 3 * width), tokens, width, heads);
      });
      const own = splits.map((split) => mapOf(model, block, split));
      runs.forEach((each, i) => {
        const change = blocks.includes(index) ? REPLACEMENTS[how] : (map) => map;
        each.maps.push(change(own[i], tokens, each.maps[index - 1], own[runs.length - 1 - i]));
        each.streams.push(finishBlock(model, block, each.streams[index], splits[i], each.maps[index]));
      });
    }
    return runs.map(({ streams, maps }) => {
      const last = layerNorm(streams.at(-1).subarray(0, width), width, model.norm, model.lastEps);
      return { logits: linear(last, 1, model.head.weight, model.head.bias, model.head.bias.length), maps, streams };
    });
  }

  const probabilities = (logits) => softmaxRows(Float64Array.from(logits), logits.length);

  return { read, build, run, replace, probabilities, replacements: Object.keys(REPLACEMENTS) };
};
