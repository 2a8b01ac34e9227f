// The page: selects the model, takes the image, queries the server, and shows the answers.

import { element, short } from "./card.js";
import { Channel, describeField } from "./channel.js";
import { Network } from "./network.js";
import { Notice } from "./notice.js";
import { drawPredictions, percent } from "./predictions.js";
import { Newest, Refusal, ask } from "./server.js";
import { Source } from "./source.js";
import { Picture, outline, prepare } from "./tiles.js";

const PAUSE_MS = 50; // between two classifications while drawing
const find = (id) => document.getElementById(id);
const notice = new Notice(find);
const darkness = matchMedia("(prefers-color-scheme: dark)");

let model = null; // an entry of GET /v1/models
let graph = null;
let image = null; // the Blob that is shown
let seen = null; // the network's input, a canvas
let lazy = false; // true if layers are requested as they come into view
let budget = 1_000_000; // feature-map values per request then; less if the server's limit is lower
let times = {};

const classification = new Newest(async (blob, signal) => {
  const started = performance.now();
  const answer = await guarded(() => ask(`v1/classify?model=${address()}`, { body: blob, signal }), refreshLive);
  if (blob !== image) return;
  if (!answer) return forget();
  showPredictions(answer.results[0].predictions, performance.now() - started);
  await new Promise((resolve) => setTimeout(resolve, PAUSE_MS));
});

const inspection = new Newest(async (blob, signal) => {
  const started = performance.now();
  const last = graph.nodes.at(-1).name;
  let answer = await guarded(() => maps(blob, lazy ? [last] : ["*"], signal), refresh, { lazily: true });
  if (answer === "too many") {
    lazy = true;
    answer = await guarded(() => maps(blob, [last], signal), refresh);
  }
  if (blob !== image) return;
  if (!answer) return forget();
  times.maps = performance.now() - started;
  await showMaps(answer);
  if (lazy) fill.ask(null);
});

// Layer by layer, those in view first, until all in view are complete.
const fill = new Newest(async (_, signal) => {
  for (let names; image && (names = network.missing()).length; ) {
    const blob = image;
    const some = someOf(names);
    const answer = await guarded(() => maps(blob, some, signal), refresh, { lazily: true });
    if (answer === "too many" && some.length === 1) {
      network.card(some[0]).tooLarge = true;
      notice.tell(`The layer ${some[0]} alone has more values than this server sends in one answer.`);
    } else if (answer === "too many") budget = some.reduce((sum, name) => sum + network.card(name).length, 0) / 2;
    else if (!answer || blob !== image) return;
    else network.take(answer);
  }
});

const network = new Network(find("flow"), {
  probe: showProbe,
  open: (card, index) => channel.open(card, index),
  want: () => lazy && image && fill.ask(null),
  look: () => {
    const style = getComputedStyle(document.documentElement);
    const colours = ["frame", "positive", "negative"].map((name) => style.getPropertyValue(`--${name}`));
    const [frame, positive, negative] = colours;
    return { palette: find("palette").value, dark: darkness.matches, frame, positive, negative };
  },
});
const channel = new Channel(find, {
  drawSeen,
  field: (...unit) => network.receptiveFields.field(...unit),
  image: () => image,
  path: () => `v1/models/${address()}`,
});
const source = new Source(find, {
  changed: (blob, finished) => {
    image = blob;
    if (finished) refresh();
    else refreshLive();
  },
  cleared: empty,
});

function address() {
  return encodeURIComponent(`${model.name}:${model.version}`);
}

function maps(body, names, signal) {
  const layers = names[0] === "*" ? "" : `&layers=${names.map(encodeURIComponent).join(",")}`;
  return ask(`v1/models/${address()}/feature-maps?values=tiles${layers}`, { body, signal });
}

function someOf(names) {
  let total = 0;
  return names.filter((name, index) => {
    total += network.card(name).length;
    return index === 0 || total <= budget;
  });
}

/** Runs a request; shows an error and returns null if the server refuses. */
async function guarded(request, again, { lazily = false } = {}) {
  try {
    const answer = await request();
    notice.settle();
    return answer;
  } catch (error) {
    if (!(error instanceof Refusal)) throw error;
    if (lazily && error.code === "too_many_values") return "too many";
    notice.refuse(error, again);
    return null;
  }
}

async function start() {
  const answer = await guarded(() => ask("v1/models"), start);
  if (!answer) return;
  const failed = answer.failed.map(({ artifact, reason }) => `${artifact} is not served: ${reason}`);
  if (!answer.models.length) failed.unshift("No model is served yet; `convscope export` writes one.");
  if (failed.length) notice.tell(failed.join(" "));
  if (!answer.models.length) return;
  const select = find("model");
  const option = ({ name, version }) => new Option(`${name} · version ${version}`, `${name}:${version}`);
  select.replaceChildren(...answer.models.map(option));
  select.disabled = false;
  const choose = () => {
    const wanted = new URLSearchParams(location.hash.slice(1)).get("model");
    const known = answer.models.findLast((entry) => [entry.name, `${entry.name}:${entry.version}`].includes(wanted));
    showModel(known ?? answer.models.at(-1));
  };
  select.onchange = () => (location.hash = `model=${select.value}`);
  onhashchange = choose;
  choose();
}

