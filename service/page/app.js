// The page: selects the model, takes the image, queries the server, keeps the state, and starts the views.

import { Picture } from "./core/canvas.js";
import { boxes, percent, short } from "./core/dom.js";
import { follow, go, where } from "./core/router.js";
import { Newest, Refusal, ask } from "./core/server.js";
import { Store } from "./core/store.js";
import { drawPredictions } from "./views/input/predictions.js";
import { Guide } from "./views/guide/guide.js";
import { Camera } from "./views/input/camera.js";
import { drawInput } from "./views/input/seen.js";
import { Samples } from "./views/input/samples.js";
import { Source } from "./views/input/source.js";
import { Details, describeAll } from "./views/layers/details.js";
import { Network } from "./views/layers/network.js";
import { showReadout } from "./views/layers/readout.js";
import { Notice } from "./views/notice/notice.js";
import { MapView } from "./views/map/map.js";
import { Tabs } from "./views/tabs/tabs.js";
import { UnitView } from "./views/unit/unit.js";

const PAUSE_MS = 50; // between two classifications while drawing
const AT_ONCE = 8_000_000; // values in one answer, a server's default limit; more are asked for as they come into view
const TABS = ["layers", "why", "compare", "numbers", "lab"];
const LATE = { // views that are loaded when their tab is first shown
  why: () => import("./views/why/why.js").then(({ WhyView }) => WhyView),
  compare: () => import("./views/compare/compare.js").then(({ CompareView }) => CompareView),
  numbers: () => import("./views/numbers/numbers.js").then(({ NumbersView }) => NumbersView),
  lab: () => import("./views/lab/lab.js").then(({ LabView }) => LabView),
};
const find = (id) => document.getElementById(id);
const notice = new Notice(find);
const darkness = matchMedia("(prefers-color-scheme: dark)");

/**
 * models: of GET /v1/models; model: the chosen one; graph, labels: of that model;
 * image: the Blob that is shown; finished: false while a stroke is being drawn;
 * seen: the network's input, a canvas; seenOf: the image that it is of; predictions: of classify;
 * refused: the image if the server refused it or the model;
 * maps: the last answer with feature maps, as tiles;
 * tab: the view that is shown; unit: {layer, index} that is open, or null.
 */
const store = new Store({
  models: [],
  model: null,
  graph: null,
  labels: [],
  image: null,
  finished: true,
  seen: null,
  seenOf: null,
  refused: null,
  predictions: null,
  maps: null,
  tab: TABS[0],
  unit: null,
});

let lazy = false; // true if layers are requested as they come into view
let budget = 1_000_000; // feature-map values per request then; less if the server's limit is lower
let times = {};

/** What views may do besides reading the store. */
const page = {
  store,
  find,
  drawSeen,
  /** The path of the chosen model, such as v1/models/lenet%3A1. */
  path: () => `v1/models/${address()}`,
  /** A request whose errors are shown; null if the server refuses. `again` repeats it, see Notice. */
  ask: (path, options, again = null) => guarded(() => ask(path, options), again),
  /** The pixels of the input that a position of a layer sees. */
  field: (node, row, column) => network.receptiveFields.field(node, row, column),
  /** Shows a layer among the layers. */
  jump: (name, options) => {
    go({ tab: TABS[0] });
    if (network.card(name)?.element.hidden) showAll();
    network.jump(name, options);
  },
  /** Asks for the maps of one layer, where large networks have them on demand; false if they do not come. */
  load: async (name) => {
    const [image, graph] = [store.get("image"), store.get("graph")];
    const answer = await guarded(() => maps(image, [name]), null, { lazily: true });
    const current = image === store.get("image") && graph === store.get("graph");
    if (answer && answer !== "too many" && current) take(answer);
    return Boolean(answer);
  },
  /** Opens a unit, if there is an image: `index` is [channel, row, column] of a feature map, or [element]. */
  open: (layer, index) => {
    if (store.get("image") && store.get("model").inspectable) go({ layer, index: index.join(",") });
  },
  look,
};

const classification = new Newest(async (blob, signal) => {
  const started = performance.now();
  const answer = await guarded(() => ask(`v1/classify?model=${address()}`, { body: blob, signal }), classifyAgain);
  if (blob !== store.get("image")) return;
  if (!answer) return forget(blob);
  showPredictions(answer.results[0].predictions, performance.now() - started);
  await new Promise((resolve) => setTimeout(resolve, PAUSE_MS));
});

const inspection = new Newest(async (blob, signal) => {
  const started = performance.now();
  const last = store.get("graph").nodes.at(-1).name;
  let answer = await guarded(() => maps(blob, lazy ? [last] : ["*"], signal), repeat, { lazily: true });
  if (answer === "too many") {
    lazy = true;
    answer = await guarded(() => maps(blob, [last], signal), repeat);
  }
  if (blob !== store.get("image")) return;
  if (!answer) return forget(blob);
  times.maps = performance.now() - started;
  await showMaps(answer, signal);
  if (lazy) fill.ask(null);
});

