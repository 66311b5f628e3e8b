// An image as the network sees it: resized by its longer side, centred on grey, RGB in 0..1, channel by channel.
// As Python does it (OpenCV): by area where it shrinks, bilinear where it grows. What canvases do differs by browser.

// Pixels that are read from the canvas at once: phones refuse canvases of more than 16 million.
const STRIP_PIXELS = 2 ** 21;

// Size that just fits into the room, and where it lies there: {width, height, left, top}.
export function fit(width, height, roomWidth, roomHeight) {
  const ratio = Math.min(roomHeight / height, roomWidth / width);
  const fitted = {
    width: Math.max(1, Math.min(roomWidth, roundHalfEven(width * ratio))),
    height: Math.max(1, Math.min(roomHeight, roundHalfEven(height * ratio))),
  };
  fitted.left = Math.floor((roomWidth - fitted.width) / 2);
  fitted.top = Math.floor((roomHeight - fitted.height) / 2);
  return fitted;
}

// Python's round().
export function roundHalfEven(value) {
  const low = Math.floor(value);
  const rest = value - low;
  if (rest !== 0.5) return Math.round(value);
  return low % 2 === 0 ? low : low + 1;
}

// For each place of `size`, the first of `from` places that it is made of, and their weights.
export function taps(from, size, byArea) {
  const scale = from / size;
  return Array.from({ length: size }, (_, i) => {
    if (byArea) {
      const begin = i * scale;
      const end = Math.min(from, begin + scale);
      const first = Math.min(from - 1, Math.floor(begin + 1e-9));
      const weights = [];
      for (let k = first; k < end - 1e-9; k++) weights.push((Math.min(end, k + 1) - Math.max(begin, k)) / (end - begin));
      return { first, weights };
    }
    const centre = Math.min(from - 1, Math.max(0, (i + 0.5) * scale - 0.5));
    const first = Math.min(Math.floor(centre), Math.max(0, from - 2));
    return { first, weights: from === 1 ? [1] : [1 - (centre - first), centre - first] };
  });
}

// Float32Array (3, room height, room width) of an ImageBitmap, and how the image lies in it.
export function seen(bitmap, roomWidth, roomHeight, fill) {
  const { width, height } = bitmap;
  const placed = fit(width, height, roomWidth, roomHeight);
  const byArea = placed.width * placed.height < width * height;
  const columns = taps(width, placed.width, byArea);
  const rows = taps(height, placed.height, byArea);
  const sums = new Float32Array(placed.height * placed.width * 3);
  const stripHeight = Math.max(1, Math.min(height, Math.floor(STRIP_PIXELS / width)));
  const canvas = new OffscreenCanvas(width, stripHeight);
  const context = canvas.getContext("2d", { willReadFrequently: true });
  const narrow = new Float32Array(placed.width * 3); // one row of the image, as wide as it will be
  let out = 0; // the first row of the result that the present row of the image is part of
  for (let top = 0; top < height; top += stripHeight) {
    context.fillStyle = `rgb(${fill}, ${fill}, ${fill})`; // shows through what is transparent
    context.fillRect(0, 0, width, stripHeight);
    context.drawImage(bitmap, 0, -top);
    const { data } = context.getImageData(0, 0, width, stripHeight);
    for (let y = top; y < Math.min(height, top + stripHeight); y++) {
      while (out < rows.length && rows[out].first + rows[out].weights.length <= y) out++;
      if (out === rows.length) break;
      if (rows[out].first > y) continue;
      narrowRow(data, (y - top) * width * 4, columns, narrow);
      for (let row = out; row < rows.length && rows[row].first <= y; row++) {
        const weight = rows[row].weights[y - rows[row].first];
        const start = row * narrow.length;
        for (let i = 0; i < narrow.length; i++) sums[start + i] += weight * narrow[i];
      }
    }
  }
  return { values: planes(sums, placed, roomWidth, roomHeight, fill), placed };
}

function narrowRow(data, start, columns, narrow) {
  for (let x = 0; x < columns.length; x++) {
    const { first, weights } = columns[x];
    let red = 0;
    let green = 0;
    let blue = 0;
    for (let k = 0, i = start + first * 4; k < weights.length; k++, i += 4) {
      red += weights[k] * data[i];
      green += weights[k] * data[i + 1];
      blue += weights[k] * data[i + 2];
    }
    narrow[x * 3] = red;
    narrow[x * 3 + 1] = green;
    narrow[x * 3 + 2] = blue;
  }
}

// Rounded to whole grey values, as images have them; from pixel by pixel to channel by channel.
function planes(sums, placed, roomWidth, roomHeight, fill) {
  const area = roomWidth * roomHeight;
  const values = new Float32Array(3 * area).fill(fill / 255);
  for (let y = 0; y < placed.height; y++) {
    for (let x = 0; x < placed.width; x++) {
      const to = (placed.top + y) * roomWidth + placed.left + x;
      const from = (y * placed.width + x) * 3;
      for (let c = 0; c < 3; c++) values[c * area + to] = Math.round(sums[from + c]) / 255;
    }
  }
  return values;
}