async function showModel(entry) {
  for (const job of [classification, inspection, fill]) job.drop();
  model = entry;
  lazy = false;
  find("model").value = `${entry.name}:${entry.version}`;
  showFacts(entry);
  const path = `v1/models/${address()}`;
  const both = await guarded(() => Promise.all([ask(`${path}/graph`), ask(`${path}/labels`)]), () => showModel(entry));
  if (!both || model !== entry) return;
  [graph] = both;
  network.show(graph, both[1].labels);
  find("filter").value = "";
  find("fold").hidden = !network.hasBlocks;
  nameFold();
  source.prepare(entry);
  const total = graph.nodes.reduce((sum, node) => sum + node.parameters, 0);
  find("provenance").textContent = `${graph.nodes.length} layers, ${total.toLocaleString("en")} parameters`;
  find("seen-size").textContent = `${entry.input.height}×${entry.input.width}`;
  if (!entry.inspectable) notice.tell("This model was exported without model.onnx: its layers cannot be shown.");
  refresh();
}

function showFacts({ network: kind, input, dataset, metrics, file, engine, device, classes }) {
  const accuracy = metrics?.test?.accuracy;
  const facts = {
    network: kind,
    input: `${input.height}×${input.width} ${input.mode === "L" ? "grey" : "colour"}`,
    classes,
    "trained on": dataset,
    "test accuracy": accuracy === undefined ? null : percent(accuracy),
    "served by": [...new Set([file, engine, device])].join(", "),
  };
  const known = Object.entries(facts).filter(([, value]) => value);
  find("facts").replaceChildren(...known.map(([name, value]) => pair(name, value)));
}

function pair(name, value) {
  const box = document.createElement("div");
  box.append(element("dt", "", name), element("dd", "", value));
  return box;
}

function refreshLive() {
  if (image && model) classification.ask(image);
}

function refresh() {
  refreshLive();
  if (image && graph && model.inspectable) inspection.ask(image, { abort: true });
}

/** Resets to the state before any image. */
function empty() {
  for (const job of [classification, inspection, fill]) job.drop();
  image = null;
  forget();
}

/** Clears the results of an image that was removed, or whose successor the server refused. */
function forget() {
  seen = null;
  times = {};
  network.take(null);
  drawSeen(find("seen"), 0, null);
  find("answer").replaceChildren(invitation);
  for (const id of ["timing", "spoken"]) find(id).textContent = "";
}

async function showMaps(answer) {
  const shown = image;
  const picture = await Picture.decode(answer.image);
  if (shown !== image) return;
  seen = picture.merged(model.input.mode === "L" ? 1 : 3);
  drawSeen(find("seen"), 0, null);
  network.take(answer);
  if (find("channel").open) channel.draw();
  const { file, maximum_difference: difference } = answer.served;
  find("provenance").textContent =
    file === answer.file
      ? `computed by ${answer.file}, the file that is being served`
      : `computed by ${answer.file}; ${file} is served, and its probabilities differ by at most ${short(difference)}`;
  showTimes();
}

/** Draws the network's input, `side` CSS pixels wide (0: as wide as its frame), and outlines a field on it. */
function drawSeen(canvas, side, field) {
  const { height, width } = model.input;
  const room = side || find("seen").parentElement.clientWidth;
  const zoom = room / Math.max(height, width);
  const context = prepare(canvas, width * zoom, height * zoom);
  if (!seen) return;
  context.imageSmoothingEnabled = zoom < 1;
  context.drawImage(seen, 0, 0, width * zoom, height * zoom);
  if (!field) return;
  const { left, top, right, bottom } = field;
  const [x, y, across, down] = [left, top, right - left + 1, bottom - top + 1].map((length) => length * zoom);
  outline(context, x + 1.5, y + 1.5, across - 3, down - 3);
}

function showPredictions(predictions, elapsedMs) {
  drawPredictions(find("answer"), predictions);
  find("spoken").textContent = `Prediction: ${predictions[0].label}, ${percent(predictions[0].probability)}`;
  times.classified = elapsedMs;
  showTimes();
}

function showTimes() {
  const parts = [];
  if (times.classified !== undefined) parts.push(`classified in ${times.classified.toFixed(0)} ms`);
  if (times.maps !== undefined) parts.push(`layers in ${times.maps.toFixed(0)} ms`);
  find("timing").textContent = parts.join(" · ");
}

function showProbe(probe) {
  const readout = find("readout");
  readout.hidden = !probe;
  if (!model) return;
  drawSeen(find("seen"), 0, probe?.field ?? null);
  if (!probe) return;
  const { card, unit, spot, field } = probe;
  const { channel: index, row, column } = unit;
  const bars = card.kind === "bars";
  const place = bars ? `value ${Math.max(index, column)}` : `channel ${index} · row ${row} · column ${column}`;
  const value = card.valueAt(unit);
  const reading = value ? ` ${value.exact ? "=" : "≈"} ${short(value.value)}` : "";
  readout.replaceChildren(element("strong", "", place + reading), describeField(field));
  const { width, height } = readout.getBoundingClientRect();
  const x = Math.min(spot.x + 16, innerWidth - width - 8);
  const y = spot.y + 20 + height > innerHeight ? spot.y - height - 14 : spot.y + 20;
  readout.style.transform = `translate(${Math.max(8, x)}px, ${y}px)`;
}

function nameFold() {
  find("fold").textContent = network.allOpen ? "Close all blocks" : "Open all blocks";
}

function connectControls() {
  find("filter").oninput = ({ target }) => (find("nothing").hidden = network.filter(target.value) > 0);
  find("palette").onchange = () => network.repaint();
  find("fold").onclick = () => {
    network.fold(!network.allOpen);
    nameFold();
  };
  darkness.addEventListener("change", () => network.repaint());
  addEventListener("resize", () => {
    if (model) drawSeen(find("seen"), 0, null);
    channel.draw();
  });
}

const invitation = find("answer").firstElementChild;
connectControls();
start();
