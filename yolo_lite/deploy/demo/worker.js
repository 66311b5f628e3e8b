// Runs the model beside the page, which stays usable meanwhile. Says {ready} or {failed}, then answers each
// {id, source: Blob or ImageBitmap} with {id, found, size, times} or {id, error}.

import * as ort from "./runtime/ort.wasm.bundle.min.mjs";
import { detections, located } from "./postprocess.js";
import { seen } from "./resize.js";

// More threads would need headers that python -m http.server does not send.
ort.env.wasm.numThreads = 1;
ort.env.wasm.wasmPaths = { wasm: new URL("./runtime/ort-wasm-simd-threaded.wasm", import.meta.url).href };
ort.env.logLevel = "error";
// Errors only, here too: what the optimiser leaves out of a graph is no news.
const OPTIONS = { executionProviders: ["wasm"], logSeverityLevel: 3 };

class UnreadableImage extends Error {}

async function load() {
  const info = await (await fetched("model.json")).json();
  const model = await (await fetched("model.onnx")).arrayBuffer();
  const session = await ort.InferenceSession.create(model, OPTIONS);
  const [height, width] = info.inputSize;
  await run(session, info, new Float32Array(3 * height * width)); // the first run takes longer than the others
  return { info, session };
}

async function fetched(name) {
  const response = await fetch(new URL(name, import.meta.url));
  if (!response.ok) throw new Error(`${name}: ${response.status} ${response.statusText}`);
  return response;
}

// Outputs of one image; a model for several images at once gets blank ones beside it.
async function run(session, info, values) {
  const [height, width] = info.inputSize;
  let input = values;
  if (info.batch > 1) {
    input = new Float32Array(info.batch * values.length);
    input.set(values);
  }
  const tensor = new ort.Tensor("float32", input, [info.batch, 3, height, width]);
  return session.run({ [session.inputNames[0]]: tensor });
}

async function opened(source) {
  if (source instanceof ImageBitmap) return source;
  try {
    // Turned as EXIF says; colours as they are in the file, which is what Python sees.
    return await createImageBitmap(source, { colorSpaceConversion: "none" });
  } catch {
    throw new UnreadableImage();
  }
}

async function look({ info, session }, source) {
  const started = performance.now();
  const bitmap = await opened(source);
  const size = { width: bitmap.width, height: bitmap.height };
  const decoded = performance.now();
  const [height, width] = info.inputSize;
  const { values, placed } = seen(bitmap, width, height, info.fill);
  bitmap.close();
  const resized = performance.now();
  const outputs = await run(session, info, values);
  const computed = performance.now();
  const found = located(detections(outputs, info), placed, size.width, size.height);
  const times = {
    decode: decoded - started,
    resize: resized - decoded,
    network: computed - resized,
    suppress: performance.now() - computed,
  };
  return { found, size, times };
}

const loading = load();
loading.then(
  ({ info }) => postMessage({ ready: info }),
  (error) => postMessage({ failed: error.message ?? String(error) }),
);

let last = loading.catch(() => null);
addEventListener("message", ({ data: { id, source } }) => {
  last = last.then(async (model) => {
    if (model === null) return null;
    try {
      postMessage({ id, ...(await look(model, source)) });
    } catch (error) {
      postMessage({ id, error: error instanceof UnreadableImage ? "unreadable" : (error.message ?? String(error)) });
    }
    return model;
  });
});