// Layer by layer, those in view first, until all in view are complete.
const fill = new Newest(async (_, signal) => {
  for (let names; store.get("image") && (names = network.missing()).length; ) {
    const blob = store.get("image");
    const some = someOf(names);
    const answer = await guarded(() => maps(blob, some, signal), repeat, { lazily: true });
    if (answer === "too many" && some.length === 1) {
      network.card(some[0]).tooLarge = true;
      notice.tell(`The layer ${some[0]} alone has more values than this server sends in one answer.`);
    } else if (answer === "too many") budget = some.reduce((sum, name) => sum + network.card(name).length, 0) / 2;
    else if (!answer || blob !== store.get("image")) return;
    else take(answer);
  }
});

const network = new Network(find("flow"), {
  probe: showProbe,
  open: (card, index) => page.open(card.node.name, index),
  want: () => lazy && store.get("image") && fill.ask(null),
  jumped: (name) => map.settle(name),
  details: (card) => new Details(card, page),
  look,
});
const source = new Source(find, {
  changed: (blob, finished) => {
    camera.close();
    store.set({ image: blob, finished });
    repeat();
  },
  cleared: empty,
});
new Samples(find("samples"), page, (file) => source.take(file));
new Guide(find);
const camera = new Camera(find, (file) => source.take(file));
const unit = new UnitView(page, (name) => network.card(name));
const map = new MapView(find("map"), page);
new Tabs(find("tabs"), store);
store.watch(["tab"], showTab);

const loaded = new Set();
const retries = Object.fromEntries(Object.keys(LATE).map((tab) => [tab, () => showTab({ tab })]));

async function showTab({ tab }) {
  if (!(tab in LATE) || loaded.has(tab)) return;
  loaded.add(tab);
  try {
    const View = await LATE[tab]();
    store.late(() => new View(find(`panel-${tab}`), page));
    notice.settle(notice.refusals, retries[tab]);
  } catch (error) {
    loaded.delete(tab);
    const refusal = new Refusal(0, "unreachable", `This view could not be loaded: ${error.message}`);
    notice.refuse(refusal, retries[tab]);
  }
}

function look() {
  const style = getComputedStyle(document.documentElement);
  const colour = (name) => style.getPropertyValue(`--${name}`);
  const [frame, positive, negative] = ["frame", "positive", "negative"].map(colour);
  return { palette: find("palette").value, dark: darkness.matches, frame, positive, negative };
}

function address() {
  const { name, version } = store.get("model");
  return encodeURIComponent(`${name}:${version}`);
}

