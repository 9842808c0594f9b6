// A word's map over its picture: glowing where the model looked, dim elsewhere.

const LONGEST = 480;
const VEIL = 0.58;
// Matplotlib's inferno, which `captax explain` draws with, at nine places.
const COLOURS = [
  [0, 0, 4], [31, 12, 72], [85, 15, 109], [136, 34, 106], [186, 54, 85],
  [227, 89, 51], [249, 140, 10], [249, 201, 50], [252, 255, 164],
];

export function draw(canvas, image, { grid, seen, map }) {
  const scale = LONGEST / Math.max(image.naturalWidth, image.naturalHeight, 1);
  const width = Math.max(1, Math.round((image.naturalWidth || LONGEST) * scale));
  const height = Math.max(1, Math.round((image.naturalHeight || LONGEST) * scale));
  canvas.width = width;
  canvas.height = height;
  const context = canvas.getContext("2d");
  context.fillStyle = `rgb(${COLOURS[0].join(" ")} / ${VEIL})`;
  context.fillRect(0, 0, width, height);
  const [left, top, across, down] = seen;
  const box = [left * width, top * height, across * width, down * height];
  context.clearRect(...box);
  context.imageSmoothingQuality = "high";
  context.drawImage(cells(grid, map), ...box);
}

// A pixel for each cell, which the browser then smooths.
function cells([rows, columns], map) {
  const values = map.flat();
  const most = Math.max(...values);
  const least = Math.min(...values);
  const range = most - least || 1;
  const small = document.createElement("canvas");
  small.width = columns;
  small.height = rows;
  const context = small.getContext("2d");
  const pixels = context.createImageData(columns, rows);
  values.forEach((value, i) => {
    pixels.data.set([...colour((value - least) / range), 255 * VEIL], 4 * i);
  });
  context.putImageData(pixels, 0, 0);
  return small;
}

function colour(share) {
  const at = share * (COLOURS.length - 1);
  const below = COLOURS[Math.floor(at)];
  const above = COLOURS[Math.ceil(at)];
  return below.map((value, i) => value + (at % 1) * (above[i] - value));
}

// The place in words.
export function where([rows, columns], map) {
  let row = 0;
  let column = 0;
  let total = 0;
  const most = Math.max(...map.flat());
  map.forEach((line, y) =>
    line.forEach((value, x) => {
      const weight = value > most / 2 ? value : 0;
      row += weight * (y + 0.5);
      column += weight * (x + 0.5);
      total += weight;
    }),
  );
  const third = (at, size) => Math.min(2, Math.floor((3 * at) / (total || 1) / size));
  const down = ["top", "", "bottom"][third(row, rows)];
  const across = ["left", "", "right"][third(column, columns)];
  return `${down} ${across}`.trim() || "middle";
}
