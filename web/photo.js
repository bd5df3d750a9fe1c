// Pixels of a photograph as the package's `read_image` makes them: its shorter side resized to `size`, its centre kept.
// The resizing is Pillow's: bicubic, over all pixels that fall into one, first along rows and then along columns. That
// of browsers leaves pixels out or averages otherwise, and a small network takes the result for another class. (For a
// picture more than twice as high as wide, new versions of Pillow begin with the columns: a level or two at its edges.)
const photoPixels = (source, width, height, size) => {
  const shorter = Math.min(width, height), longer = (side) => Math.max(size, roundHalfEven(side * (size / shorter)));
  const wide = weightsAlong(width, longer(width)), high = weightsAlong(height, longer(height));
  const rows = new Uint8ClampedArray(3 * height * size), out = new Uint8ClampedArray(3 * size * size);
  for (let y = 0; y < height; y++) for (let x = 0; x < size; x++) for (let colour = 0; colour < 3; colour++) {
    rows[(colour * height + y) * size + x] = sum(wide[x], (at) => source[(y * width + at) * 4 + colour]); // of RGBA
  }
  for (let colour = 0; colour < 3; colour++) for (let y = 0; y < size; y++) for (let x = 0; x < size; x++) {
    out[(colour * size + y) * size + x] = sum(high[y], (at) => rows[(colour * height + at) * size + x]);
  }
  return out; // (3, size, size)

  // For each pixel in the middle of a resized line: where its sources start, and their weights.
  function weightsAlong(from, to) {
    const scale = from / to, wider = Math.max(scale, 1), left = Math.floor((to - size) / 2);
    return Array.from({ length: size }, (_, i) => {
      const centre = (left + i + 0.5) * scale;
      const start = Math.max(0, Math.trunc(centre - 2 * wider + 0.5));
      const end = Math.min(from, Math.trunc(centre + 2 * wider + 0.5));
      const weights = Array.from({ length: end - start }, (_, k) => bicubic((start + k + 0.5 - centre) / wider));
      const total = weights.reduce((all, weight) => all + weight, 0);
      return { start, weights: weights.map((weight) => weight / total) };
    });
  }
  function sum({ start, weights }, value) {
    let total = 0;
    for (let k = 0; k < weights.length; k++) total += weights[k] * value(start + k);
    return total; // an array of bytes rounds and clamps it
  }
  function bicubic(x) {
    const a = -0.5, t = Math.abs(x);
    return t < 1 ? ((a + 2) * t - (a + 3)) * t * t + 1 : t < 2 ? (((t - 5) * t + 8) * t - 4) * a : 0;
  }
  function roundHalfEven(x) { // as Python does
    return Math.round(x) - x === 0.5 && Math.round(x) % 2 ? Math.round(x) - 1 : Math.round(x);
  }
};

// A file's picture, upright, as pixels (3, size, size). A large one is drawn smaller first: a few levels, much time.
const readPhoto = async (file, size) => {
  const DIRECTLY = 1024, ROUGHLY = 256; // pixels along the shorter side
  const bitmap = await createImageBitmap(file, { colorSpaceConversion: "none" }); // Pillow leaves colours alone
  const shorter = Math.min(bitmap.width, bitmap.height), scale = shorter > DIRECTLY ? ROUGHLY / shorter : 1;
  const width = Math.round(bitmap.width * scale), height = Math.round(bitmap.height * scale);
  const brush = new OffscreenCanvas(width, height).getContext("2d", { willReadFrequently: true });
  brush.imageSmoothingQuality = "high";
  brush.fillStyle = "#123456"; // some browsers falsify what is read, against fingerprinting
  brush.fillRect(0, 0, width, height);
  if (brush.getImageData(0, 0, 1, 1).data.join() !== "18,52,86,255") {
    throw new Error("this browser gives pages false pixels of a picture; allow this page to read a canvas");
  }
  brush.drawImage(bitmap, 0, 0, width, height);
  bitmap.close();
  return photoPixels(brush.getImageData(0, 0, width, height).data, width, height, size);
};
