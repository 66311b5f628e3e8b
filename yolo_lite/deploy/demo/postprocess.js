// From the network's outputs to detections, as yolo_lite/ops/postprocess.py does it. Boxes are xyxy in pixels.

// Detections of one image, best first: [{box: [x1, y1, x2, y2] in input pixels, score, label}].
export function detections(outputs, info) {
  const found = info.output === "nms" ? suppressed(outputs, info.leastScore) : candidates(outputs, info);
  found.sort((a, b) => b.score - a.score); // stable, as in Python
  return survivors(found, info.iou, info.maxDetections);
}

// Of decoded outputs: boxes (B, A, 4), scores (B, A, C); a box stays for its best class only.
function candidates({ boxes_xyxy: boxes, scores }, info) {
  const found = [];
  const [, numAnchors, numClasses] = scores.dims;
  for (let anchor = 0; anchor < numAnchors; anchor++) {
    let label = 0;
    const start = anchor * numClasses;
    for (let c = 1; c < numClasses; c++) if (scores.data[start + c] > scores.data[start + label]) label = c;
    const score = scores.data[start + label];
    if (score > info.leastScore) found.push({ box: boxAt(boxes, anchor), score, label });
  }
  return found;
}

// Of nms outputs: boxes (B, D, 4), scores (B, D), labels (B, D), padded with scores of 0.
function suppressed({ boxes_xyxy: boxes, scores, labels }, leastScore) {
  const found = [];
  for (let i = 0; i < scores.dims[1]; i++) {
    const score = scores.data[i];
    if (score > leastScore) found.push({ box: boxAt(boxes, i), score, label: Number(labels.data[i]) });
  }
  return found;
}

function boxAt(boxes, i) {
  return Array.from(boxes.data.subarray(i * 4, i * 4 + 4));
}

// Non-maximum suppression in each class, best first: of two boxes that overlap more, the better stays.
export function survivors(found, iou, count) {
  const kept = [];
  for (const candidate of found) {
    if (kept.length === count) break;
    const isNew = kept.every((one) => one.label !== candidate.label || overlap(one.box, candidate.box) <= iou);
    if (isNew) kept.push(candidate);
  }
  return kept;
}

// Intersection over union.
export function overlap(a, b) {
  const width = Math.max(0, Math.min(a[2], b[2]) - Math.max(a[0], b[0]));
  const height = Math.max(0, Math.min(a[3], b[3]) - Math.max(a[1], b[1]));
  const common = width * height;
  const union = area(a) + area(b) - common;
  return union > 0 ? common / union : 0;
}

function area(box) {
  return (box[2] - box[0]) * (box[3] - box[1]);
}

// From input pixels to pixels of the image, clipped to it.
export function located(found, placed, width, height) {
  const scaleX = placed.width / width;
  const scaleY = placed.height / height;
  const clip = (value, most) => Math.min(most, Math.max(0, value));
  return found.map(({ box: [x1, y1, x2, y2], score, label }) => ({
    box: [
      clip((x1 - placed.left) / scaleX, width),
      clip((y1 - placed.top) / scaleY, height),
      clip((x2 - placed.left) / scaleX, width),
      clip((y2 - placed.top) / scaleY, height),
    ],
    score,
    label,
  }));
}