function maps(body, names, signal) {
  const layers = names[0] === "*" ? "" : `&layers=${names.map(encodeURIComponent).join(",")}`;
  return ask(`${page.path()}/feature-maps?values=tiles${layers}`, { body, signal });
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
  const refusals = notice.refusals;
  try {
    const answer = await request();
    notice.settle(refusals, again);
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
  store.set({ models: answer.models });
  const select = find("model");
  const option = ({ name, version }) => new Option(`${name} · version ${version}`, `${name}:${version}`);
  select.replaceChildren(...answer.models.map(option));
  select.disabled = false;
  select.onchange = () => go({ model: select.value, layer: null, index: null });
  follow(arrive);
  arrive(where());
}

/** Shows what the address says. */
function arrive({ model: wanted, tab, layer, index }) {
  const models = store.get("models");
  const known = models.findLast((entry) => [entry.name, `${entry.name}:${entry.version}`].includes(wanted));
  store.set({ tab: TABS.includes(tab) ? tab : TABS[0] });
  const entry = known ?? models.at(-1);
  if (entry !== store.get("model")) showModel(entry);
  const places = (index ?? "").split(",").map(Number);
  store.set({ unit: layer && index && places.every(Number.isInteger) ? { layer, index: places } : null });
}

const reload = () => store.get("graph") || opening.ask(store.get("model"), { abort: true });

function showModel(entry) {
  for (const job of [classification, inspection, fill]) job.drop();
  store.set({ model: entry, graph: null, labels: [] });
  forget();
  lazy = false;
  find("model").value = `${entry.name}:${entry.version}`;
  find("provenance").textContent = "";
  showFacts(entry);
  opening.ask(entry, { abort: true });
}

const opening = new Newest(async (entry, signal) => {
  const parts = ["graph", "labels"].map((part) => `${page.path()}/${part}`);
  const both = await guarded(() => Promise.all(parts.map((path) => ask(path, { signal }))), reload);
  if (!both) return store.set({ refused: store.get("image") });
  const [graph, { labels }] = both;
  const values = graph.nodes.reduce((sum, { shape }) => sum + shape.reduce((a, b) => a * b, 1), 0);
  lazy = values > AT_ONCE;
  network.show(graph, labels, entry.temperature);
  store.set({ graph, labels });
  showAll();
  find("fold").hidden = !network.hasBlocks;
  nameFold();
  source.prepare(entry);
  const total = graph.nodes.reduce((sum, node) => sum + node.parameters, 0);
  const lack = entry.inspectable ? "" : "; exported without model.onnx, so that the layers cannot be shown";
  find("provenance").textContent = `${graph.nodes.length} layers, ${total.toLocaleString("en")} parameters${lack}`;
  find("seen-size").textContent = `${entry.input.height}×${entry.input.width}`;
  refresh();
});

/** Ends the filter of layers. */
function showAll() {
  find("filter").value = "";
  find("nothing").hidden = network.filter("") > 0;
}

function showFacts({ network: kind, input, dataset, metrics, file, engine, device, classes }) {
  const accuracy = metrics?.test?.accuracy;
  const facts = {
    network: kind,
    input: `${input.height}×${input.width} ${input.mode === "L" ? "grey" : "colour"}`,
    classes,
    "trained on": dataset,
    "test accuracy": accuracy === undefined ? null : percent(accuracy),
    "served by": file,
  };
  find("facts").replaceChildren(...boxes(facts));
  find("facts").lastChild.title = `${engine} on ${device}`;
}

function refreshLive() {
  if (store.get("image") && store.get("model")) classification.ask(store.get("image"));
}

const classifyAgain = () => repeat(); // not the same job as `repeat`: the layers may come while the class is refused

/** Asks what the image needs: only its class while it is being drawn. */
function repeat() {
  store.set({ refused: null });
  if (store.get("finished")) refresh();
  else refreshLive();
}

function refresh() {
  refreshLive();
  const { inspectable } = store.get("model") ?? {};
  if (store.get("image") && store.get("graph") && inspectable) inspection.ask(store.get("image"), { abort: true });
}

/** Resets to the state before any image. */
function empty() {
  for (const job of [classification, inspection, fill]) job.drop();
  store.set({ image: null, finished: true });
  forget();
}

/** Clears the results: of an image that was removed or refused, or of another model. */
function forget(refused = null) {
  times = {};
  network.take(null);
  store.set({ seen: null, maps: null, predictions: null, refused });
  drawSeen(find("seen"), 0, null);
  find("answer").replaceChildren(invitation);
  for (const id of ["timing", "spoken", "normality"]) find(id).textContent = "";
}

function take(answer) {
  network.take(answer);
  find("normality").textContent = describeAll(network.layers, answer.references, store.get("graph").nodes.length);
  store.set({ maps: answer });
}

async function showMaps(answer, signal) {
  const shown = store.get("image");
  const picture = await Picture.decode(answer.image);
  if (signal.aborted || shown !== store.get("image")) return;
  store.set({ seen: picture.merged(store.get("model").input.mode === "L" ? 1 : 3), seenOf: shown });
  drawSeen(find("seen"), 0, null);
  if (lazy) network.take(null); // the other layers are those of the image before
  take(answer);
  const { file, maximum_difference: difference } = answer.served;
  find("provenance").textContent =
    file === answer.file
      ? `computed by ${answer.file}, the file that is being served`
      : `computed by ${answer.file}; ${file} is served, and its probabilities differ by at most ${short(difference)}`;
  showTimes();
}

/** Draws the network's input, `side` CSS pixels wide (0: as wide as its frame), and outlines a field on it. */
function drawSeen(canvas, side, field) {
  const room = side || find("seen").parentElement.clientWidth;
  drawInput(canvas, room, { ...store.get("model").input, seen: store.get("seen") }, field);
}

function showPredictions(predictions, elapsedMs) {
  drawPredictions(find("answer"), predictions);
  find("spoken").textContent = `Prediction: ${predictions[0].label}, ${percent(predictions[0].probability)}`;
  times.classified = elapsedMs;
  store.set({ predictions });
  showTimes();
}

function showTimes() {
  const parts = [];
  if (times.classified !== undefined) parts.push(`classified in ${times.classified.toFixed(0)} ms`);
  if (times.maps !== undefined) parts.push(`layers in ${times.maps.toFixed(0)} ms`);
  find("timing").textContent = parts.join(" · ");
}

function showProbe(probe) {
  if (store.get("model")) drawSeen(find("seen"), 0, probe?.field ?? null);
  showReadout(find("readout"), probe);
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
    if (store.get("model")) drawSeen(find("seen"), 0, null);
    unit.draw();
  });
}

const invitation = find("answer").firstElementChild;
connectControls();
start();
